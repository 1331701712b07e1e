"""Grid search over learning rules, architectures and learning rates: `python tune.py --help`."""

import sys

from bpfree.cli import answer, tune

if __name__ == "__main__":
    sys.exit(answer.run(tune.main))
