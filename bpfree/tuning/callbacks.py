"""What happens at the end of every epoch of an execution: record, keep the best, snapshot."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import keras
import keras_tuner

from bpfree.costs import RunningAccount
from bpfree.data.batches import Batches
from bpfree.errors import SearchError
from bpfree.tuning.checkpoint import Checkpoint, arrays, write_archive
from bpfree.tuning.records import Execution, Trial


class Diverged(Exception):
    """A loss or the objective is no longer a finite number."""


class Recorder(keras.callbacks.Callback):
    """Appends the epoch to the history, keeps the best weights and takes the snapshot, in this order.

    A kill between two of these steps loses nothing: the history is cut back to the snapshot, and the
    epoch in question runs again with the same result.

    Args:
        execution: where to.
        checkpoint: the snapshot.
        objective: the metric by which an epoch is the best.
        keep_best: whether the weights of the best epoch are kept, else those of the last.
        watched: callbacks whose state belongs to the snapshot.
        report: called with every row.
        account: where the epoch is booked.
        batches: those of the training.

    Raises:
        Diverged: from `fit`, when a loss or the objective is not finite; the row is recorded first.
    """

    def __init__(
        self,
        execution: Execution,
        checkpoint: Checkpoint,
        objective: keras_tuner.Objective,
        keep_best: bool,
        watched: Sequence[keras.callbacks.Callback],
        report: Callable[[dict], None],
        account: RunningAccount,
        batches: Batches,
    ):
        super().__init__()
        self.execution = execution
        self.checkpoint = checkpoint
        self.objective = objective
        self.keep_best = keep_best
        self.watched = watched
        self.report = report
        self.account = account
        self.batches = batches

    def on_train_begin(self, logs=None):
        # After every other callback began: theirs would reset what is restored here.
        self.checkpoint.restore_callbacks(self.watched)
        self.history = self.execution.history()

    def on_epoch_end(self, epoch, logs=None):
        self.account.epoch_ended(self.model, self.batches)
        row = row_of(epoch, logs)
        self.execution.append(row)
        self.history.append(row)
        check(row, self.objective.name)
        if not self.keep_best or best_epoch(self.history, self.objective) == epoch + 1:
            save_weights(self.execution.best_weights, self.model)
        self.checkpoint.save(self.model, self.watched, epoch + 1, self.account.costs)
        self.report(row)


def made(callbacks, model: keras.Model, trial: Trial, k: int) -> Sequence[keras.callbacks.Callback]:
    """The callbacks of one execution, from what `Search.search` was given."""
    return callbacks(model, trial, k) if callable(callbacks) else copy.deepcopy(callbacks)


def failed(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Tells the callbacks that have a method `on_train_failure` that an exception ended the run.

    Keras tells nobody. A run that goes on later, after a kill or with more room on the disk, has not failed.
    """
    for callback in callbacks:
        if hasattr(callback, "on_train_failure"):
            callback.on_train_failure()


def row_of(epoch: int, logs: dict) -> dict[str, float]:
    """An epoch's row in the history, from Keras's epoch (from 0) and its logs."""
    return {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}}


def best_epoch(history: Sequence[dict], objective: keras_tuner.Objective) -> int:
    """The epoch, from 1, with the best value of the objective; the first of several equals."""
    sign = -1 if objective.direction == "max" else 1
    return min(history, key=lambda row: sign * row[objective.name])["epoch"]


def save_weights(path, model: keras.Model) -> None:
    """Writes the weights atomically, by position."""
    write_archive(path, arrays(model.weights), {})


def check(row: dict, objective: str) -> None:
    """Raises Diverged unless the losses and the objective are finite, SearchError without the latter."""
    if objective not in row:
        raise SearchError(
            f"The objective {objective!r} is not logged: choose one of "
            f"{', '.join(name for name in row if name != 'epoch')}."
        )
    for name in ("loss", "val_loss", objective):
        if not math.isfinite(row.get(name, 0.0)):
            raise Diverged(f"{name} is {row[name]} after epoch {row['epoch']}.")
