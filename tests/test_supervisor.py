"""train.bash, with a stand-in for tune.py that follows a script of exit codes and signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TRAIN = Path(__file__).resolve().parents[1] / "train.bash"

# Each start notes its arguments, then carries out the next step of plan.json: Python code.
TUNE = """
import json, os, signal, sys, time
from pathlib import Path

here = Path(__file__).parent
flags = sys.argv[1:]
with open(here / "starts.jsonl", "a") as file:
    file.write(json.dumps(flags) + "\\n")
experiment = Path(flags[0].removeprefix("--experiment_dir="))
steps = json.loads((here / "plan.json").read_text())
start = len((here / "starts.jsonl").read_text().splitlines())


def record(text, name):
    path = experiment / "project" / "trials" / "0-abc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(text)


exec(steps[min(start, len(steps)) - 1])
"""

CRASH = "sys.exit(1)"
# With its time, as the real one has it.
BEGIN = "import time; record(f'{time.time_ns()}', '../../experiment.json');"
EPOCH = "record('1,0.5\\n', 'execution-0/history.csv');"
# Says when it is ready for a signal, and takes a moment over the first; every signal is noted.
PATIENT = """
def note(number, frame=None):
    with open(here / "signals", "a") as file:
        file.write(signal.Signals(number).name + "\\n")
    received.append(number)

received = []
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGHUP, note)
(here / "ready").write_text(str(os.getpid()))
moments = 0
while moments < 2:
    moments += bool(received)
    try:
        time.sleep(0.1)
    except KeyboardInterrupt:
        note(signal.SIGINT)
