"""Members: executions that train side by side, each recorded as if it were alone."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import keras
import numpy as np

from bpfree.costs import Account, Meter, Reading
from bpfree.data.batches import Batches
from bpfree.tuning import execution as executions
from bpfree.tuning import records
from bpfree.tuning.callbacks import best_epoch, check, failed, row_of
from bpfree.tuning.checkpoint import Checkpoint, read_archive, write_archive
from bpfree.tuning.execution import Regime


class Member:
    """One execution of a population: what `bpfree.tuning.execution.run` does for a model alone.

    What an epoch leaves is written now and then, see `save`: an epoch that was not is run again after a
    kill, with the same result.

    Args:
        trial: whose execution it is.
        k: which.
        seed: of the batch order.
        regime: how it trains.
        batches: its training batches.
        initial: gives the initial values of its variables; asked if it begins from the start.
        callbacks: further callbacks, which work at the end of an epoch and change no variable.
        model: lent to the callbacks.
        report: called with every epoch's row.
        meter: measures what it costs: of time and energy its share, of memory nothing.
    """

    def __init__(
        self,
        trial: records.Trial,
        k: int,
        seed: int,
        regime: Regime,
        batches: Batches,
        initial: Callable[[], list[np.ndarray]],
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        report: Callable[[dict], None],
        meter: Meter,
    ):
        self.trial, self.k, self.seed, self.regime = trial, k, seed, regime
        self.execution = trial.execution(k)
        self.batches, self.initial, self.model, self.report = batches, initial, model, report
        self.meter = meter
        self.checkpoint = Checkpoint(self.execution.checkpoint)
        self.watched = [*callbacks, *executions.early_stopping(regime, model)]
        self.reads_weights = any(callback.reads_weights for callback in callbacks)
        self.result = executions.outcome(self.execution, regime)
        self._paused = None if self.result else self.execution.result()
        self.failure: str | None = None
        self.ended = self.result is not None
        self.history = self.execution.history()
        self.improved = False
        """Whether the present weights are the best so far."""
        self._begun = False

    @property
    def score(self) -> float | None:
        """That of the finished execution, else None."""
        return self.result and self.result["score"]

    def begin(self) -> list[np.ndarray] | None:
        """Goes on from where the execution stands on disk.

        Returns:
            The values of its variables; None if the run is over.
        """
        self.epoch, stopped = executions.standing(self.execution)
        if not self.epoch:  # what it had paused with was spoilt
            self._paused = None
        costs = replace(
            self.checkpoint.costs(), peak_host_memory=None, peak_device_memory=None
        )  # which are the population's
        self.account = Account(self.meter, costs)
        self.history = self.execution.history()
        self.improved, self._unsaved, self._best_unsaved = False, [], False
        if stopped or self.epoch >= self.regime.last:
            self._finish()
            return None
        if self.epoch:
            archive = read_archive(self.checkpoint.path)
            values = [archive[f"{index}"] for index in range(len(archive))]
        else:
            values = self.initial()
        for callback in self.watched:
            callback.set_model(self.model)
            callback.set_params({"epochs": self.regime.epochs})
            callback.on_train_begin()
        self._begun = True
        self.checkpoint.restore_callbacks(self.watched)
        return values

    def at(self, epoch: int) -> bool:
        """Whether this is its next epoch, from 0."""
        return not self.ended and self.epoch == epoch

    def order(self) -> np.ndarray:
        """The examples of the present epoch, in order."""
        return self.batches.order(self.epoch)[: self.batches.bounds[-1]]

    def epoch_began(self) -> None:
        """Tells the callbacks."""
        for callback in self.watched:
            callback.on_epoch_begin(self.epoch)

    def epoch_ended(self, logs: dict[str, float], spent: Reading) -> None:
        """Takes the epoch's logs; ends the member where its run is over, or fails.

        Args:
            logs: as Keras has them.
            spent: the member's share of the epoch.
        """
        self.model.stop_training = False
        for callback in self.watched:
            callback.on_epoch_end(self.epoch, logs)
        row = row_of(self.epoch, logs)
        self.history.append(row)
        self._unsaved.append(row)
        self.epoch += 1
        self.account.add(spent)
        self.account.add_epoch(self.model, self.batches)
        self.improved = False
        check(row, self.regime.objective.name)
        best = self.regime.score != "best"
        self.improved = best or best_epoch(self.history, self.regime.objective) == self.epoch
        self._best_unsaved |= self.improved
        self.stopped = self.model.stop_training
        self.ended = self.stopped or self.epoch >= self.regime.last
        self.report(row)

    def save(self, values: Sequence[np.ndarray], best: Sequence[np.ndarray]) -> None:
        """Writes what is new: history, best weights, and a snapshot or at the end the result.

        Args:
            values: its variables' present values.
            best: its weights at its best epoch.
        """
        if self._unsaved:
            self.execution.extend(self._unsaved)
            self._unsaved = []
        if self._best_unsaved:
            write_archive(self.execution.best_weights, numbered(best), {})
            self._best_unsaved = False
        pausing = self.ended and self.regime.last < self.regime.epochs
        if not self.ended or pausing and not self.failure:
            stopped, costs = self.ended and self.stopped, self.account.costs
            self.checkpoint.write(numbered(values), self.watched, self.epoch, stopped, costs)
        if self.ended and not self.failure:
            self._finish()

    def fail(self) -> None:
        """Ends the member by the exception that is being handled."""
        self.failure, self.ended, self.improved = traceback.format_exc(), True, False
        self._fail_callbacks()

    def discard(self) -> None:
        """Ends the member and undoes what it did: alone, it would not have begun."""
        self.ended, self.result, self.failure, self.improved = True, None, None, False
        self._unsaved, self._best_unsaved = [], False
        self._fail_callbacks()
        if self._paused:
            self.execution.cut(self._paused["epochs"])
            self.execution.finish(self._paused)
        else:
            shutil.rmtree(self.execution.path, ignore_errors=True)

    def _finish(self) -> None:
        self.ended = True
        for callback in self.watched if self._begun else ():
            callback.on_train_end()
        self._begun = False
        self.result = executions.finish(self.execution, self.regime, self.seed, self.account.costs)

    def _fail_callbacks(self) -> None:
        if self._begun:
            failed(self.watched)
        self._begun = False


def numbered(values: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Values by their position, as `bpfree.tuning.checkpoint` has them."""
    return {f"{index}": value for index, value in enumerate(values)}
