"""A member of a population has the numbers and the files of a trial that is run alone.

The reference is the lone run, which trains by Keras's own `fit`.
"""

import csv
import itertools
import json
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
from measured import MEASURED

import bpfree
from bpfree import rules
from bpfree.analysis import trackers
from bpfree.errors import UserError
from bpfree.tuning import GridSearch, population, space, together
from bpfree.tuning.checkpoint import read_archive
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.member import Member

on_jax = pytest.mark.skipif(not population.AVAILABLE, reason="populations need JAX")
SEED, EXECUTIONS = 3, 2
SMALL = {
    "algorithm": ["dfa"],
    "arch": ["9-7"],
    "activation": ["tanh"],
    "batch_norm": [False],
    "bw_init": ["ortho"],
    "reg_rate": [0.0],
    "batch_size": [32],
    "lr": [0.05],
    "optimizer": ["sgd"],
}


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.1, seed=0)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """What was compiled for one test is not compiled again for another."""
    if not population.AVAILABLE:
        yield
        return
    import jax

    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def search(folder, data, given, epochs, population, run=None, **options):
    choices = space.choices({**SMALL, **given}, "classification", "val_loss")
    model = HyperModel(data.input_shape, 10, choices, epochs, len(data.x_train))
    options = {"executions_per_trial": EXECUTIONS, "seed": SEED, "verbose": 0, **options}
    options |= {"directory": folder.parent, "project_name": folder.name}
    tuner = GridSearch(model, population=population, keep_weights="all", **options)
    tuner.search(data, epochs=epochs, **(run or {}))
    return tuner


@pytest.fixture
def groups(monkeypatch):
    """The sizes of the populations that were trained."""
    sizes = []

    def count(program, slots, ended, original=together.train):
        sizes.append(len(slots))
        return original(program, slots, ended)

    monkeypatch.setattr("bpfree.tuning.populations.train", count)
    return sizes


@pytest.fixture
def places(monkeypatch):
    """How many models were trained in each epoch, idle places included."""
    sizes, original = [], population.Program.epoch

    def epoch(self, values, best, improved, orders):
        sizes.append(len(orders))
        return original(self, values, best, improved, orders)

    monkeypatch.setattr(population.Program, "epoch", epoch)
    return sizes


def files(project):
    """Every file of the trials but the checkpoint that a failed one leaves."""
    found = (path.relative_to(project) for path in project.glob("trials/**/*") if path.is_file())
    return sorted(path for path in found if path.name != "checkpoint")


def table(path):
    with open(path, newline="") as file:
        names, *rows = csv.reader(file)
    return names, np.array([[float(cell) for cell in row] for row in rows])


def assert_same(actual, expected, tolerance=1e-5):
    """Equal files, equal but for rounding in what is a float, and for times and tracebacks."""
    assert files(actual) == files(expected)
    for path in files(expected):
        here, there = actual / path, expected / path
        if path.suffix == ".csv":
            (names, rows), (wanted, expected_rows) = table(here), table(there)
            assert names == wanted
            np.testing.assert_allclose(rows, expected_rows, tolerance, 1e-6, err_msg=str(path))
        elif path.suffix == ".npz":
            found, wanted = read_archive(here), read_archive(there)
            assert found.keys() == wanted.keys()
            for key, value in wanted.items():
                assert found[key].dtype == value.dtype
                np.testing.assert_allclose(found[key], value, tolerance, tolerance)
        else:
            _assert_like(json.loads(here.read_text()), json.loads(there.read_text()), tolerance)


def _assert_like(found, wanted, tolerance):
    if isinstance(wanted, dict):
        found, wanted = ({k: v for k, v in d.items() if k not in MEASURED} for d in (found, wanted))
        assert found.keys() == wanted.keys()
        # Of a trial: how often it was begun, and what it had then.
        begun = {"attempts", "epochs"} if "attempts" in wanted else set()
        for key in wanted.keys() - begun:
            if key == "failure" and wanted[key]:
                found[key], wanted[key] = (v[key].splitlines()[-1] for v in (found, wanted))
            _assert_like(found[key], wanted[key], tolerance)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for pair in zip(found, wanted, strict=True):
            _assert_like(*pair, tolerance)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=tolerance, abs=1e-6)
    else:
        assert found == wanted


VARYING = {
    "algorithm": ["dfa", "dfa:signal_scale=0.5"],
    "bw_init": ["ortho", "lecun"],
    "reg_rate": [0.1, 0.4],
    "weight_decay": [1e-2, 1e-3],
    "optimizer": ["adam"],
    "lr": [0.01, 0.001],
}