sys.exit(128 + received[0])
"""
STUBBORN = PATIENT.replace("moments < 2", "True")

# Undoes what a shell's `nohup` or `&` around the tests would make the sweep ignore.
HEEDING = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Sandbox:
    """train.bash beside a stand-in for tune.py; `experiment` does not exist at first."""

    def __init__(self, folder):
        self.folder = folder
        self.experiment = folder / "runs" / "mine"
        self.train = Path(shutil.copy(TRAIN, folder))
        (folder / "tune.py").write_text(TUNE)
        self.environment = os.environ | {
            "PYTHON": sys.executable,
            "BPFREE_RESTART_PAUSE": "0",
            "BPFREE_STOP_GRACE": "1",
        }

    def start(self, *flags, plan=(), experiment=None, **options):
        (self.folder / "plan.json").write_text(json.dumps(list(plan)))
        return subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                HEEDING,
                self.train,
                str(experiment or self.experiment),
                *flags,
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, *flags, plan, **options):
        process = self.start(*flags, plan=plan, **options)
        self.output, self.errors = process.communicate(timeout=60)
        return process.returncode

    def starts(self):
        lines = (self.folder / "starts.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def status(self):
        return json.loads((self.experiment / "status.json").read_text())

    def wait_for(self, name):
        path = self.folder / name
        deadline = time.monotonic() + 30
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.02)
        return path.read_text()


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_crash_is_followed_by_a_restart(sandbox):
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    segfault = "os.kill(os.getpid(), signal.SIGSEGV)"
    assert sandbox.run("--dataset=digits", plan=[CRASH, kill, segfault, "pass"]) == 0
    assert sandbox.starts() == [[f"--experiment_dir={sandbox.experiment}", "--dataset=digits"]] * 4
    status = sandbox.status()
    assert status["state"] == "completed"
    assert status["crashes"] == 3
    assert status["exit_code"] == 0
    assert "exit code 137" in sandbox.errors and "exit code 139" in sandbox.errors
    assert all(line.startswith("train.bash: ") for line in sandbox.errors.splitlines()), (
        sandbox.errors
    )


def test_five_crashes_without_progress_end_the_sweep(sandbox):
    assert sandbox.run(plan=["sys.exit(9)"]) == 9
    assert len(sandbox.starts()) == 5
    assert (sandbox.status()["state"], sandbox.status()["exit_code"]) == ("failed", 9)
    assert "giving up" in sandbox.errors


@pytest.mark.parametrize(
    "progress",
    [
        EPOCH,
        "record('{}', 'execution-0/result.json');",
        """record('{"state": "completed"}', 'trial.json');""",
        """record('{"state":"failed"}', 'trial.json');""",
    ],
)
def test_progress_starts_the_count_afresh(sandbox, progress):
    plan = [CRASH] * 4 + [progress + CRASH] + [CRASH]
    assert sandbox.run(plan=plan) == 1
    assert len(sandbox.starts()) == 4 + 1 + 4


def test_records_behind_a_link_are_progress(sandbox):
    there = sandbox.folder / "there"
    there.mkdir()
    link = sandbox.folder / "link"
    link.symlink_to(there)
    plan = [CRASH] * 4 + [EPOCH + CRASH] + [CRASH]
    assert sandbox.run(plan=plan, experiment=link) == 1
    assert len(sandbox.starts()) == 4 + 1 + 4


def test_half_a_record_is_no_progress(sandbox):
    started = """record('{"state": "running"}', 'trial.json');"""
    started += "record('1,0.', 'execution-0/history.csv');"
    assert sandbox.run(plan=[CRASH, started + CRASH, CRASH]) == 1
    assert len(sandbox.starts()) == 5


def test_records_of_an_earlier_sweep_are_no_progress(sandbox):
    assert sandbox.run(plan=[EPOCH]) == 0
    (sandbox.folder / "starts.jsonl").unlink()
    assert sandbox.run(plan=[CRASH]) == 1
    assert len(sandbox.starts()) == 5


def test_repeating_an_epoch_that_was_cut_back_is_no_progress(sandbox):
    cut = "record('', 'execution-0/history.csv');"
    cut += "(experiment / 'project/trials/0-abc/execution-0/history.csv').write_text('');"
    assert (
        sandbox.run(plan=[EPOCH + CRASH, cut + CRASH, EPOCH + CRASH, cut + CRASH, EPOCH + CRASH])
        == 1
    )
    assert len(sandbox.starts()) == 5


def test_no_successful_trial_is_final(sandbox):
    assert sandbox.run(plan=["sys.exit(3)"]) == 3
    assert len(sandbox.starts()) == 1
    assert (sandbox.status()["state"], sandbox.status()["exit_code"]) == ("failed", 3)


def test_mistake_leaves_nothing_behind(sandbox):
    assert sandbox.run("--lr=-1", plan=["sys.exit(2)"]) == 2
    assert len(sandbox.starts()) == 1
    assert not (sandbox.folder / "runs").exists()


def test_mistake_leaves_an_earlier_sweep_as_it_was(sandbox):
    assert sandbox.run(plan=[EPOCH]) == 0
    before = {p: p.read_bytes() for p in sandbox.experiment.rglob("*") if p.is_file()}
    assert sandbox.run("--lr=-1", plan=["sys.exit(2)"]) == 2
    assert {p: p.read_bytes() for p in sandbox.experiment.rglob("*") if p.is_file()} == before


def test_what_ends_a_sweep_that_has_recorded_something_is_no_refused_command(sandbox):
    """A disk that is full, for example."""
    assert sandbox.run(plan=[f"{EPOCH} sys.exit(2)"]) == 2
    assert len(sandbox.starts()) == 1
    assert (sandbox.status()["state"], sandbox.status()["exit_code"]) == ("failed", 2)


@pytest.mark.parametrize("arguments", [[], [""], ["--dataset=digits"]])
def test_missing_directory_is_one_sentence(sandbox, arguments):
    process = subprocess.run([sandbox.train, *arguments], capture_output=True, text=True)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "usage: ./train.bash <experiment_dir>" in process.stderr
    assert not (sandbox.folder / "starts.jsonl").exists()


def test_unusable_directory_is_one_sentence(sandbox):
    file = sandbox.folder / "file"
    file.write_text("mine")
    assert sandbox.run(plan=["pass"], experiment=file) == 2
    assert len(sandbox.errors.splitlines()) == 1
    assert file.read_text() == "mine"


@pytest.mark.parametrize("flags", [["--experiment_dir=other"], ["-experiment_dir", "other"]])
def test_a_second_directory_is_one_sentence(sandbox, flags):
    assert sandbox.run("--lr=0.1", *flags, plan=["pass"]) == 2
    (line,) = sandbox.errors.splitlines()
    assert flags[0] in line and "leave" in line
    assert not (sandbox.folder / "starts.jsonl").exists()
    assert not (sandbox.folder / "runs").exists()


@pytest.mark.parametrize("flag", ["--dry_run", "-dry_run=true", "--help", "-h"])
@pytest.mark.parametrize("code", [0, 1])
def test_an_answer_writes_nothing_and_is_not_repeated(sandbox, flag, code):
    assert sandbox.run("--lr=0.1", flag, plan=[f"sys.exit({code})"]) == code
    assert sandbox.starts() == [[f"--experiment_dir={sandbox.experiment}", "--lr=0.1", flag]]
    assert not (sandbox.folder / "runs").exists()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_needs_no_directory(sandbox, flag):
    (sandbox.folder / "plan.json").write_text('["print(flags[1:])"]')
    asked = [sandbox.train, flag]
    done = subprocess.run(asked, env=sandbox.environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("usage: ./train.bash <experiment_dir> [flags of tune.py]\n")
    assert done.stdout.endswith(f"\n['{flag}']\n")


@pytest.mark.parametrize("flags", [["--nodry_run"], ["--dry_run", "--dry_run=false"]])
def test_no_dry_run_is_a_sweep(sandbox, flags):
    assert sandbox.run(*flags, plan=["pass"]) == 0
    assert sandbox.status()["state"] == "completed"


def test_what_hangs_is_killed_and_started_again(sandbox):
    sandbox.environment["BPFREE_STALL"] = "2"
    assert sandbox.run(plan=[EPOCH + "time.sleep(100)", "pass"]) == 0
    assert len(sandbox.starts()) == 2 and sandbox.status()["crashes"] == 1
    assert "tune.py has recorded nothing for" in sandbox.errors


def test_what_records_in_time_does_not_hang(sandbox):
    sandbox.environment["BPFREE_STALL"] = "3"
    slow = "for _ in range(6):\n    " + EPOCH + " time.sleep(1)"
    assert sandbox.run(plan=[slow]) == 0
    assert len(sandbox.starts()) == 1 and not sandbox.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_nobody_watches_what_has_ended(sandbox, number):
    sandbox.environment["BPFREE_STALL"] = "2"
    process = sandbox.start(plan=[PATIENT if number else "pass"])
    if number:
        sandbox.wait_for("ready")
        process.send_signal(number)
    process.communicate(timeout=30)  # which waits for all that write to its output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("stall", ["soon", "-1", "1.5"])
def test_a_stall_that_is_no_time_is_one_sentence(sandbox, stall):
    sandbox.environment["BPFREE_STALL"] = stall
    assert sandbox.run(plan=["pass"]) == 2
    assert "whole number of seconds" in sandbox.errors and len(sandbox.errors.splitlines()) == 1
    assert not (sandbox.folder / "starts.jsonl").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signal_to_the_supervisor_stops_the_sweep(sandbox, number, code):
    process = sandbox.start(plan=[PATIENT])
    tune = sandbox.wait_for("ready")
    assert sandbox.status()["state"] == "running"
    assert sandbox.status()["pid"] == process.pid
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert sandbox.wait_for("signals").split() == [number.name]
    assert not alive(tune)
    assert len(sandbox.starts()) == 1
    assert (sandbox.status()["state"], sandbox.status()["exit_code"]) == ("interrupted", code)


def test_control_c_reaches_the_sweep_once(sandbox):
    process = sandbox.start(plan=[PATIENT])
    tune = sandbox.wait_for("ready")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert sandbox.wait_for("signals").split() == ["SIGINT"]
    assert not alive(tune)
    assert len(sandbox.starts()) == 1
    assert sandbox.status()["state"] == "interrupted"


def test_sweep_that_ignores_the_signal_is_killed(sandbox):
    process = sandbox.start(plan=[STUBBORN])
    tune = sandbox.wait_for("ready")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not alive(tune)
    assert sandbox.status()["state"] == "interrupted"


def test_signal_to_the_sweep_alone_is_no_crash(sandbox):
    assert sandbox.run(plan=["os.kill(os.getpid(), signal.SIGTERM)"]) == 143
    assert len(sandbox.starts()) == 1
    assert sandbox.status()["state"] == "interrupted"


@pytest.mark.parametrize(
    "flag",
    ["--reset_training", "-reset_training", "--reset_training=true", "-reset_training=1"],
)
def test_sweep_is_wiped_by_the_first_start_only(sandbox, flag):
    assert sandbox.run("--lr=0.1", flag, "--seed=1", plan=[BEGIN + CRASH, CRASH, "pass"]) == 0
    first, *others = [flags[1:] for flags in sandbox.starts()]
    assert first == ["--lr=0.1", flag, "--seed=1"]
    assert others == [["--lr=0.1", "--seed=1"]] * 2
    assert sandbox.status()["flags"] == first


@pytest.mark.parametrize("begin", ["", BEGIN], ids=["nothing", "an earlier sweep"])
def test_sweep_is_wiped_in_spite_of_a_crash_before(sandbox, begin):
    """It counts as wiped once the new one has written its experiment.json, whether or not there was one."""
    assert sandbox.run(plan=[begin + "pass"]) == 0
    (sandbox.folder / "starts.jsonl").unlink()
    plan = [CRASH, CRASH, BEGIN + EPOCH + CRASH, CRASH, "pass"]
    assert sandbox.run("--reset_training", plan=plan) == 0
    assert [start[1:] for start in sandbox.starts()] == [["--reset_training"]] * 3 + [[]] * 2


def test_wiped_records_are_no_measure_of_progress(sandbox):
    assert sandbox.run(plan=[BEGIN + EPOCH * 9]) == 0
    (sandbox.folder / "starts.jsonl").unlink()
    wipe = "import shutil; shutil.rmtree(experiment / 'project');"
    plan = [CRASH, wipe + BEGIN + EPOCH + CRASH, *[EPOCH + CRASH] * 4, "pass"]
    assert sandbox.run("--reset_training", plan=plan) == 0
    assert len(sandbox.starts()) == 7


@pytest.mark.parametrize("flag", [["--flagfile=my.flags"], ["--flagfile", "my.flags"]])
def test_flag_file_cannot_wipe_again(sandbox, flag):
    assert sandbox.run(*flag, "--seed=1", plan=[BEGIN + CRASH, "pass"]) == 0
    assert sandbox.starts()[1][1:] == [*flag, "--seed=1", "--noreset_training"]


def test_wiped_directory_still_gets_its_status(sandbox):
    wipe = "import shutil; shutil.rmtree(experiment)"
    assert sandbox.run("--reset_training", plan=[wipe]) == 0
    assert sandbox.status()["state"] == "completed"


def test_status_records_any_flag_exactly(sandbox):
    odd = [
        '--a="quoted"',
        "--b=two words",
        "--c=gr\u00fc\u00df \u2713",
        "--d=back\\slash",
        "--e=line\nbreak",
    ]
    odd += ["--f=*", "--g=$HOME", "--h='", "", "--i=\x01\t"]
    assert sandbox.run(*odd, plan=["pass"]) == 0
    status = sandbox.status()
    assert status["flags"] == odd == sandbox.starts()[0][1:]
    assert set(status) == {
        "state", "flags", "host", "pid", "started", "updated", "crashes", "exit_code",
    }  # fmt: skip
    assert status["host"] == os.uname().nodename
    assert [path.name for path in sandbox.experiment.iterdir()] == ["status.json"]


def test_paths_are_those_of_the_caller(sandbox):
    elsewhere = sandbox.folder / "else where"
    elsewhere.mkdir()
    report = "print(os.getcwd(), os.environ['PYTHONUNBUFFERED'])"
    assert sandbox.run(plan=[report], experiment="my runs/x", cwd=elsewhere) == 0
    assert sandbox.starts()[0][0] == "--experiment_dir=my runs/x"
    assert sandbox.output == f"{elsewhere} 1\n"
    assert (elsewhere / "my runs" / "x" / "status.json").exists()


def test_environment_beside_the_script_is_preferred(sandbox):
    python = sandbox.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\necho "$0" >> {sandbox.folder}/used\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    assert sandbox.run(plan=["pass"]) == 0
    assert set((sandbox.folder / "used").read_text().split()) == {str(python)}
