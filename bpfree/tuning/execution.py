"""One execution: a model trained once, from one seed, recorded epoch by epoch and resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import keras_tuner

from bpfree.costs import Costs, Meter, RunningAccount
from bpfree.data.batches import Batches, feed, stream
from bpfree.data.dataset import Dataset
from bpfree.data.preprocessing import augmenter, scaler
from bpfree.errors import SearchError, UserError
from bpfree.schedule import last_turn
from bpfree.tuning.callbacks import Diverged, Recorder, best_epoch, check, failed
from bpfree.tuning.checkpoint import Checkpoint, assign, read_archive, spoilt
from bpfree.tuning.records import Execution, Trial


@dataclass(frozen=True)
class Regime:
    """How an execution trains.

    Attributes:
        epochs: at most.
        objective: the metric that an execution is scored by.
        score: `best` (its best epoch; those weights are kept) or `last`.
        batch_size: examples per step.
        scaler: `standard`, `zero_one` or `identity`.
        augment: names of augmentations.
        problem_type: `classification` or `reconstruction` (the target is the input).
        early_stopping: whether to stop when the objective has not improved for 5 % of the epochs
            (10 % for `val_*` objectives), at least 5.
        until: the epoch at which to pause, to go on later to a later one; None: not before the end.
    """

    epochs: int
    objective: keras_tuner.Objective
    score: str = "best"
    batch_size: int = 64
    scaler: str = "standard"
    augment: tuple[str, ...] = ()
    problem_type: str = "classification"
    early_stopping: bool = False
    until: int | None = None

    @property
    def last(self) -> int:
        """The epoch to train to now."""
        return self.until or self.epochs

    def for_trial(self, values: dict[str, Any]) -> Regime:
        """With what a trial's hyperparameters say about it."""
        named = {key: values[key] for key in ("batch_size", "scaler") if key in values}
        return replace(self, **named)


@dataclass(frozen=True)
class Feed:
    """The batches of a data set under a regime."""

    data: Dataset
    regime: Regime

    def train(self, seed: int) -> Batches:
        """Training batches, in the order of (seed, epoch)."""
        scale = scaler(self.regime.scaler, self.data.x_train.dtype)
        return self._batches(
            self.data.x_train,
            self.data.y_train,
            shuffle=True,
            drop_remainder=True,
            seed=seed,
            augment=augmenter(self.regime.augment, scale.value_range, seed),
        )

    def validation(self) -> Batches | None:
        """All validation examples, or None without any."""
        if not len(self.data.x_val):
            return None
        return self._batches(self.data.x_val, self.data.y_val, batch_size=1000)

    def test(self) -> Batches:
        """The whole test set."""
        return self._batches(self.data.x_test, self.data.y_test, batch_size=1000)

    def _batches(self, x, y, batch_size=None, **options) -> Batches:
        return Batches(
            x,
            y,
            batch_size or self.regime.batch_size,
            scale=scaler(self.regime.scaler, x.dtype),
            problem_type=self.regime.problem_type,
            **options,
        )