@pytest.fixture(scope="module")
def varied(data, tmp_path_factory):
    """Two epochs of a grid in which everything varies that may; the lone runs beside the population."""
    folder = tmp_path_factory.mktemp("varied")

    def run(name, population, **options):
        chosen = {
            ("dfa", "ortho", 0.1, 1e-2, 0.01),
            ("dfa:signal_scale=0.5", "ortho", 0.1, 1e-3, 0.01),
            ("dfa", "lecun", 0.4, 1e-2, 0.001),
        }
        keys = ("algorithm", "bw_init", "reg_rate", "weight_decay", "lr")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                HyperModel, "admissible", lambda self, v: tuple(v[key] for key in keys) in chosen
            )
            return search(folder / name, data, VARYING, 2, population, **options)

    run("alone", "off")
    return SimpleNamespace(run=run, alone=folder / "alone")


@on_jax
def test_members_equal_lone_runs(varied, groups):
    tuner = varied.run("together", "auto")
    assert groups == [3 * EXECUTIONS]
    assert_same(tuner.experiment.path, varied.alone)


class Interrupted(BaseException):
    """Stands in for a kill: nothing between here and the test catches it."""


RESUMED = {"lr": [0.05, 0.02], "reg_rate": [0.2], "optimizer": ["adam"]}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return search(tmp_path_factory.mktemp("resumed") / "whole", data, RESUMED, 4, "auto")


def killing(monkeypatch, name, call):
    """Makes the n-th call of a member's method end everything, after its work is done."""
    calls = itertools.count(1)
    original = getattr(Member, name)

    def method(self, *arguments):
        original(self, *arguments)
        if next(calls) == call:
            raise Interrupted

    monkeypatch.setattr(Member, name, method)


@on_jax
@pytest.mark.parametrize(
    ("name", "call", "due", "epochs"),
    [
        pytest.param("epoch_ended", 11, [True] * 2, [2, 2, 2, 2], marks=pytest.mark.slow),
        ("epoch_ended", 11, [True, False], [1, 1, 1, 1]),
        pytest.param("save", 10, [True] * 3, [3, 3, 2, 2], marks=pytest.mark.slow),
        ("save", 14, [True] * 4, [4, 4, 3, 3]),
    ],
    ids=["in an epoch", "after epochs not saved", "while saving", "when half are finished"],
)
def test_killed_and_resumed_equals_undisturbed(
    data, undisturbed, name, call, due, epochs, tmp_path, monkeypatch
):
    project, due = tmp_path / "killed", list(due)
    with monkeypatch.context() as patched:
        killing(patched, name, call)
        patched.setattr(together._Pace, "due", lambda self: due.pop(0))
        with pytest.raises(Interrupted):
            search(project, data, RESUMED, 4, "auto")
    histories = sorted(project.glob("trials/*/*/history.csv"))
    assert [len(table(path)[1]) for path in histories] == epochs
    assert len(list(project.glob("trials/*/*/result.json"))) == epochs.count(4)
    search(project, data, RESUMED, 4, "auto")
    assert_same(project, undisturbed.experiment.path, tolerance=0)
    assert len(files(project)) == 2 * (1 + 3 * EXECUTIONS)


@on_jax
def test_a_death_long_before_leaves_all_together(data, undisturbed, groups, tmp_path, monkeypatch):
    """Killed before most trials had an epoch, and again after all had some: nothing points to a trial."""
    project = tmp_path / "killed"
    for call in (1, 6):
        with monkeypatch.context() as patched:
            killing(patched, "epoch_ended", call)
            patched.setattr(together._Pace, "due", lambda self: True)
            with pytest.raises(Interrupted):
                search(project, data, RESUMED, 4, "auto")
    search(project, data, RESUMED, 4, "auto")
    assert groups[-3:] == [4, 4, 4]
    assert_same(project, undisturbed.experiment.path, tolerance=0)


@on_jax
def test_what_a_process_died_of_twice_is_trained_alone(
    data, undisturbed, groups, tmp_path, monkeypatch
):
    project = tmp_path / "killed"
    for _ in range(2):
        with monkeypatch.context() as patched:
            killing(patched, "begin", 1)
            with pytest.raises(Interrupted):
                search(project, data, RESUMED, 4, "auto")
    before = len(groups)
    search(project, data, RESUMED, 4, "auto")
    assert before == 2 and len(groups) == before
    for path in project.glob("trials/*/*/history.csv"):
        expected = table(undisturbed.experiment.path / path.relative_to(project))[1]
        np.testing.assert_allclose(table(path)[1], expected, 1e-5, 1e-6)


