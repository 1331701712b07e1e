"""A sweep's process replaces itself when its memory has grown, and nobody can tell from what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from measured import MEASURED

from bpfree.cli import renewal
from bpfree.cli.page import Page
from bpfree.tuning.progress import Progress
from bpfree.tuning.records import Experiment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.once


@pytest.fixture
def process(monkeypatch):
    """Memory and age of a process that took 10 s to start."""
    state = {"memory": 1000, "age": 10.0}
    monkeypatch.setattr(renewal, "_STARTED", 0.0)
    monkeypatch.setattr(renewal, "resident", lambda: state["memory"])
    monkeypatch.setattr(renewal.time, "monotonic", lambda: state["age"])
    return state


def due(check):
    try:
        check()
    except renewal.Due:
        return True
    return False


def test_due_when_memory_has_grown_since_the_first_trial(process):
    check = renewal.Renewal()
    process |= {"memory": 5000, "age": 100.0}  # the first model, which every process has
    assert not due(check)
    process["memory"] = 5400
    assert not due(check)
    process["memory"] = 5600
    assert due(check)


def test_starting_takes_no_more_time_than_working(process):
    check = renewal.Renewal()
    assert not due(check)
    process |= {"memory": 9000, "age": 19.0}
    assert not due(check)
    process["age"] = 21.0
    assert due(check)


def test_memory_that_nobody_measures_is_never_due(process):
    check = renewal.Renewal()
    process |= {"memory": 0, "age": 1e6}
    assert not due(check) and not due(check)


def test_memory_is_what_the_system_says():
    before = renewal.resident()
    block = bytearray(os.urandom(1 << 26))
    assert renewal.resident() - before == pytest.approx(len(block) / 1024, rel=0.2)


def test_the_same_command_begins_nothing_anew(monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda *command: called.append(command))
    command = ["python3", "-X", "dev", "tune.py", "--lr=0.1", "--reset_training"]
    for _ in range(2):
        monkeypatch.setattr(sys, "orig_argv", command)
        renewal.renew()
        program, command = called[-1]
        assert program == sys.executable
    assert called[0] == called[1]
    assert command == ["python3", "-X", "dev", "tune.py", "--lr=0.1", "--reset_training"] + [
        "--noreset_training"
    ]


def test_trials_on_record_are_told_of_in_one_line(tmp_path, capsys):
    regime = type("Regime", (), {"epochs": 1, "objective": Objective()})
    trials = [Experiment(tmp_path).trial(index, {"lr": 0.1 * index}) for index in range(4)]
    for trial in trials:
        trial.complete(float(trial.index), [float(trial.index)])
    with Progress(1, regime) as progress:
        progress.wave_began(4, 0, 1)
        progress.trial_ended(trials[0])
        progress.trial_ended(trials[1])
        progress.trial_began(trials[2])
        progress.epoch_ended(trials[2], 0, {"epoch": 1})
        progress.trial_ended(trials[2])
        progress.trial_ended(trials[3])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0:2] for line in lines] == [
        ["trials on record", "2/4"],
        ["trial 3/4", "lr 0.2"],
        ["trials on record", "4/4"],
    ]
    assert "best 0 (lr 0)" in lines[0]


def test_trials_are_told_apart_by_what_is_swept(tmp_path, capsys):
    regime = type("Regime", (), {"epochs": 1, "objective": Objective()})
    values = {"algorithm": "dfa", "lr": 0.1, "batch_size": 10, "reg_rate": 0.5}
    trial = Experiment(tmp_path).trial(0, values)
    with Progress(1, regime, swept=["lr", "reg_rate"]) as progress:
        progress.wave_began(1, 0, 1)
        progress.trial_began(trial)
        trial.complete(2.0, [2.0])
        progress.trial_ended(trial)
    told = "dfa lr 0.1 reg_rate 0.5"
    line = capsys.readouterr().out
    assert f"trial 1/1  {told}  val_loss 2" in line and f"best 2 ({told})" in line


REASON = "ValueError: layer [relu] ends in [/dense], says :x: of [0.4,0.2]"
RULE = "mine:act=[relu],end=[/dense],sigma=[0.4,0.2]"


@pytest.mark.parametrize("terminal", ["0", "1"])
def test_what_comes_from_outside_is_shown_as_it_is(tmp_path, capsys, monkeypatch, terminal):
    """Rich would take brackets for markup: one that closes what is not open is an error of its own."""
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setenv("COLUMNS", "300")
    regime = type("Regime", (), {"epochs": 1, "objective": Objective()})
    trials = [Experiment(tmp_path).trial(index, {"algorithm": RULE}) for index in range(2)]
    with Progress(1, regime, verbose=2, planned=[(2, 0, 1)], further=["[b]"]) as progress:
        progress.wave_began(2, 0, 1)
        for trial in trials:
            progress.trial_began(trial)
            progress.epoch_ended(trial, 0, {"epoch": 1, "a[/b]": 1.0})
            trial.complete(2.0, [2.0]) if trial is trials[0] else trial.fail(REASON)
            progress.trial_ended(trial)
        progress.note("[/note] [bold]")
    told = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert f"trial 1/2  {RULE}  val_loss 2, [b] not measured" in told
    assert f"trial 2/2  {RULE}  failed {REASON}" in told
    assert f"best 2 ({RULE})" in told and "a[/b] 1" in told and "[/note] [bold]" in told
    assert (f"{RULE}, execution 1/1, epoch 1/1" in told) == (terminal == "1")


class Objective:
    name = "val_loss"

    def better_than(self, a, b):
        return a < b


def test_the_page_is_as_old_as_its_file(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(Page, "write", lambda self: pages.append(1))
    Page(tmp_path).on_epoch_end(0)
    (tmp_path / "experiment.json").touch()
    Page(tmp_path).on_epoch_end(0)
    assert not pages
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "experiment.json", (hour_ago, hour_ago))
    Page(tmp_path).on_epoch_end(0)
    assert len(pages) == 1
    (tmp_path / "report.html").touch()
    Page(tmp_path).on_epoch_end(0)
    assert len(pages) == 1


# -- a real sweep, which is due after every trial -------------------------------------------------

RESTLESS = """
import os, sys
sys.path.insert(0, {root!r})
with open({starts!r}, "a") as file:
    print(os.getpid(), *sys.argv[1:], file=file)