def run(
    model: keras.Model,
    data: Dataset,
    regime: Regime,
    execution: Execution,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    report: Callable[[dict], None] = lambda row: None,
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Trains to the regime's last epoch, from wherever the execution stands on disk, and records the result.

    A run that was killed and resumed has the history and the weights of one that was not.

    Args:
        model: compiled and built; its initial weights must follow from the seed.
        data: the data set.
        regime: how to train.
        execution: where its records are.
        seed: of the batch order.
        callbacks: further callbacks; what they put into an epoch's logs is recorded.
        report: called with every epoch's row.
        meter: measures what it costs; shared by executions, it counts a program's operations once.

    Returns:
        The result: `score`, `best_epoch`, `epochs`, `seed`, `metrics` (at the best epoch), and what
        was measured of `bpfree.costs.Costs`: what a killed process did after its last snapshot is not
        in it.

    Raises:
        Diverged: if a loss or the objective becomes NaN or infinite.
    """
    if meter is None:
        with Meter() as meter:
            return run(model, data, regime, execution, seed, callbacks, report, meter)
    batches, checkpoint = Feed(data, regime), Checkpoint(execution.checkpoint)
    epoch, stopped = standing(execution)
    account = RunningAccount(meter, checkpoint.costs())
    if epoch:
        checkpoint.restore(model)
    if epoch < regime.last and not stopped:
        watched = [*callbacks, *early_stopping(regime, model)]
        training, validation = batches.train(seed), batches.validation()
        recorder = Recorder(
            execution,
            checkpoint,
            regime.objective,
            regime.score == "best",
            watched,
            report,
            account,
            training,
        )
        try:
            model.fit(
                **feed(training, [*watched, recorder]),
                validation_data=None if validation is None else stream(validation),
                initial_epoch=epoch,
                epochs=regime.last,
                verbose=0,
            )
        except SearchError:
            raise
        except Exception:
            failed(callbacks)
            raise
    account.close(model)
    return finish(execution, regime, seed, account.costs)


def evaluate(model: keras.Model, data: Dataset, regime: Regime) -> dict[str, float]:
    """The metrics on the whole test set."""
    return model.evaluate(stream(Feed(data, regime).test()), verbose=0, return_dict=True)


def load_best(model: keras.Model, execution: Execution) -> None:
    """Gives a built model the weights that an execution kept.

    Raises:
        UserError: if they were not kept, or cannot be read.
    """
    if spoilt(execution.best_weights):
        raise UserError(
            f"{execution.best_weights} is spoilt: search again, which trains that execution once more."
        )
    if not execution.best_weights.exists():
        raise UserError(
            f"The weights of {execution.path} were not kept, since another trial was better: "
            "search with keep_weights='all'."
        )
    assign(model.weights, read_archive(execution.best_weights))


def standing(execution: Execution) -> tuple[int, bool]:
    """How many epochs an execution has done, and whether it was stopped; its history is cut to them."""
    if spoilt(execution.checkpoint):
        execution.restart(execution.checkpoint)
    checkpoint = Checkpoint(execution.checkpoint)
    epoch, stopped = checkpoint.progress()
    if len(execution.cut(epoch)) < epoch:
        epoch, stopped = 0, False
        checkpoint.remove()
        execution.cut(0)
    return epoch, stopped


def early_stopping(regime: Regime, model: keras.Model) -> list[keras.callbacks.Callback]:
    """The callback that ends a run of the regime, where it asks for one."""
    if not regime.early_stopping:
        return []
    begin = 0
    if getattr(model, "schedule", None) == "sequential":
        begin = last_turn(model.rule.parts(model.network), regime.epochs, model.epochs_per_block)
    share = 0.1 if regime.objective.name.startswith("val_") else 0.05
    return [
        keras.callbacks.EarlyStopping(
            monitor=regime.objective.name,
            mode=regime.objective.direction,
            min_delta=1e-4,
            patience=max(5, int(share * regime.epochs)),
            # Only the last part's epochs come to an end by themselves; the others' have their number.
            start_from_epoch=begin,
        )
    ]


def finish(execution: Execution, regime: Regime, seed: int, costs: Costs) -> dict[str, Any]:
    """Records the result of an execution that came to the regime's last epoch, see `run`, or stopped."""
    history = execution.history()
    best = _chosen(history, regime)
    metrics = {key: value for key, value in history[best - 1].items() if key != "epoch"}
    result = {
        "score": metrics[regime.objective.name],
        "best_epoch": best,
        "epochs": len(history),
        "seed": seed,
        "metrics": metrics,
        **costs.record(),
    }
    execution.finish(result)
    if not pauses(result, regime):
        Checkpoint(execution.checkpoint).remove()
    return result


def recover(execution: Execution, regime: Regime, seed: int) -> None:
    """Makes the lost result of an execution that came to the regime's last epoch from its history.

    What it cost is lost; one that was stopped before does not tell so, and is trained again.
    """
    if execution.result() is None and len(execution.history()) == regime.last:
        finish(execution, regime, seed, Costs.of({}))


def pauses(result: dict[str, Any], regime: Regime) -> bool:
    """Whether a run with this result may go on, and keeps its checkpoint."""
    return result["epochs"] == regime.last < regime.epochs


def outcome(execution: Execution, regime: Regime) -> dict[str, Any] | None:
    """The result of an execution that is finished; None also where it paused before the regime's last epoch.

    A run that paused keeps its checkpoint; one that came to its end, or was stopped, does not.
    """
    result = execution.result()
    paused = result and result["epochs"] < regime.last and execution.checkpoint.exists()
    return None if paused else result


def ended(trial: Trial, regime: Regime) -> bool:
    """Whether a trial has failed, or come to the regime's last epoch, from which it may have gone on."""
    if regime.until is None or trial.state == "failed":
        return trial.state in ("completed", "failed")
    begun = trial.until or 0
    return begun > regime.until or begun == regime.until and trial.state == "completed"


def score_at(trial: Trial, regime: Regime, executions: int) -> float | None:
    """A trial's mean score at the regime's last epoch; None where an execution failed before.

    It follows from the histories, which only grow: also after the trial went on, or failed then.
    """
    scores = []
    for execution in map(trial.execution, range(executions)):
        history = execution.history()[: regime.last]
        if not history or len(history) < regime.last and not outcome(execution, regime):
            return None
        try:
            check(history[-1], regime.objective.name)
        except Diverged:
            return None
        scores.append(history[_chosen(history, regime) - 1][regime.objective.name])
    return sum(scores) / len(scores)


def _chosen(history: Sequence[dict], regime: Regime) -> int:
    """The epoch, from 1, that a run is scored by."""
    return best_epoch(history, regime.objective) if regime.score == "best" else len(history)