@on_jax
def test_what_diverges_fails_and_what_stalls_stops(data, groups, places, tmp_path):
    """One rate explodes, one learns nothing and is stopped, one goes on to the end."""
    given = {"activation": ["linear"], "lr": [1e-12, 0.05, 1e30]}
    projects = [
        search(tmp_path / population, data, given, 9, population, run={"early_stopping": True})
        for population in ("off", "auto")
    ]
    alone, beside = (tuner.experiment for tuner in projects)
    assert groups == [3 * EXECUTIONS]
    # The first two fail in their first epoch, and six would be too many for two.
    assert places == [6] * 6 + [3] * 3
    assert_same(beside.path, alone.path)
    assert [trial.state for trial in beside.trials()] == ["completed", "completed", "failed"]
    assert [len(trial.executions()) for trial in beside.trials()] == [2, 2, 1]
    lengths = [[len(e.history()) for e in trial.executions()] for trial in beside.trials()]
    assert lengths[0] == [6, 6] and lengths[1] == [9, 9] and lengths[2][0] < 9


@pytest.mark.slow
@on_jax
def test_resumed_after_one_trial_stopped_early_equals_undisturbed(
    data, places, tmp_path, monkeypatch
):
    """The stopped trial's places are given up in the sixth epoch, in both processes alike."""
    given = {"activation": ["linear"], "lr": [1e-12, 0.05]}
    run = {"early_stopping": True}
    whole = search(tmp_path / "whole", data, given, 9, "auto", run=run).experiment.path
    assert places == [4] * 6 + [2] * 3
    with monkeypatch.context() as patched:
        killing(patched, "epoch_ended", 4 * 6 + 2 + 1)  # within the eighth epoch
        patched.setattr(together._Pace, "due", lambda self: True)
        with pytest.raises(Interrupted):
            search(tmp_path / "killed", data, given, 9, "auto", run=run)
    del places[:]
    resumed = search(tmp_path / "killed", data, given, 9, "auto", run=run)
    assert places == [2, 2]
    stopped, _ = resumed.experiment.trials()
    assert [len(execution.history()) for execution in stopped.executions()] == [6, 6]
    assert_same(resumed.experiment.path, whole, tolerance=0)


class FailsLate(keras.callbacks.Callback):
    """In the third epoch of the smaller learning rate."""

    reads_weights = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2 and float(self.model.optimizer.learning_rate) < 0.03:
            raise RuntimeError("nothing to see")


@pytest.mark.slow
@on_jax
def test_an_error_of_one_member_leaves_the_best_of_another(data, places, tmp_path, monkeypatch):
    """It fails alone; the other's first epoch is the best, as the largest loss is wanted here."""
    options = {"objective": keras_tuner.Objective("val_loss", "max"), "executions_per_trial": 1}
    alone = search(tmp_path / "alone", data, {}, 4, "off", **options)
    monkeypatch.setattr(together._Pace, "due", lambda self: False)
    run = {"callbacks": [FailsLate()]}
    beside = search(tmp_path / "p", data, {"lr": [0.05, 0.02]}, 4, "auto", run=run, **options)
    assert places == [2, 2, 2, 1]
    good, bad = beside.experiment.trials()
    assert (good.state, bad.state) == ("completed", "failed")
    assert bad.failure.strip().endswith("RuntimeError: nothing to see")
    found, wanted = (
        read_archive(tuner.experiment.trials()[0].execution(0).best_weights)
        for tuner in (beside, alone)
    )
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, 1e-5, 1e-5)


@on_jax
def test_callbacks_see_their_members_weights(data, groups, tmp_path):
    """A tracker of weights and histograms, whose columns are those of the lone runs."""
    x, y = data.x_train[:8].astype("float32"), data.y_train[:8]
    run = {"callbacks": [trackers.Weights(x, y), trackers.Gradients(x, y)]}
    given = {"lr": [0.05, 0.02]}
    alone = search(tmp_path / "alone", data, given, 2, "off", run=run)
    beside = search(tmp_path / "beside", data, given, 2, "auto", run=run)
    assert groups == [2 * EXECUTIONS]
    assert_same(beside.experiment.path, alone.experiment.path)


@on_jax
@pytest.mark.parametrize(
    ("given", "run", "reason"),
    [
        ({}, {"augment": ("brightness",)}, "augmentation"),
        pytest.param(
            *({"algorithm": ["ll"], "schedule": ["sequential"]}, {}, "in turn"),
            marks=pytest.mark.slow,
        ),
        ({"algorithm": ["gait:inverse=solve"]}, {}, "inverse=solve"),
        ({}, {"callbacks": [keras.callbacks.TerminateOnNaN()]}, "TerminateOnNaN"),
    ],
)
def test_what_cannot_be_together_is_trained_alone(
    data, groups, given, run, reason, tmp_path, capsys
):
    options = {"executions_per_trial": 1, "verbose": 1}
    tuner = search(tmp_path / "p", data, given, 3, "auto", run=run, **options)
    assert [trial.state for trial in tuner.experiment.trials()] == ["completed"]
    assert groups == []
    assert reason in capsys.readouterr().out