from bpfree.cli import answer, renewal, tune
renewal._GROWTH = renewal._PATIENCE = 0
sys.exit(answer.run(tune.main))
"""
SWEEP = ["--algorithm=dfa", "--bw_init=ortho", "--arch=8", "--activation=tanh", "--nobatch_norm"]
SWEEP += ["--reg_rate=0.2", "--lr=0.01", "--lr=0.001", "--lr=0.0001", "--num_epochs=2"]
SWEEP += ["--executions_per_trial=1", "--examples_frac=0.2", "--use_xla=false", "--population=off"]


@pytest.fixture
def restless(tmp_path):
    script, starts = tmp_path / "tune.py", tmp_path / "starts"
    script.write_text(RESTLESS.format(root=str(ROOT), starts=str(starts)))

    (tmp_path / "temporary").mkdir()

    def start(folder, *flags):
        command = [sys.executable, script, f"--experiment_dir={folder}", *SWEEP, *flags]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        )

    start.starts = lambda: [line.split() for line in starts.read_text().splitlines()]
    return start


def files(folder):
    found = sorted(folder.glob("*/trials/**/*"))
    texts = {p.relative_to(folder): p for p in found if p.suffix in (".csv", ".json")}
    contents = {}
    for name, path in texts.items():
        contents[name] = path.read_text()
        if path.suffix == ".json":
            contents[name] = json.loads(contents[name])
            for key in MEASURED:
                contents[name].pop(key, None)
    return contents


@pytest.mark.slow
def test_a_renewed_sweep_equals_one_process(restless, tmp_path):
    process = restless(tmp_path / "renewed", "--reset_training")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    starts = restless.starts()
    assert [int(pid) for pid, *_ in starts] == [process.pid] * 3
    assert [flags[-1] for flags in starts] == ["--reset_training"] + ["--noreset_training"] * 2
    assert [out.count(f"trial {n}/3") for n in (1, 2, 3)] == [1, 1, 1]
    left = [*(tmp_path / "temporary").iterdir()]
    assert not left  # nobody cleans up for a process that was replaced

    alone = [sys.executable, ROOT / "tune.py", f"--experiment_dir={tmp_path / 'alone'}", *SWEEP]
    subprocess.run(alone, check=True, capture_output=True, timeout=600)
    assert files(tmp_path / "renewed") == files(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_renewed_sweep_can_be_stopped(number, code, restless, tmp_path):
    process = restless(tmp_path / "renewed")
    try:
        for line in process.stdout:
            if line.startswith("trial 2/3"):  # printed by the second start
                break
        assert len(restless.starts()) == 2
        process.send_signal(number)
        process.communicate(timeout=600)
        assert process.returncode in (code, -number)
    finally:
        process.kill()
        process.wait()
