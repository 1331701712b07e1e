"""kill -9 in the middle of real sweeps that are no grid: the same trials, the same numbers."""

import signal
import subprocess
import sys

import pytest
from test_kill import ROOT, histories, progress, wait_for

from bpfree.cli import answer, tune

SMALL = [
    "--algorithm=bp", "--algorithm=dfa", "--bw_init=ortho", "--arch=12", "--activation=tanh", "--batch_norm",
    "--reg_rate=0.2", "--lr=0.01", "--lr=0.001", "--lr_schedule=cosine", "--num_epochs=4",
    "--executions_per_trial=2", "--examples_frac=0.1", "--use_xla=false",
]  # fmt: skip
SEARCHES = {
    "hyperband": ["--search=hyperband", "--factor=2", "--lr=0.1", "--lr=0.03"],
    "bayesian": ["--search=bayesian", "--max_trials=11", *[f"--lr=0.0{n}" for n in range(2, 8)]],
    "extended": ["--extend_grid"],
}


def in_process(folder, flags):
    before = signal.getsignal(signal.SIGTERM)
    try:
        return answer.run(tune.main, ["tune.py", f"--experiment_dir={folder}", *SMALL, *flags])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_killed_and_resumed_equals_undisturbed(search, share, tmp_path_factory, tmp_path):
    flags = SEARCHES[search]
    whole = tmp_path_factory.getbasetemp() / search
    if not whole.exists():
        assert in_process(whole, flags) == 0
    command = [
        sys.executable,
        str(ROOT / "tune.py"),
        f"--experiment_dir={tmp_path}",
        *SMALL,
        *flags,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(tmp_path, int(share * progress(whole)), process)
    finally:
        process.kill()
        process.wait()
    assert 0 < progress(tmp_path) < progress(whole)
    assert in_process(tmp_path, flags) == 0
    assert histories(tmp_path) == histories(whole)
    boards = [next(folder.glob("digits_*/leaderboard.csv")) for folder in (tmp_path, whole)]
    assert boards[0].read_bytes() == boards[1].read_bytes()
