"""Workers on a real Ray cluster: the files of one process, whatever is killed, stops or is full."""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from measured import MEASURED

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, EXECUTIONS, TRIALS = 12, 2, 4
FIXED = [
    "--algorithm=bp",
    "--algorithm=mine",
    "--bw_init=ortho",
    "--arch=8",
    "--activation=tanh",
    "--nobatch_norm",
    "--reg_rate=0.2",
    "--lr=0.01",
    "--lr=0.001",
    f"--executions_per_trial={EXECUTIONS}",
    "--examples_frac=0.2",
    "--use_xla=false",
    "--tracker=bp_cosine",
]
GRID = [f"--num_epochs={EPOCHS}"]
# On JAX a grid this small is over in no time once it is compiled: nothing could be killed in it.
APART = [*GRID, "--population=off"]
SEARCHES = {
    "hyperband": ["--num_epochs=4", "--search=hyperband", "--factor=2", "--lr=0.1", "--lr=0.03"],
    "bayesian": [
        *("--num_epochs=3", "--search=bayesian", "--max_trials=10"),
        *("--lr=0.1", "--lr=0.03", "--lr=0.003", "--lr=0.3"),
        *("--objective=val_error", "--objective=train_flops"),
    ],
    "extended": ["--num_epochs=3", "--extend_grid"],
}
RAY = ["--workers=ray", "--cpus_per_trial=1"]
PATIENCE = 900
PLUGIN = """
from bpfree.rules.dfa import DirectFeedbackAlignment

class Mine(DirectFeedbackAlignment):
    "DFA by another name."

    name = "mine"
"""
FULL = """
import errno, os

free, fsync = 40, os.fsync

def full(descriptor):
    global free
    free -= 1
    if free < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(descriptor)

os.fsync = full
"""
IMPATIENT = """
from bpfree.tuning import crew

crew._PATIENCE = 15.0
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


class Sweep:
    """A running tune.py, in a process group of its own like a command at a terminal."""

    def __init__(self, folder, flags, first=""):
        run = f"import runpy\nrunpy.run_path({str(ROOT / 'tune.py')!r}, run_name='__main__')"
        program = ["-c", f"{first}\n{run}"] if first else [ROOT / "tune.py"]
        command = [sys.executable, *program, f"--experiment_dir={folder}", *FIXED, *flags]
        folder.parent.mkdir(exist_ok=True)
        self.folder, self.out = folder, folder.with_name("out")
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=folder.parent, start_new_session=True
            )

    def end(self, code=0):
        """Waits for it, and gives what it said."""
        assert self.process.wait(PATIENCE) == code, self.out.read_text()
        return self.out.read_text()

    def reaches(self, amount):
        """Waits for so many records; false if it ends before."""
        deadline = time.monotonic() + PATIENCE
        while progress(self.folder) < amount:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.out.read_text()
            time.sleep(0.02)
        return True

    def workers(self):
        """Those that are at work on this machine."""
        return [pid for pid in descendants(self.process.pid) if is_worker(pid)]

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def sweep(folder, *flags, first=""):
    running = Sweep(folder, flags, first)
    try:
        yield running
    finally:
        running.kill()


def finish(folder, *flags):
    with sweep(folder, *flags) as running:
        return running.end()


@pytest.fixture(scope="module")
def alone(plugin, tmp_path_factory):
    """What one process leaves, by flags."""

    @cache
    def folder(*flags):
        there = tmp_path_factory.mktemp("alone") / "runs"
        finish(there, plugin, *flags)
        return there

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


def logs(folder):
    """How many files each folder of the logs has, and what the dashboard declares."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data

    counts = {}
    for path in folder.glob("*/log/**/*tfevents*"):
        place = path.parent.relative_to(folder)
        counts[place] = counts.get(place, 0) + 1
    (declared,) = folder.glob("*/log/*tfevents*")
    *_, last = RawEventFileLoader(str(declared)).Load()
    (value,) = Event.FromString(last).summary.value
    experiment = parse_experiment_plugin_data(value.metadata.plugin_data.content)
    experiment.time_created_secs = 0
    return counts, experiment


