"""python -m bpfree.report: the report page."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from bpfree.cli import answer
from bpfree.errors import UserError

PROGRAM = (
    "python -m bpfree.report <dir> [<dir> ...]: writes the report page of an experiment.\n\n"
    "A directory is the one that was given to tune.py, or that of one of its projects; the experiment may\n"
    "be finished, running or crashed. Several are shown side by side on one page. The page is one HTML\n"
    "file that needs neither network nor server."
)
_PAGE = "report.html"


def main(argv: list[str]) -> int:
    """Writes the page and says where; see `PROGRAM`.

    Raises:
        UserError: for a mistake in the arguments, or a directory without an experiment.
    """
    known = flags.FlagValues()
    help = f"the page [{_PAGE} in the directory; of several in the current one]"
    flags.DEFINE_string("output", None, help, flag_values=known)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=known)
    try:
        directories = known(list(argv))[1:]
    except flags.Error as error:
        raise UserError(f"{str(error).rstrip('.')}; see --help.") from error
    if known["help"].value:
        answer.show(f"{PROGRAM}\n\nflags:\n{known.get_help()}")
        return 0
    if not directories:
        raise UserError("No experiment to report on: give its directory, e.g. runs/first.")
    home = Path(directories[0]) if len(directories) == 1 else Path()
    file = Path(known["output"].value or home / _PAGE)

    from bpfree.reporting import frames
    from bpfree.tuning.records import check_place

    for directory in directories:  # a mistake is answered before Bokeh is imported
        frames.projects(directory)
    check_place(file.parent)

    from bpfree.reporting import page

    page.write(directories, file)
    print(file)
    return 0
