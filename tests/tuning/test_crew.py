"""Sweeps on a Ray cluster of this machine: the files of one process, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from measured import MEASURED

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, EXECUTIONS, TRIALS = 3, 2, 4
SWEEP = [
    "--algorithm=bp",
    "--algorithm=mine",
    "--bw_init=ortho",
    "--arch=8",
    "--activation=tanh",
    "--nobatch_norm",
    "--reg_rate=0.2",
    "--lr=0.01",
    "--lr=0.001",
    f"--num_epochs={EPOCHS}",
    f"--executions_per_trial={EXECUTIONS}",
    "--examples_frac=0.2",
    "--use_xla=false",
    "--tracker=bp_cosine",
]
RAY = ["--workers=ray", "--cpus_per_trial=1"]
PATIENCE = 900
PLUGIN = """
from bpfree.rules.dfa import DirectFeedbackAlignment

class Mine(DirectFeedbackAlignment):
    "DFA by another name."

    name = "mine"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (bpfree[ray])"),
]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "my_rule.py"
    file.write_text(PLUGIN)
    return f"--plugin={file}"


def start(folder, *flags):
    command = [sys.executable, ROOT / "tune.py", f"--experiment_dir={folder}", *SWEEP, *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder.parent
    )


def finish(process):
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def alone(plugin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "runs"
    finish(start(folder, plugin))
    return folder


def files(folder):
    """Everything that trials left, but for times and how often they were begun."""
    contents = {}
    for path in sorted(folder.glob("*/trials/**/*")):
        if not path.is_file():
            continue
        contents[path.relative_to(folder)] = path.read_bytes()
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            for key in (*MEASURED, "attempts", "deaths", "epochs"):
                record.pop(key, None)
            contents[path.relative_to(folder)] = record
    return contents


def assert_as_alone(folder, alone):
    found, expected = files(folder), files(alone)
    assert found.keys() == expected.keys()
    histories = [path for path in found if path.name == "history.csv"]
    assert len(histories) == TRIALS * EXECUTIONS
    for path in found:
        assert found[path] == expected[path], path
    assert len([*folder.glob("*/log/**/*tfevents*")]) == TRIALS * EXECUTIONS


def histories(folder):
    """Lines of all histories on record."""
    return sum(len(p.read_text().splitlines()) for p in folder.glob("*/trials/*/*/history.csv"))


def wait_for_epochs(folder, process):
    deadline = time.monotonic() + PATIENCE
    while not histories(folder):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(pid):
    """A process's children, theirs and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def named(pid):
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode()
    except OSError:
        return ""


def test_the_results_are_those_of_one_process(plugin, alone, tmp_path):
    out = finish(start(tmp_path / "runs", plugin, *RAY))
    assert_as_alone(tmp_path / "runs", alone)
    assert "trial 4/4" in out and "Best hyperparameters" in out


def test_a_killed_worker_loses_little(plugin, alone, tmp_path):
    process = start(tmp_path / "runs", plugin, *RAY)
    try:
        wait_for_epochs(tmp_path / "runs", process)
        workers = [pid for pid in descendants(process.pid) if "ray::work" in named(pid)]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        out = finish(process)
    finally:
        process.kill()
    assert "A worker died in" in out
    assert_as_alone(tmp_path / "runs", alone)


def test_a_killed_driver_is_resumed(plugin, alone, tmp_path):
    process = start(tmp_path / "runs", plugin, *RAY)
    try:
        wait_for_epochs(tmp_path / "runs", process)
    finally:
        process.kill()
        process.wait()
    assert histories(tmp_path / "runs") < TRIALS * EXECUTIONS * (EPOCHS + 1)
    finish(start(tmp_path / "runs", plugin, *RAY))
    assert_as_alone(tmp_path / "runs", alone)


def test_terminated_as_without_workers(plugin, tmp_path):
    process = start(tmp_path / "runs", plugin, *RAY)
    try:
        wait_for_epochs(tmp_path / "runs", process)
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 143
    finally:
        process.kill()


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workers=ray:127.0.0.1:1"], "127.0.0.1:1"),
        (["--workers=ray", "--gpus_per_trial=99"], "99 GPUs"),
    ],
)
def test_what_is_not_there_is_one_sentence(flags, named, plugin, tmp_path):
    process = start(tmp_path / "runs", plugin, *flags)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    said = [line for line in out.splitlines() if line.startswith("tune.py: ")]
    assert len(said) == 1 and named in said[0] and "Traceback" not in out
    assert not (tmp_path / "runs").exists()
