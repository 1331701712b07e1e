"""kill -9 at random moments of real sweeps: nothing is lost, nothing is done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bpfree.cli import answer, tune

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, EXECUTIONS = 3, 2
SWEEP = [
    "--algorithm=bp",
    "--algorithm=dfa",
    "--bw_init=ortho",
    "--arch=20",
    "--activation=tanh",
    "--batch_norm",
    "--reg_rate=0.2",
    "--lr=0.01",
    "--lr=0.001",
    f"--num_epochs={EPOCHS}",
    f"--executions_per_trial={EXECUTIONS}",
    "--examples_frac=0.2",
    "--use_xla=false",
]
TRIALS = 4
PATIENCE = 240


def in_process(folder):
    before = signal.getsignal(signal.SIGTERM)
    try:
        return answer.run(tune.main, ["tune.py", f"--experiment_dir={folder}", *SWEEP])
    finally:
        signal.signal(signal.SIGTERM, before)


def start(folder, *command):
    command = command or (sys.executable, str(ROOT / "tune.py"), f"--experiment_dir={folder}")
    return subprocess.Popen(
        [*command, *SWEEP], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def progress(folder):
    """Lines of all histories and finished executions."""
    lines = sum(len(path.read_text().splitlines()) for path in folder.glob("**/history.csv"))
    return lines + len([*folder.glob("**/result.json")])


def wait_for(folder, amount, process):
    """Until so much is recorded; False if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while progress(folder) < amount:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"no {amount} records came"
        time.sleep(0.005)
    return True


def histories(folder):
    files = sorted(folder.glob("*/trials/*/execution-*/history.csv"))
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_process(folder) == 0
    return folder


def assert_as_undisturbed(folder, undisturbed):
    (project,), (expected,) = folder.glob("digits_*"), undisturbed.glob("digits_*")
    assert project.name == expected.name
    trials = [json.loads(path.read_text()) for path in project.glob("trials/*/trial.json")]
    assert sorted(trial["index"] for trial in trials) == [*range(TRIALS)]
    assert {trial["state"] for trial in trials} == {"completed"}
    assert len(histories(folder)) == TRIALS * EXECUTIONS
    for path in histories(folder):
        assert list(pd.read_csv(folder / path)["epoch"]) == [*range(1, EPOCHS + 1)]
    assert histories(folder) == histories(undisturbed)
    board, same = (p / "leaderboard.csv" for p in (project, expected))
    assert board.read_bytes() == same.read_bytes()
    assert not [*project.rglob("*.tmp")]


@pytest.mark.slow
def test_one_kill(undisturbed, tmp_path):
    process = start(tmp_path)
    try:
        assert wait_for(tmp_path, random.Random(1).randint(6, 12), process)
    finally:
        process.kill()
        process.wait()
    assert 0 < progress(tmp_path) < progress(undisturbed)
    assert in_process(tmp_path) == 0
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_many_kills(seed, undisturbed, tmp_path):
    chance, kills = random.Random(seed), 0
    for _ in range(20):
        process = start(tmp_path)
        reached = progress(tmp_path) + chance.randint(1, 9)
        if kills < 4 and wait_for(tmp_path, reached, process):
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        elif process.wait(PATIENCE) == 0:
            break
    assert kills >= 2
    assert_as_undisturbed(tmp_path, undisturbed)


def tuning_child(pid):
    """The running tune.py of this train.bash, or None between two of them."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, IndexError):
            continue
        if parent == pid and any(part.endswith("tune.py") for part in command):
            return int(folder.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the child under /proc")
def test_train_bash_respawns(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("BPFREE_RESTART_PAUSE", "0")
    process = start(tmp_path, str(ROOT / "train.bash"), str(tmp_path))
    try:
        for amount in (3, 14):
            assert wait_for(tmp_path, amount, process)
            child = tuning_child(process.pid)
            os.kill(child, signal.SIGKILL)
            while tuning_child(process.pid) == child:
                time.sleep(0.01)
        assert process.wait(PATIENCE) == 0
    finally:
        process.terminate()
        process.wait()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["crashes"]) == ("completed", 2)
    assert_as_undisturbed(tmp_path, undisturbed)
