"""HyperbandOracle: many short trainings, of which the best go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from bpfree.errors import UserError
from bpfree.tuning import grid, sampling
from bpfree.tuning.oracle import Objectives, Oracle, Wave


@dataclass(frozen=True)
class Rung:
    """How many trials of each rule are trained, and to which epoch."""

    trials: int
    epochs: int


class HyperbandOracle(Oracle):
    """Hyperband within each rule (`algorithm`): brackets of random points, whose best go on, rung by rung.

    A trial that is promoted goes on from where it stands; rules do not compete for promotions, since a
    slow one would lose before it was tuned. The brackets are those of Keras Tuner's Hyperband. Its oracle
    is not used: it keeps in memory who was promoted, makes a promoted trial another one, and promotes none
    of a rung in which as many failed as it would drop, where learning rates that diverge are the rule.

    Args:
        objective: as in `Oracle`, like the others.
        admissible: likewise.
        factor: a rung has 1 / factor of the trials, and factor times the epochs, of the one before; ≥ 2.
        hyperparameters: likewise.
        **kwargs: the remaining arguments of `Oracle`.
    """

    def __init__(
        self,
        objective: Objectives,
        admissible: Callable[[grid.Values], bool] | None = None,
        factor: int = 3,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        **kwargs,
    ):
        if factor < 2:
            raise UserError(f"factor must be at least 2, received {factor}.")
        super().__init__(objective, admissible, hyperparameters=hyperparameters, **kwargs)
        self.factor = factor

    def waves(self, trials: Mapping[int, Trial], epochs: int) -> Iterator[Wave]:
        """A wave for every rung, the bracket with the shortest trainings first."""
        if epochs < self.factor:
            raise UserError(
                f"Hyperband trains some trials for 1 / {self.factor} of the epochs, received {epochs}: "
                f"give at least {self.factor} epochs, or another search."
            )
        schedules = [p for p in self.get_space().space if p.name == "schedule"]
        if any("sequential" in grid.values(schedule) for schedule in schedules):
            raise UserError(
                "Hyperband judges trials by their first epochs, in which a sequential schedule trains the "
                "first block alone: choose another search, or the schedule simultaneous."
            )
        streams = self._streams()
        for first, *others in brackets(epochs, self.factor):
            drawn = [values for stream in streams for values in islice(stream, first.trials)]
            points, since = dict(enumerate(drawn, len(trials))), 0
            for rung, following in zip([first, *others], [*others, None], strict=True):
                if not points:
                    break
                yield Wave(points, since, rung.epochs)
                since = rung.epochs
                if following:
                    points = self._best(points, trials, following.trials)

    def planned(self, epochs: int) -> list[tuple[int, int, int]]:
        """Every rung, with as many trials as there are points for, if none fails."""
        found = []
        streams = self._streams()
        for bracket in brackets(epochs, self.factor):
            drawn = [len(list(islice(stream, bracket[0].trials))) for stream in streams]
            for before, rung in zip([None, *bracket], bracket, strict=False):
                trials = sum(min(rung.trials, points) for points in drawn)
                found.append((trials, before.epochs if before else 0, rung.epochs))
        return found

    def described(self) -> dict[str, Any]:
        """The kind of search and its arguments."""
        return {"search": "hyperband", "factor": self.factor}

    def _streams(self) -> list[Iterator[grid.Values]]:
        """The points of each rule, in the order in which they are tried."""
        return [sampling.draws(self, space) for space in sampling.rules(self.get_space()).values()]

    def _best(
        self, points: Mapping[int, grid.Values], trials: Mapping[int, Trial], most: int
    ) -> dict[int, grid.Values]:
        """So many of each rule's trials at most, those that did best; of equals, the first."""
        sign = -1 if self.objective.direction == "max" else 1
        done = [index for index in points if trials[index].status == TrialStatus.COMPLETED]
        done.sort(key=lambda index: sign * trials[index].score)
        by_rule: dict[str | None, list[int]] = {}
        for index in done:
            by_rule.setdefault(points[index].get("algorithm"), []).append(index)
        kept = sorted(index for best in by_rule.values() for index in best[:most])
        return {index: points[index] for index in kept}


def brackets(epochs: int, factor: int) -> list[list[Rung]]:
    """Keras Tuner's brackets: in each, rungs of fewer and longer trainings; the last has one rung.

    Args:
        epochs: of the longest trainings.
        factor: between rungs.
    """
    most = 0
    while factor ** (most + 1) <= epochs:
        most += 1
    size = 1 + most + (factor**most < epochs)
    return [
        [
            Rung(
                _ceil(size * factor ** (halvings - rung), halvings + 1),
                _ceil(epochs, factor ** (halvings - rung)),
            )
            for rung in range(halvings + 1)
        ]
        for halvings in range(most, -1, -1)
    ]


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
