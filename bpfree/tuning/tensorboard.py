"""TensorBoard logs of a search, alike on both backends and without TensorFlow."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from bpfree.analysis import trackers
from bpfree.errors import DiskError, UserError
from bpfree.tuning import events, grid, hparams
from bpfree.tuning.checkpoint import Checkpoint
from bpfree.tuning.progress import label
from bpfree.tuning.records import Trial, write_atomic

_LONGEST = 150  # characters of a run's name: a folder's may have 255 bytes


class Log:
    """The log of a search: a run per execution, and the HParams dashboard over all of them.

    `tuner.search(…, callbacks=Log(tuner, data).callbacks)` writes it to `log/` in the project. A trial is a
    group of sessions there, one per execution, and the metric `score` is what an execution is scored by.
    A log that cannot be written is said so, once, and the search goes on.

    Args:
        tuner: a `GridSearch`.
        data: what it searches with.
        histogram_freq: epochs between histograms of every block's weights, and of its activations on the
            trackers' probe batch; 0 writes none.
    """

    def __init__(self, tuner, data, histogram_freq: int = 0):
        self.tuner = tuner
        self.data = data
        self.histogram_freq = histogram_freq
        self.path = tuner.experiment.path / "log"
        space = tuner.oracle.get_space().space
        self._domains: dict[str, list] = {}
        for parameter in space:  # of which some may share a name, under different conditions
            known = self._domains.setdefault(parameter.name, [])
            known += [value for value in _domain(parameter) if value not in known]
        self._varied = [name for name, values in self._domains.items() if len(values) > 1]
        self._metrics: dict[str, str] = {}
        self._complained = False

    def callbacks(self, model: keras.Model, trial: Trial, k: int) -> list[TensorBoard]:
        """The callback of an execution; it must come after those that add to an epoch's logs."""
        return [TensorBoard(self, trial, k)]

    def probe(self, trial: Trial):
        """The inputs whose activations are logged."""
        return self.tuner.probe(self.data, trial.hyperparameters)[0]

    def run_name(self, trial: Trial) -> str:
        """What a trial is called in TensorBoard: `0003 dfa 500 tanh lr 0.001`, with all that is swept."""
        name = f"{trial.index:04d} {label(trial, self._varied)}"
        return re.sub(r"[/\\\s]+", " ", name)[:_LONGEST].strip()

    def better(self, score: float, than: float | None) -> bool:
        """Whether an epoch's objective is what an execution is scored by, after those before it."""
        latest = self.tuner.score == "last"
        return latest or than is None or self.tuner.oracle.objective.better_than(score, than)

    def declare(self, values: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Makes sure that the dashboard knows these values and metrics.

        It shows a value outside of its domain nowhere, and a domain may grow during a search.
        """
        first = not self._metrics
        if first:
            self._remember()
        if self._include(values, metrics) or first:  # what is on record may not have been declared
            content = hparams.experiment(self._domains, self._metrics)
            # One file, replaced as a whole: TensorBoard heeds the first declaration that it finds.
            file = self.path / "events.out.tfevents.0000000000.experiment"
            entries = [events.version(), events.event([content], step=0)]
            write_atomic(file, events.encoded(entries))

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Keeps the training from what goes wrong with the log alone."""
        try:
            yield
        except (OSError, DiskError) as error:
            if not self._complained:
                print(f"TensorBoard's log could not be written: {error}", file=sys.stderr)
            self._complained = True

    def _remember(self) -> None:
        """Takes in what earlier processes have met."""
        objective = self.tuner.oracle.objective.name
        epoch = "last epoch" if self.tuner.score == "last" else "best epoch"
        self._metrics["score"] = f"{objective}, {epoch}"
        for trial in self.tuner.experiment.trials():
            first = [row for done in trial.executions()[:1] for row in done.history()[:1]]
            self._include(trial.hyperparameters, [name for row in first for name in row])

    def _include(self, values: Mapping[str, Any], metrics: Iterable[str]) -> bool:
        """Adds what is new; whether anything was."""
        before = sum(map(len, (*self._domains.values(), self._metrics)))
        for name, value in values.items():
            known = self._domains.setdefault(name, [])
            known += [value] if value not in known else []
        for name in metrics:
            # Those of single blocks are in the scalars: here they would be hundreds of columns.
            if name != "epoch" and "/" not in name:
                self._metrics.setdefault(name, name)
        return before < sum(map(len, (*self._domains.values(), self._metrics)))


class TensorBoard(keras.callbacks.Callback):
    """Writes the run of an execution: its logs and score as scalars, histograms, and its session.

    Args:
        log: that of the search.
        trial: whose execution it is.
        k: which.
    """

    def __init__(self, log: Log, trial: Trial, k: int):
        super().__init__()
        self.log = log
        self.trial = trial
        self.execution = trial.execution(k)
        self.name = log.run_name(trial)
        self._file = events.EventFile(log.path / self.name / f"execution-{k}")
        self._x = log.probe(trial) if log.histogram_freq else None
        self._objective = log.tuner.oracle.objective.name

    @property
    def reads_weights(self) -> bool:
        """Whether an epoch's end needs the model; the callback does its work there alone."""
        return self.log.histogram_freq > 0

    def on_train_begin(self, logs=None):
        self._score, history = None, self.execution.history()
        for row in history:
            self._rate(row)
        start = hparams.session_start(self.trial.hyperparameters, self.name)
        with self.log.spared():
            self._file.restart(len(history) + 1)
            self._file.append([start], step=0)

    def on_epoch_end(self, epoch, logs=None):
        step = epoch + 1
        self._rate(logs)
        summaries = [scalar_pb(name, float(value)) for name, value in logs.items()]
        if self._score is not None:
            summaries.append(scalar_pb("score", self._score))
        if self.log.histogram_freq and step % self.log.histogram_freq == 0:
            # One access to `self.model`: on JAX it copies the training state back.
            summaries += histograms(self.model, self._x)
        with self.log.spared():
            self.log.declare(self.trial.hyperparameters, logs)
            self._file.append(summaries, step)

    def on_train_end(self, logs=None):
        regime = self.log.tuner.regime
        # At a pause it may go on and fail, and TensorBoard heeds the first end that it finds.
        if regime.last == regime.epochs or self._stopped():
            self._end(hparams.SUCCESS)

    def on_train_failure(self):
        """Ends the session of a run that an exception ended, see `bpfree.tuning.callbacks.failed`."""
        self._end(hparams.FAILURE)

    def _rate(self, logs: Mapping[str, float]) -> None:
        score = logs.get(self._objective)
        if score is not None and self.log.better(score, self._score):
            self._score = float(score)

    def _stopped(self) -> bool:
        """Whether a callback has stopped the execution: of a population's, its model does not say."""
        return Checkpoint(self.execution.checkpoint).progress()[1]

    def _end(self, status: int) -> None:
        with self.log.spared():
            self._file.append([hparams.session_end(status)], step=0)


def _domain(parameter) -> list:
    """A hyperparameter's values; none where they are not finitely many: those that are met are added."""
    try:
        return grid.values(parameter)
    except UserError:
        return []


def histograms(learner, x) -> Iterator[Summary]:
    """Of every part's weights, `block_1/kernel` …, and of the blocks' activations on x."""
    for place, layer in trackers.parts(learner.network):
        seen = Counter()
        for weight in layer.trainable_variables:
            seen[weight.name] += 1
            number = f"_{seen[weight.name]}" if seen[weight.name] > 1 else ""
            yield from _histogram(f"{place}/{weight.name}{number}", [weight])
    blocks = zip(*trackers.activations(learner, x), strict=True)
    for index, batches in enumerate(blocks, 1):
        yield from _histogram(f"block_{index}/activation", batches)


def _histogram(name: str, parts: Iterable) -> Iterator[Summary]:
    """Of the finite values; none where a diverging run has no other."""
    arrays = [keras.ops.convert_to_numpy(part).ravel() for part in parts]
    values = np.concatenate(arrays).astype("float32")
    values = values[np.isfinite(values)]
    if values.size:
        yield histogram_pb(name, values)
