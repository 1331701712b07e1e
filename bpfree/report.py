"""The report page of an experiment, or of several side by side: `python -m bpfree.report --help`."""

import sys

from bpfree.cli import answer, report

if __name__ == "__main__":
    sys.exit(answer.run(report.main))
