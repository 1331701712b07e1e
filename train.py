"""One training run: `python train.py --help`."""

import sys

from bpfree.cli import answer, train

if __name__ == "__main__":
    sys.exit(answer.run(train.main))
