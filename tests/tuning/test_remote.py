"""Trials trained over there have the files of trials trained here; there is no cluster in these tests."""

import json
import pickle
import threading
from types import SimpleNamespace

import keras
import pytest
from keras_tuner.engine.trial import TrialStatus
from measured import MEASURED

import bpfree
from bpfree.errors import UserError
from bpfree.tuning import GridSearch, Hyperband, crew, populations, remote, sharing, space
from bpfree.tuning.execution import Regime, ended
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.populations import groups
from bpfree.tuning.progress import Silence
from bpfree.tuning.records import Experiment

EPOCHS, EXECUTIONS = 2, 2
ON_JAX = keras.backend.backend() == "jax"


class Log(keras.callbacks.Callback):
    """Writes a file where the logs are, and counts into the history."""

    reads_weights = False

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        logs["twice"] = 2.0 * epoch
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "events").write_text(f"{epoch}")


class FailsWhenPromoted(Log):
    """In the first execution of each trial, at epoch 2."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and self.folder.name == "0":
            raise RuntimeError("nothing to see")


def failing(tuner, data):
    return lambda model, trial, k: [FailsWhenPromoted(tuner.experiment.path / f"{k}")]


def logs(tuner, data):
    return lambda model, trial, k: [Log(tuner.experiment.path / "log" / trial.id / f"{k}")]


class Here:
    """Workers that are this very process; what goes to them and comes back is pickled."""

    def __init__(self, lost=False, callbacks=logs):
        self.callbacks = callbacks
        self.lost = lost  # whether the first worker is, when it has told of the first execution
        self.units, self.events, self.packed = [], [], []

    def train(self, tuner, points, data, progress):
        plan = remote.plan(tuner, self.callbacks, print)
        for indices in groups(tuner, points):
            self.units.append(indices)
            unit = {index: points[index] for index in indices}
            while True:
                trials = [tuner.experiment.trial(*point) for point in unit.items()]
                if all(ended(trial, tuner.regime) for trial in trials):
                    break
                self.packed.append(remote.pack(trials, tuner.regime))
                ledger = remote.Ledger(trials, progress)
                job = pickle.loads(pickle.dumps((plan, unit, self.packed[-1])))
                yield from self._heard(remote.work(*job, data), ledger)

    def _heard(self, lots, ledger):
        for events in lots:
            kinds = [event[0] for event in events]
            dies = self.lost and "execution" in kinds
            events = events[: kinds.index("execution") + 1] if dies else events
            self.events += events
            yield from ledger.take(pickle.loads(pickle.dumps(events)))
            if dies:
                self.lost = False
                return


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.1, seed=0)


def search(
    folder,
    data,
    workers=None,
    lr=(0.01, 1e30, 0.001),
    kind=GridSearch,
    callbacks=logs,
    **options,
):
    small = {"algorithm": ["bp"], "arch": ["5"], "activation": ["linear"]}
    small |= {"batch_norm": [False]}
    small |= {"bw_init": ["ortho"], "reg_rate": [0.2], "optimizer": ["sgd"], "lr": lr}
    choices = space.choices(small, "classification", "val_loss")
    model = HyperModel(data.input_shape, 10, choices, EPOCHS, len(data.x_train), use_xla=False)
    place = {"directory": folder.parent, "project_name": folder.name}
    options = {"executions_per_trial": EXECUTIONS, "seed": 3, "verbose": 0, **place, **options}
    tuner = kind(model, **options)
    tuner.search(data, epochs=EPOCHS, callbacks=callbacks(tuner, data), workers=workers)
    return tuner


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "p"
    search(folder, data)
    return folder


def assert_same(folder, expected, begun=True):
    """The same files with the same content, but for what is measured and where a traceback was."""
    paths, wanted = (
        sorted(
            path.relative_to(root)
            for part in ("trials", "log")
            for path in (root / part).glob("**/*")
            if path.is_file()
        )
        for root in (folder, expected)
    )
    assert paths == wanted
    for path in wanted:
        if path.name == "checkpoint":  # which has the seconds
            continue
        here, there = (folder / path).read_bytes(), (expected / path).read_bytes()
        if path.suffix == ".json":
            here, there = json.loads(here), json.loads(there)
            for record in (here, there):
                for key in MEASURED:
                    record.pop(key, None)
                if record.get("failure"):
                    record["failure"] = record["failure"].strip().splitlines()[-1]
                for key in () if begun else ("attempts", "epochs", "deaths"):
                    record.pop(key, None)
        assert here == there, path


def test_the_files_are_those_of_one_process(data, alone, tmp_path):
    workers = Here()
    search(tmp_path / "p", data, workers)
    assert_same(tmp_path / "p", alone)
    states = [json.loads(p.read_text())["state"] for p in sorted(alone.glob("trials/*/trial.json"))]
    assert states == ["completed", "failed", "completed"]
    assert workers.units == ([[0, 1, 2]] if ON_JAX else [[0], [1], [2]])


@pytest.mark.once
def test_what_fails_when_promoted_has_not_ended_over_there_either(data, tmp_path):
    """It would compete for the next rung by what it was before, at the cost of another one."""
    options = {"kind": Hyperband, "factor": 2, "lr": (0.01, 0.001), "population": "off"}
    tuners = [
        search(tmp_path / "alone", data, callbacks=failing, **options),
        search(tmp_path / "p", data, Here(callbacks=failing), callbacks=failing, **options),
    ]
    assert_same(tmp_path / "p", tmp_path / "alone")
    alone, there = (
        {name: trial.status for name, trial in tuner.oracle.trials.items()} for tuner in tuners
    )
    assert there == alone and TrialStatus.FAILED in alone.values()
    failed = [t for t in tuners[0].experiment.trials() if t.state == "failed"]
    assert [1, 1] in [[len(e.history()) for e in t.executions()] for t in failed]


@pytest.mark.once
def test_a_lost_worker_loses_no_finished_execution(data, alone, tmp_path):
    workers = Here(lost=True)
    search(tmp_path / "p", data, workers)
    assert_same(tmp_path / "p", alone, begun=False)
    first = next(event for event in workers.events if event[0] == "execution")
    again = workers.packed[1]
    history = first[3]["history.csv"]
    assert again[f"trials/{first[1]}/execution-{first[2]}/history.csv"] == history
    rows = [event[1:3] for event in workers.events if event[0] == "row"]
    if "result.json" in first[3]:  # on JAX the one that fails may be the first
        assert rows.count(first[1:3]) == len(history.splitlines()) - 1


def test_epochs_are_on_record_while_they_are_trained_and_repeated(tmp_path):
    told = []

    class Told(Silence):
        def epoch_ended(self, trial, k, row):
            told.append((trial.id, k, row["epoch"]))

    trial = Experiment(tmp_path).trial(0, {"lr": 1.0})
    ledger = remote.Ledger([trial], Told())
    row = lambda epoch: ("row", trial.id, 0, {"epoch": epoch, "loss": 1.0 / epoch})  # noqa: E731
    ledger.take([("began", trial.id, None), row(1), row(2)])
    ledger.take([row(3)])
    assert [row["epoch"] for row in trial.execution(0).history()] == [1, 2, 3]
    assert Experiment(tmp_path).trials()[0].state == "running"
    ledger.take([("began", trial.id, None), row(1)])
    assert trial.execution(0).history() == [{"epoch": 1, "loss": 1.0}]
    ledger.take([row(3)])  # the second one was lost: what is on disk stays sound
    assert [row["epoch"] for row in trial.execution(0).history()] == [1]
    assert [epoch for _, _, epoch in told] == [1, 2, 3, 1, 3]


def test_a_result_is_written_last_and_leftovers_go(tmp_path, monkeypatch):
    trial = Experiment(tmp_path).trial(0, {"lr": 1.0})
    execution, later = trial.execution(0), trial.execution(1)
    for kept in (execution, later):
        remote.write_atomic(kept.checkpoint, "old")
    written = []

    def write(path, content, original=remote.write_atomic):
        written.append(path.name)
        assert execution.checkpoint.exists()
        original(path, content)

    monkeypatch.setattr(remote, "write_atomic", write)
    ledger = remote.Ledger([trial], Silence())
    files = {"result.json": b"{}", "history.csv": b"epoch\n", "best.weights.npz": b"x"}
    ledger.take([("execution", trial.id, 0, files)])
    assert sorted(written[:2]) == ["best.weights.npz", "history.csv"]
    assert written[2:] == ["result.json"]
    assert {path.name for path in execution.path.iterdir()} == set(files)
    monkeypatch.undo()
    (ended,) = ledger.take([("trial", trial.id, [0], b'{"state": "failed"}')])
    assert ended.state == "failed" and not later.path.exists()


def test_other_versions_over_there_are_refused(data, monkeypatch):
    plan = remote.Plan({}, None, logs, print, {**remote.versions(), "keras": "2.0"})
    with pytest.raises(UserError, match="keras .* 2.0"):
        next(remote.work(plan, {}, {}, data))


def test_a_worker_in_a_long_epoch_gives_signs_of_life(data, monkeypatch):
    monkeypatch.setattr(remote, "_PULSE", 0.0)
    over = threading.Event()
    monkeypatch.setattr(remote, "_train", lambda *args: over.wait(60))
    lots = remote.work(remote.Plan({}, None, logs, int, remote.versions()), {}, {}, data)
    assert next(lots) == next(lots) == []
    over.set()
    assert not any(lots)


def test_what_a_log_says_of_the_whole_search_is_not_sent(tmp_path):
    points = {0: {"lr": 1.0}}
    outcomes = remote._Outcomes(Experiment(tmp_path), points, Regime(1, None))
    Experiment(tmp_path).trial(0, points[0]).execution(0).finish({"epochs": 1})
    for name in ("log/all", "log/0000/execution-0/its"):
        remote.write_atomic(tmp_path / name, b"x")
    (_, sent), *_ = outcomes.new()
    assert sent == {"log/0000/execution-0/its": b"x"}


def test_a_silence_begins_with_a_sign_of_life_and_ends_once():
    unit = crew._Unit({})
    assert not unit.silent(1e9)  # it waits for a processor
    unit.silence = 0.0
    assert [unit.silent(crew._PATIENCE), unit.silent(1.0), unit.silent(1e9)] == [False, True, False]


def test_a_trial_in_which_workers_die_fails_and_the_next_is_next(tmp_path):
    trials = [Experiment(tmp_path).trial(index, {"lr": float(index)}) for index in range(2)]
    regime, unit = Regime(1, None), crew._Unit({})
    unit.ledger = remote.Ledger(trials, Silence())
    assert [unit.died(Silence(), regime) for _ in range(3)] == [[], [], [trials[0]]]
    assert trials[0].state == "failed" and unit.left(regime) == [trials[1]]
    trials[1].complete(0.5, [0.5])
    assert unit.died(Silence(), regime) == []  # it had told all


def test_what_workers_tell_is_passed_on_and_no_note_twice(tmp_path):
    shown, heard, trial = [], [], Experiment(tmp_path).trial(0, {})

    class Shown(Silence):
        note = staticmethod(shown.append)

    noted = set()
    told = crew._Told(Shown(), lambda trial, row: heard.append(row), noted)
    ledger = remote.Ledger([trial], told)
    ledger.take([("note", "slow"), ("began", trial.id, None), ("note", "slow")])
    ledger.take([("row", trial.id, 0, {"epoch": 1, "loss": 0.5})])
    crew._Told(Shown(), print, noted).note("slow")  # in the next wave
    assert shown == ["slow"] and heard == [{}, {"epoch": 1, "loss": 0.5}]


@pytest.mark.skipif(not ON_JAX, reason="populations need JAX")
def test_trials_that_cannot_train_together_are_apart(data, tmp_path):
    workers = Here()
    search(tmp_path / "p", data, workers, lr=(0.01, 0.001), population="off")
    assert workers.units == [[0], [1]]


@pytest.mark.once
@pytest.mark.parametrize(
    ("population", "units"), [("auto", [5]), (4, [2, 2, 1]), (3, [1] * 5), (1, [1] * 5)]
)
def test_a_worker_gets_no_more_than_a_population_takes(population, units, monkeypatch):
    """Trials of two executions, all of one program: a bound of four makes work for three workers."""
    monkeypatch.setattr(populations, "AVAILABLE", True)
    tuner = SimpleNamespace(
        population=population,
        executions_per_trial=2,
        program=lambda values: "the same",
        hypermodel=SimpleNamespace(program=None),
        regime=Regime(1, None),
    )
    found = groups(tuner, {index: {} for index in range(10, 15)})
    assert [len(unit) for unit in found] == units
    assert [index for unit in found for index in unit] == [*range(10, 15)]


@pytest.mark.once
def test_workers_share_a_gpu():
    """Each plans its populations by what JAX says that it may take."""
    on_demand = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert sharing.environment(0.0) == sharing.environment(1.0) == on_demand
    fractions = {"XLA_CLIENT_MEM_FRACTION": "0.225", "XLA_PYTHON_CLIENT_MEM_FRACTION": ""}
    assert sharing.environment(0.25) == {**on_demand, **fractions}


def test_the_first_of_equals_keeps_its_weights(tmp_path):
    tuner = GridSearch(_built, directory=tmp_path, project_name="p", verbose=0)
    tuner._best = {}
    trials = [Experiment(tmp_path / "p").trial(index, {"lr": float(index)}) for index in range(3)]
    for trial in trials:
        trial.complete(0.5, [0.5])
        remote.write_atomic(trial.execution(0).best_weights, "x")
    for index in (1, 0, 2):
        tuner._drop_weights(trials[index])
    kept = [trial.execution(0).best_weights.exists() for trial in trials]
    assert kept == [True, False, False]


def _built(hp):
    hp.Choice("lr", [0.0, 1.0, 2.0])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model
