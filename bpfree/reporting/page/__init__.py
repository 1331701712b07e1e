"""The report page: one self-contained HTML file about an experiment, or several side by side.

`project` reads the records; `sentences`, `tables` and `drawings` (with `charts`) are what is said, listed and
drawn; `page.html`, `page.css` and `page.js` show it, with Bokeh's script in the same file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup

from bpfree.errors import UserError
from bpfree.reporting.frames import projects
from bpfree.reporting.page import drawings, sentences, tables
from bpfree.reporting.page.project import Project
from bpfree.tuning.records import write_atomic

GENERATOR = "bpfree.report"


def write(directories: Sequence[str | os.PathLike], file: str | os.PathLike) -> None:
    """Writes the page of one or several experiments, as a whole or not at all.

    Args:
        directories: experiments' folders or those of projects; finished, running or crashed.
        file: the page.

    Raises:
        UserError: there is no experiment in one of them, or `file` is there and no such page.
    """
    path = Path(file)
    # Path's own methods raise for a name that is too long, which `write_atomic` answers.
    if os.path.isdir(path) or os.path.exists(path) and not _is_page(path):
        raise UserError(f"{path} exists and is no report page: give another --output.")
    write_atomic(path, render(directories))


def render(directories: Sequence[str | os.PathLike]) -> str:
    """The page as text.

    Raises:
        UserError: there is no experiment in one of the directories.
    """
    found = {e.path.resolve(): e for directory in directories for e in projects(directory)}
    shown = [Project(experiment) for experiment in found.values()]
    for project, name in zip(shown, _names([project.path for project in shown]), strict=True):
        project.name = name
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # Bokeh refers back to what came before: keys keep their order.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    template = environment.from_string(_resource("page.html"))
    return template.render(
        generator=GENERATOR,
        title=" · ".join(project.name for project in shown),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        projects=[_view(project) for project in shown],
        side_by_side=tables.side_by_side(shown) if len(shown) > 1 else None,
        css=Markup(_resource("page.css")),
        scripts=[Markup(script) for script in (*_bokeh(), _resource("page.js"))],
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, those that repeat with as many of their parents as tell them apart."""

    def repeats(path: Path, depth: int) -> bool:
        return sum(other.parts[-depth:] == path.parts[-depth:] for other in paths) > 1

    depths = [next(d for d in count(1) if not repeats(path, d)) for path in paths]
    return ["/".join(path.parts[-d:]) for path, d in zip(paths, depths, strict=True)]


def _view(project: Project) -> dict[str, Any]:
    """What the template shows of a project."""
    return {
        "name": project.name,
        "objective": project.label(project.objective),
        "verdict": sentences.verdict(project),
        "figures": sentences.figures(project),
        "counts": sentences.counts(project),
        "caveats": list(sentences.caveats(project)),
        "missing": list(sentences.missing(project)),
        "chosen": tables.chosen(project),
        "comparisons": tables.comparisons(project),
        "front": tables.front(project) if len(project.board) else None,
        "groups": list(drawings.groups(project)),
        "heat_maps": list(tables.heat_maps(project)),
        "costs": (tables.costs(project), drawings.costs(project)) if len(project.board) else None,
        "trials": tables.trials(project),
        "failures": tables.failures(project),
        "facts": tables.facts(project),
        "settings": tables.settings(project),
    }


def _bokeh() -> list[str]:
    """Bokeh's core alone, from the installed package: no widgets, tables or WebGL."""
    return Resources(mode="inline", components=["bokeh"]).js_raw


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}"'.encode() in file.read(2000)