def assert_as_alone(folder, alone):
    found, expected = files(folder), files(alone)
    assert found.keys() == expected.keys()
    for path in found:
        assert found[path] == expected[path], path
    assert not [*folder.rglob("*.tmp")]


def progress(folder):
    """Lines of all histories on record, and finished executions."""
    lines = sum(len(p.read_text().splitlines()) for p in folder.glob("*/trials/*/*/history.csv"))
    return lines + len([*folder.glob("*/trials/*/*/result.json")])


def processes():
    """The parent of every process there is."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(folder.name)] = int(stat[1])
    return parents


def descendants(pid):
    """A process's children, theirs and so on."""
    parents, found = processes(), [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def is_worker(pid):
    with suppress(OSError):
        return b"ray::work" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    return False


def stop(pids, how=signal.SIGKILL):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def assert_gone(pids):
    deadline = time.monotonic() + 60
    while left := processes().keys() & set(pids):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


# ------------------------------------------------------------------------------ equality


@pytest.mark.parametrize("flags", [GRID, APART], ids=["together", "apart"])
def test_the_results_are_those_of_one_process(flags, plugin, alone, tmp_path):
    out = finish(tmp_path / "runs", plugin, *flags, *RAY)
    assert_as_alone(tmp_path / "runs", alone(*flags))
    assert logs(tmp_path / "runs") == logs(alone(*flags))
    assert len([*tmp_path.glob("runs/*/trials/*/*/history.csv")]) == TRIALS * EXECUTIONS
    assert "trial 4/4" in out and "Best hyperparameters" in out
    assert "Ray" not in out and "Warning" not in out


@pytest.mark.parametrize("search", SEARCHES)
def test_other_searches_are_those_of_one_process(search, plugin, alone, tmp_path):
    flags = SEARCHES[search]
    with sweep(tmp_path / "runs", plugin, *flags, *RAY) as running:
        # Trials that one worker has begun go on on another one.
        assert running.reaches(progress(alone(*flags)) // 2)
        stop(running.workers())
        running.end()
    assert_as_alone(tmp_path / "runs", alone(*flags))
    (_, found), (_, expected) = logs(tmp_path / "runs"), logs(alone(*flags))
    assert found == expected


# ------------------------------------------------------------------------------ kills


def test_a_killed_worker_loses_little(plugin, alone, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY) as running:
        assert running.reaches(4)
        workers = running.workers()
        assert workers
        stop(workers)
        out = running.end()
    assert "A worker died in" in out
    assert_as_alone(tmp_path / "runs", alone(*APART))


def test_a_killed_driver_is_resumed_and_takes_its_workers_along(plugin, alone, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY) as running:
        assert running.reaches(4)
        at_work = running.workers()
    assert at_work
    assert_gone(at_work)  # Ray's own helpers notice after a minute or two
    assert progress(tmp_path / "runs") < progress(alone(*APART))
    finish(tmp_path / "runs", plugin, *APART, *RAY)
    assert_as_alone(tmp_path / "runs", alone(*APART))


@pytest.mark.parametrize("victims", ["workers", "driver", "both"])
def test_kills_at_random_moments(victims, plugin, alone, tmp_path):
    chance, kills, done = random.Random(victims), 0, False
    while not done:
        with sweep(tmp_path / "runs", plugin, *APART, *RAY) as running:
            reached = progress(tmp_path / "runs")
            while kills < 3 and running.reaches(reached + chance.randint(1, 15)):
                time.sleep(chance.uniform(0, 0.5))
                reached, workers = progress(tmp_path / "runs"), running.workers()
                if victims != "driver":
                    stop(workers)
                if victims != "workers":
                    kills += 1
                    break
                kills += bool(workers)
            else:
                running.end()
                done = True
    assert kills >= 2
    assert_as_alone(tmp_path / "runs", alone(*APART))


# ------------------------------------------------------------------------------ what stops, and is full


def test_a_worker_that_stops_is_given_up(plugin, alone, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY, first=IMPATIENT) as running:
        assert running.reaches(4)
        stopped = running.workers()
        assert stopped
        stop(stopped, signal.SIGSTOP)
        out = running.end()
        assert_gone(stopped)
    assert "A worker was silent for 15 s" in out
    assert_as_alone(tmp_path / "runs", alone(*APART))


def test_a_driver_that_was_stopped_gives_nobody_up(plugin, alone, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY, first=IMPATIENT) as running:
        assert running.reaches(4)
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(20)
        running.process.send_signal(signal.SIGCONT)
        out = running.end()
    assert "A worker" not in out
    assert_as_alone(tmp_path / "runs", alone(*APART))


def test_a_full_disk_is_one_sentence_and_spoils_nothing(plugin, alone, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY, first=FULL) as running:
        out = running.end(code=2)
    assert "no space left on device" in out and "Traceback" not in out
    assert 0 < progress(tmp_path / "runs") < progress(alone(*APART))
    finish(tmp_path / "runs", plugin, *APART, *RAY)
    assert_as_alone(tmp_path / "runs", alone(*APART))


@pytest.fixture
def heeded():
    """Gives processes that are begun an ear for Ctrl-C, which a shell's background ones lack."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_as_without_workers(number, code, heeded, plugin, tmp_path):
    with sweep(tmp_path / "runs", plugin, *APART, *RAY) as running:
        assert running.reaches(4)
        family = descendants(running.process.pid)
        # Ctrl-C reaches all that a terminal has in the foreground.
        how = os.killpg if number == signal.SIGINT else os.kill
        how(running.process.pid, number)
        out = running.end(code)
    assert "Traceback" not in out
    assert_gone(family)


# ------------------------------------------------------------------------------ an existing cluster


class Cluster:
    """Two machines of one CPU each, both of them this one."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        head = [f"--port={self.address.split(':')[1]}", f"--ray-client-server-port={free_port()}"]
        self.head = self.start("--head", *head, "--include-dashboard=false", f"--temp-dir={folder}")
        self.other = self.start(f"--address={self.address}")

    def start(self, *flags):
        run = "from ray.scripts.scripts import main; main()"
        command = [sys.executable, "-c", run, "start", "--block", "--num-cpus=1", *flags]
        out = self.folder / f"out{flags[0]}".replace("/", "")
        with open(out, "w") as file:
            node = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while "runtime started" not in out.read_text():
            assert node.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
        return node

    def workers(self):
        nodes = (self.head.pid, self.other.pid)
        return [pid for node in nodes for pid in descendants(node) if is_worker(pid)]

    def lose(self, node):
        """All of a machine at once."""
        stop([node.pid, *descendants(node.pid)])
        node.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # the names of sockets in it must be short
    there = Cluster(folder)
    yield there
    for node in (there.other, there.head):
        there.lose(node)
    shutil.rmtree(folder)


def test_a_lost_machine_loses_little(cluster, plugin, alone, tmp_path):
    workers = f"--workers=ray:{cluster.address}"
    with sweep(tmp_path / "runs", plugin, *APART, workers) as running:
        assert running.reaches(4)
        assert len(cluster.workers()) == 2
        cluster.lose(cluster.other)
        out = running.end()
    assert "A worker died in" in out
    assert_as_alone(tmp_path / "runs", alone(*APART))


def test_a_killed_driver_frees_the_cluster(cluster, plugin, alone, tmp_path):
    workers = f"--workers=ray:{cluster.address}"
    with sweep(tmp_path / "runs", plugin, *APART, workers) as running:
        assert running.reaches(4)
        at_work = cluster.workers()
    assert at_work
    assert_gone(at_work)
    finish(tmp_path / "runs", plugin, *APART)  # without workers
    assert_as_alone(tmp_path / "runs", alone(*APART))


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workers=ray:127.0.0.1:1"], "127.0.0.1:1"),
        (["--workers=ray", "--gpus_per_trial=99"], "99 GPUs"),
    ],
)
def test_what_is_not_there_is_one_sentence(flags, named, plugin, tmp_path):
    with sweep(tmp_path / "runs", plugin, *GRID, *flags) as running:
        out = running.end(code=2)
    said = [line for line in out.splitlines() if line.startswith("tune.py: ")]
    assert len(said) == 1 and named in said[0] and "Traceback" not in out
    assert not (tmp_path / "runs").exists()
