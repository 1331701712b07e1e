"""Plugins: a user's Python files, which define rules by being run."""

from __future__ import annotations

import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from bpfree.cli.answer import STOPPED
from bpfree.errors import UserError


def load_plugin(path: str) -> None:
    """Runs a Python file that defines rules; defining one registers it. Says so where it defines none.

    Raises:
        UserError: if there is no such file, or it does not run to its end.
    """
    from bpfree.rules.rule import REGISTRY

    if not Path(path).is_file():
        raise UserError(f"There is no plugin {path!r}: give a Python file that defines rules.")
    spec = spec_from_file_location(Path(path).stem, path)
    if spec is None:
        raise UserError(f"The plugin {path!r} is no Python file: give one whose name ends in .py.")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    before = dict(REGISTRY)
    try:
        spec.loader.exec_module(module)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit as well: the plugin would end the command
        if isinstance(error, SystemExit) and error.code in STOPPED:  # by a signal, not the plugin
            raise
        raise UserError(
            f"The plugin {path!r} failed{_line(path, error)} with {_shown(error)}: repair it."
        ) from error
    if before == REGISTRY:
        print(
            f"The plugin {path!r} defines no rule: one is a subclass of bpfree.rules.Rule with a name.",
            file=sys.stderr,
        )


def _line(path: str, error: BaseException) -> str:
    """Where in the file it happened, if the error knows: the innermost line that is the file's own."""
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        own.append(error.lineno)
    return f" in line {own[-1]}" if own and own[-1] else ""


def _shown(error: BaseException) -> str:
    """`NameError: name 'x' is not defined`, on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split()).rstrip(".:")