@on_jax
def test_a_population_that_cannot_go_on_kills_no_trial(data, tmp_path, monkeypatch):
    """Its trials have begun, and begin again alone."""

    def epoch(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(population.Program, "epoch", epoch)
    tuner = search(tmp_path / "p", data, {"lr": [0.05, 0.02]}, 1, "auto")
    trials = tuner.experiment.trials()
    assert [(t.state, t.attempts, t.deaths) for t in trials] == [("completed", 2, 0)] * 2


@on_jax
def test_a_population_has_so_many_members_at_most(data, groups, tmp_path):
    search(tmp_path / "p", data, {"lr": [0.05, 0.02]}, 1, 3)
    assert groups == [2, 2]


@on_jax
def test_out_of_memory_halves_the_population(data, undisturbed, groups, tmp_path, monkeypatch):
    """The device gives way in the second epoch of more than two models."""
    original, epochs = population.Program.epoch, itertools.count(1)

    def epoch(self, values, best, improved, orders):
        if len(orders) > 2 and next(epochs) == 2:
            raise population.OutOfMemory
        return original(self, values, best, improved, orders)

    monkeypatch.setattr(population.Program, "epoch", epoch)
    tuner = search(tmp_path / "p", data, RESUMED, 4, "auto")
    assert groups == [4, 2, 2]
    assert_same(tuner.experiment.path, undisturbed.experiment.path)


@on_jax
def test_memory_bounds_the_population(monkeypatch):
    monkeypatch.setattr(population, "_free_memory", lambda: 400_000)
    monkeypatch.setattr(population, "_needed", lambda compiled: 50_000 + 150_000 * compiled[0])
    program = SimpleNamespace(_program=lambda n: (n,), _there=50_000)
    assert population.Program.fitting(program, 4) == 2


def test_tensorflow_says_once_that_it_trains_one_by_one(data, tmp_path, capsys):
    if population.AVAILABLE:
        pytest.skip("JAX has populations")
    given = {"lr": [0.05, 0.02]}
    tuner = search(tmp_path / "p", data, given, 1, "auto", verbose=1, executions_per_trial=1)
    assert [trial.state for trial in tuner.experiment.trials()] == ["completed"] * 2
    assert capsys.readouterr().out.count("one by one") == 1
    search(tmp_path / "p", data, given, 1, "auto", verbose=1, executions_per_trial=1)
    assert "one by one" not in capsys.readouterr().out  # nor after a renewal


@pytest.mark.parametrize("population", ["on", 0, -1])
def test_impossible_populations(data, population, tmp_path):
    with pytest.raises(UserError, match="population"):
        search(tmp_path / "p", data, {}, 1, population)


@pytest.fixture
def double():
    """float64 throughout."""
    import jax

    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(
        "float32"
    )  # Keras remembers that of the first layer made meanwhile
    jax.config.update("jax_enable_x64", False)


@on_jax
def test_in_float64_losses_agree_to_the_tenth_digit(data, double, tmp_path):
    """After an epoch of SGD; backpropagation, whose numbers are float64 in every place."""
    given = {"algorithm": ["bp"], "lr": [0.05, 0.02]}
    options = {"executions_per_trial": 1}
    losses = []
    for way in ("off", "auto"):
        tuner = search(tmp_path / way, data, given, 1, way, **options)
        losses += [[e.history()[0] for t in tuner.experiment.trials() for e in t.executions()]]
    for beside, alone in zip(*losses, strict=True):
        for name in ("loss", "val_loss"):
            assert beside[name] == pytest.approx(alone[name], rel=1e-10)


ARCHS = {"gait": "square:2", "itp": "square:2", "tp": "square:2"}


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [n for n in rules.names() if rules.parse(n)[0].__module__.startswith("bpfree.")]
)
def test_every_rule_beside_others_equals_itself_alone(data, groups, rule, tmp_path):
    given = {"algorithm": [rule], "arch": [ARCHS.get(rule, "9-7")], "lr": [0.02, 0.01]}
    given["reg_rate"] = [0.2]
    if not rules.parse(rule)[0].projects:
        given["bw_init"] = []
    options = {"executions_per_trial": 1}
    alone = search(tmp_path / "alone", data, given, 1, "off", **options).experiment.path
    beside = search(tmp_path / "beside", data, given, 1, "auto", **options).experiment
    assert [trial.state for trial in beside.trials()] == ["completed"] * 2
    assert groups == [2]
    assert_same(beside.path, alone, tolerance=1e-4)
