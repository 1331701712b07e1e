"""An execution that is interrupted anywhere and resumed equals one that never was."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
from measured import MEASURED

import bpfree
from bpfree.tuning import execution as executions
from bpfree.tuning import space
from bpfree.tuning.callbacks import Diverged
from bpfree.tuning.checkpoint import Checkpoint, read_archive
from bpfree.tuning.execution import Regime
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.objective import direction
from bpfree.tuning.programs import Programs
from bpfree.tuning.records import Execution

EPOCHS = 3
SEED = 5
# Without XLA, JAX would run step by step; on TensorFlow compiling takes longer than these runs.
ON_JAX = keras.backend.backend() == "jax"


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.1, seed=0)


def objective(name):
    return keras_tuner.Objective(name, direction(name))


class Setup:
    """One network and the way it trains; every model of it starts from the same seed."""

    def __init__(self, data, given, epochs=EPOCHS, metric="val_loss", **regime):
        self.data = data
        choices = space.single({"arch": ["9-7"], "batch_size": [32], **given})
        self.values = {name: value for name, (value,) in choices.items()} | {"seed": SEED}
        if choices["algorithm"] == ("bp",):
            del self.values["bw_init"]
        self.hypermodel = HyperModel(
            data.input_shape, 10, choices, epochs, len(data.x_train), use_xla=ON_JAX
        )
        self.regime = Regime(epochs, objective(metric), batch_size=32, **regime)
        self.programs = Programs()

    def fresh(self):
        hp = keras_tuner.HyperParameters()
        hp.values = dict(self.values)
        return self.hypermodel.build(hp)

    def run(self, folder, callbacks=(), report=lambda row: None, model=None):
        execution = Execution(folder)
        model = model or self.programs.model("one", self.fresh, self.data.input_shape)
        executions.run(model, self.data, self.regime, execution, SEED, callbacks, report)
        return execution


class Interrupted(BaseException):
    """Stands in for a kill: nothing between here and the test catches it."""


def interrupt_after_record(epoch):
    """After the snapshot."""

    def report(row):
        if row["epoch"] == epoch:
            raise Interrupted

    return {"report": report}


class InterruptWithin(keras.callbacks.Callback):
    """In the midst of an epoch, or at its end before anything is recorded."""

    def __init__(self, epoch, at_end):
        super().__init__()
        self.at = (epoch - 1, at_end)
        self.now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.at == (self.now, False):
            raise Interrupted

    def on_epoch_end(self, epoch, logs=None):
        if self.at == (epoch, True):
            raise Interrupted


def outcome(execution):
    best = read_archive(execution.best_weights)
    result = {key: value for key, value in execution.result().items() if key not in MEASURED}
    return SimpleNamespace(history=execution.history_file.read_bytes(), best=best, result=result)


def assert_same(actual, expected):
    assert actual.history == expected.history
    assert actual.result == expected.result
    assert actual.best.keys() == expected.best.keys()
    for key, value in expected.best.items():
        np.testing.assert_array_equal(actual.best[key], value)


@pytest.fixture(scope="module")
def rich(data):
    """Dropout, batch normalisation, Adam and a schedule: all that has a state of its own."""
    given = {
        "algorithm": ["dfa"],
        "batch_norm": [True],
        "reg_rate": [0.4],
        "lr_schedule": ["cosine"],
        "lr": [0.02],
        "weight_decay": [1e-3],
    }
    return Setup(data, given)


@pytest.fixture(scope="module")
def finished(rich, tmp_path_factory):
    return rich.run(tmp_path_factory.mktemp("undisturbed") / "execution-0")


@pytest.fixture(scope="module")
def undisturbed(finished):
    return outcome(finished)


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_interrupted_after_any_epoch(rich, undisturbed, epoch, tmp_path):
    folder = tmp_path / "execution-0"
    with pytest.raises(Interrupted):
        rich.run(folder, **interrupt_after_record(epoch))
    assert len(Execution(folder).history()) == epoch
    assert_same(outcome(rich.run(folder)), undisturbed)


@pytest.mark.parametrize("at_end", [False, True])
def test_interrupted_within_an_epoch(rich, undisturbed, at_end, tmp_path):
    folder = tmp_path / "execution-0"
    with pytest.raises(Interrupted):
        rich.run(folder, callbacks=[InterruptWithin(2, at_end)])
    assert len(Execution(folder).history()) == 1
    assert_same(outcome(rich.run(folder)), undisturbed)


def test_interrupted_between_history_and_snapshot(rich, undisturbed, tmp_path, monkeypatch):
    """The row is there and the snapshot is not: the epoch runs again, and is there once."""
    folder = tmp_path / "execution-0"

    def save(self, model, callbacks, epoch, *costs, original=Checkpoint.save):
        if epoch == 2:
            raise Interrupted
        original(self, model, callbacks, epoch, *costs)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save)
        with pytest.raises(Interrupted):
            rich.run(folder)
    assert len(Execution(folder).history()) == 2
    assert_same(outcome(rich.run(folder)), undisturbed)


@pytest.mark.slow
def test_interrupted_every_epoch_and_resumed_by_fresh_models(rich, undisturbed, tmp_path):
    folder = tmp_path / "execution-0"
    for epoch in (1, 2):
        model = rich.fresh()
        model.build((None, *rich.data.input_shape))
        model.optimizer.build(model.trainable_variables)
        with pytest.raises(Interrupted):
            rich.run(folder, model=model, **interrupt_after_record(epoch))
    assert_same(outcome(rich.run(folder)), undisturbed)


def test_lost_history_starts_over(rich, undisturbed, tmp_path):
    folder = tmp_path / "execution-0"
    with pytest.raises(Interrupted):
        rich.run(folder, **interrupt_after_record(2))
    Execution(folder).cut(1)
    assert_same(outcome(rich.run(folder)), undisturbed)


@pytest.mark.once
@pytest.mark.parametrize(
    "spoil", [lambda content: b"", lambda content: content[:-400], lambda c: c[::-1]]
)
@pytest.mark.parametrize("paused", [False, True])
def test_a_spoilt_checkpoint_starts_over(spoil, paused, rich, undisturbed, tmp_path):
    """One that paused has a result, which must not be taken for that of a run that stopped early."""
    folder = tmp_path / "execution-0"
    with pytest.raises(Interrupted):
        rich.run(folder, **interrupt_after_record(2))
    file = Execution(folder).checkpoint
    if paused:
        regime = replace(rich.regime, until=2)
        executions.finish(Execution(folder), regime, SEED, Checkpoint(file).costs())
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.warns(UserWarning, match="checkpoint is spoilt: set aside as checkpoint.corrupt"):
        assert executions.standing(Execution(folder)) == (0, False)
    assert executions.outcome(Execution(folder), rich.regime) is None
    assert_same(outcome(rich.run(folder)), undisturbed)


@pytest.mark.once
def test_what_all_executions_share_keeps_its_state(tmp_path):
    """A clock that one of them had before the machine started anew says nothing now."""

    class Shared(keras.callbacks.Callback):
        shared = True
        due = 0.0

    before, after, own = Shared(), Shared(), keras.callbacks.Callback()
    before.due, after.due, own.mine = 1e9, 60.0, 5
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.write({}, [before, own], 1, False)
    fresh = keras.callbacks.Callback()
    checkpoint.restore_callbacks([after, fresh])
    assert after.due == 60.0 and fresh.mine == 5


@pytest.mark.slow
@pytest.mark.once
def test_augmentation_resumes(data, tmp_path):
    setup = Setup(data, {"lr": [0.01]}, epochs=2, augment=("translation", "brightness"))
    expected = outcome(setup.run(tmp_path / "execution-0"))
    plain = Setup(data, {"lr": [0.01]}, epochs=2)
    assert outcome(plain.run(tmp_path / "execution-2")).history != expected.history
    folder = tmp_path / "execution-1"
    with pytest.raises(Interrupted):
        setup.run(folder, **interrupt_after_record(1))
    assert_same(outcome(setup.run(folder)), expected)


STOPS_AFTER = 6
"""The first epoch is the best where nothing improves; five more are waited for (patience)."""


@pytest.fixture(scope="module")
def stalled(data):
    """Nothing is learned, so early stopping ends it."""
    return Setup(data, {"lr": [1e-12], "optimizer": ["sgd"]}, epochs=15, early_stopping=True)


@pytest.mark.parametrize("epoch", [1, 5, 6])
def test_early_stopping_goes_on_counting(stalled, epoch, tmp_path):
    folder = tmp_path / "execution-0"
    with pytest.raises(Interrupted):
        stalled.run(folder, **interrupt_after_record(epoch))
    execution = stalled.run(folder)
    assert [row["epoch"] for row in execution.history()] == [*range(1, STOPS_AFTER + 1)]
    assert execution.result()["best_epoch"] == 1


def test_result_is_that_of_the_best_epoch(finished):
    table = np.genfromtxt(finished.history_file, delimiter=",", names=True)
    best = int(np.argmin(table["val_loss"]))
    result = finished.result()
    assert result["best_epoch"] == best + 1
    assert result["score"] == table["val_loss"][best]
    assert result["epochs"] == EPOCHS and result["seed"] == SEED
    assert result["metrics"]["loss"] == table["loss"][best]
    assert not finished.checkpoint.exists()


def test_kept_weights_are_those_of_the_best_epoch(data, tmp_path):
    """The largest loss is wanted, so the first epoch is the best: evaluation finds its loss again."""
    setup = Setup(data, {"lr": [0.01], "batch_norm": [True]}, epochs=3)
    setup.regime = replace(setup.regime, objective=keras_tuner.Objective("val_loss", "max"))
    model = setup.programs.model("one", setup.fresh, data.input_shape)
    execution = setup.run(tmp_path / "execution-0", model=model)
    losses = [row["val_loss"] for row in execution.history()]
    result = execution.result()
    assert result["score"] == max(losses) > losses[-1]
    executions.load_best(model, execution)
    x = (data.x_val.astype("float32") - 127.5) / 127.5
    found = model.evaluate(x, data.y_val, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(result["score"], rel=1e-5)


def test_last_scores_the_last_epoch(data, tmp_path):
    setup = Setup(data, {"lr": [0.5], "optimizer": ["sgd"]}, epochs=3, score="last")
    execution = setup.run(tmp_path / "execution-0")
    assert execution.result()["best_epoch"] == 3
    assert execution.result()["score"] == execution.history()[-1]["val_loss"]


def test_a_loss_that_is_not_finite_ends_the_execution(data, tmp_path):
    setup = Setup(data, {"lr": [1e30], "optimizer": ["sgd"], "activation": ["linear"]}, epochs=5)
    with pytest.raises(Diverged, match="epoch"):
        setup.run(tmp_path / "execution-0")
    assert 1 <= len(Execution(tmp_path / "execution-0").history()) < 5
