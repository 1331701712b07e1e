"""Populations of a search: which of its trials train together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from bpfree.data.batches import Batches
from bpfree.errors import SearchError, UserError
from bpfree.tuning.callbacks import made
from bpfree.tuning.execution import Feed, ended
from bpfree.tuning.member import Member
from bpfree.tuning.population import AVAILABLE, OutOfMemory, Program
from bpfree.tuning.programs import arrays_of, ready
from bpfree.tuning.progress import label
from bpfree.tuning.records import Trial
from bpfree.tuning.together import Attempt, train

_DEATHS_TOGETHER = 2  # of the process in a row; a run alone equals the others but for rounding


def groups(tuner, points: Mapping[int, dict[str, Any]]) -> list[list[int]]:
    """The indices of trials that may train together, in order, as many as a population takes.

    Most often each is alone.
    """
    possible = AVAILABLE and tuner.population != "off" and hasattr(tuner.hypermodel, "program")
    found: dict[Any, list[int]] = {}
    for index, values in points.items():
        simultaneous = values.get("schedule", "simultaneous") == "simultaneous"
        together = possible and simultaneous and not tuner.regime.augment
        found.setdefault(tuner.program(values) if together else index, []).append(index)
    most = len(points)
    if isinstance(tuner.population, int):
        most = max(1, tuner.population // tuner.executions_per_trial)
    return [
        alike[start : start + most]
        for alike in found.values()
        for start in range(0, len(alike), most)
    ]


class Populations:
    """Trains the trials of a search that are one program together; what cannot be, it leaves.

    Args:
        tuner: whose `regime`, `experiment`, `meter`, `program`, `model` and `build` are used.
        data: the data set.
        callbacks: as `Search.search` has them.
        progress: told of every epoch.
        limit: executions in a population at most; None: as many as the device has room for.
    """

    def __init__(self, tuner, data, callbacks, progress, limit):
        self.tuner, self.data = tuner, data
        self.callbacks, self.progress, self.limit = callbacks, progress, limit
        self._noted: set[str] = set()

    def begin(self, points: Mapping[int, dict[str, Any]]) -> None:
        """Takes the trials of a wave: their values, by index."""
        self.points = points
        self._programs = {index: self.tuner.program(values) for index, values in points.items()}
        self._left: set[str] = set()

    def train(self, index: int) -> None:
        """Brings a trial of the wave, and all others of its program, to their ends if it can."""
        key = self._programs[index]
        if key in self._left:
            return
        self._left.add(key)
        same = [i for i, program in self._programs.items() if program == key]
        trials = [self.tuner.experiment.trial(i, self.points[i]) for i in same]
        first = self.tuner.experiment.trial(index, self.points[index])
        try:
            self._train(first, trials)
        except SearchError:
            raise
        except Exception as error:
            for trial in (self.tuner.experiment.trial(i, self.points[i]) for i in same):
                if trial.state == "running":  # and will be again, alone
                    trial.leave()
            if key in self._noted:
                return
            self._noted.add(key)
            reason = str(error).strip().splitlines()
            self.progress.note(
                f"{label(first)} and its like are trained one by one: "
                f"{reason[0] if reason else type(error).__name__}"
            )

    def _train(self, first: Trial, trials: Sequence[Trial]) -> None:
        tuner = self.tuner
        model = tuner.model(first.hyperparameters, tuner.seed, self.data.input_shape)
        regime = tuner.regime.for_trial(first.hyperparameters)
        _check(model, regime, made(self.callbacks, model, first, 0))
        feed = Feed(self.data, regime)
        batches = [feed.train(tuner.seed + k) for k in range(tuner.executions_per_trial)]
        attempts: dict[str, Attempt] = {}
        slots: list[Member | int] = []
        for trial in trials:
            # One in which the process died again and again may be the reason: it runs alone.
            if ended(trial, regime) or trial.killed() >= _DEATHS_TOGETHER:
                slots += _epochs(trial, tuner.executions_per_trial)
                continue
            members = [
                self._member(trial, k, regime, batches[k], model)
                for k in range(tuner.executions_per_trial)
            ]
            attempts[trial.id] = Attempt(trial, members)
            slots += members
        if not attempts:
            return
        program = Program(model, batches[0], feed.validation())
        size = program.fitting(min(self.limit or len(slots), len(slots)))
        while True:
            try:
                self._in_groups(program, slots, size, attempts)
                return
            except OutOfMemory:
                if size == 1:
                    raise
                size //= 2

    def _in_groups(self, program, slots, size: int, attempts: dict[str, Attempt]) -> None:
        """Trains the members, `size` of them or fewer at a time."""
        size = math.ceil(len(slots) / math.ceil(len(slots) / size))
        slots = [*slots, *[0] * (-len(slots) % size)]
        for start in range(0, len(slots), size):
            group = slots[start : start + size]
            for member in group:
                if isinstance(member, Member) and attempts[member.trial.id].begin():
                    self.progress.trial_began(member.trial)
            train(program, group, lambda member: attempts[member.trial.id].ended(member))

    def _member(self, trial: Trial, k: int, regime, batches: Batches, model) -> Member:
        tuner, seed = self.tuner, self.tuner.seed + k

        def initial():
            fresh = ready(lambda: tuner.build(trial.hyperparameters, seed), self.data.input_shape)
            return arrays_of(fresh)

        return Member(
            trial,
            k,
            seed,
            regime,
            batches,
            initial,
            made(self.callbacks, model, trial, k),
            model,
            lambda row: self.progress.epoch_ended(trial, k, row),
            tuner.meter,
        )


def _epochs(trial: Trial, executions: int) -> list[int]:
    """How long each execution of an ended trial was trained; those after a failed one, as long as it."""
    lengths = [len(execution.history()) for execution in trial.executions()][:executions] or [0]
    return [*lengths, *lengths[-1:] * (executions - len(lengths))]


def _check(model: keras.Model, regime, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raises a UserError with what keeps models from training together."""
    if regime.augment:
        raise UserError("augmentation prepares every batch on its own.")
    if getattr(model, "schedule", "simultaneous") != "simultaneous":
        raise UserError("the blocks learn in turn.")
    alone = getattr(getattr(model, "rule", None), "alone", None)
    if alone:
        raise UserError(alone)
    for callback in callbacks:
        if not hasattr(callback, "reads_weights"):
            raise UserError(f"the callback {type(callback).__name__} may need a model of its own.")
