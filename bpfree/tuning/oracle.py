"""Oracles: which points a search tries, wave after wave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from bpfree.errors import UserError
from bpfree.tuning import extension, grid, records
from bpfree.tuning.objective import check_order, direction, measured

Objectives = str | keras_tuner.Objective | Sequence[str | keras_tuner.Objective]
"""What a search is for: a metric, whose direction follows from its name, or several in order of rank."""


@dataclass(frozen=True)
class Wave:
    """Trials that can be run now: none of them waits for another one's outcome.

    Attributes:
        points: the values of each, by the trial's index.
        since: the epoch that they have come to, in an earlier wave.
        until: the epoch that they are trained to now; None means the last one.
    """

    points: dict[int, grid.Values]
    since: int = 0
    until: int | None = None


class Oracle(keras_tuner.Oracle):
    """Proposes waves of trials; what comes next is known from the outcomes of those before.

    It has no state of its own to lose: the waves follow from the search space, the seed and the trials,
    which are read from an experiment's folder.

    Args:
        objective: a metric's name, whose direction follows from it, or a `keras_tuner.Objective`; or several,
            of which the first scores trials. Those after it are measured beside it, and may be costs, see
            `bpfree.tuning.objective.COSTS`.
        admissible: whether to try a point, from its values; None tries all.
        max_trials: at most so many trials; None means no limit.
        hyperparameters: as in Keras Tuner: overrides, or the whole space.
        seed: of what is drawn at random.
        **kwargs: the remaining arguments of `keras_tuner.Oracle`.
    """

    def __init__(
        self,
        objective: Objectives,
        admissible: Callable[[grid.Values], bool] | None = None,
        max_trials: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        seed: int = 0,
        **kwargs,
    ):
        objective, *further = objectives(objective)
        if max_trials is not None and max_trials < 1:
            raise UserError(f"max_trials must be at least 1, received {max_trials}.")
        super().__init__(
            objective=objective, max_trials=max_trials, hyperparameters=hyperparameters, **kwargs
        )
        self.further_objectives = tuple(further)
        self._admissible = admissible
        self.seed = seed  # Keras Tuner's own takes another one where it is 0.

    def waves(self, trials: Mapping[int, Trial], epochs: int) -> Iterator[Wave]:
        """The waves of one search, none of them empty.

        Args:
            trials: by index, those of the waves so far; whoever asks for the next wave has put the
                outcomes of the last one there.
            epochs: of a whole training.
        """
        raise NotImplementedError

    def planned(self, epochs: int) -> list[tuple[int, int, int]]:
        """How many trials will be trained from which epoch until which, as far as that is known before."""
        return []

    def described(self) -> dict[str, Any]:
        """What decides the waves beside the space, `max_trials` and the seed, for the record."""
        return {}

    def admissible(self, values: grid.Values) -> bool:
        """Whether the point can be tried."""
        return self._admissible is None or self._admissible(values)

    def record(self, trial: records.Trial) -> Trial:
        """Takes over a trial from the records, in Keras Tuner's terms."""
        hyperparameters = self.get_space()
        hyperparameters.values = dict(trial.hyperparameters)
        known = Trial(hyperparameters, trial_id=trial.id, status=trial.state.upper())
        known.score, known.message = trial.score, trial.failure
        further = {objective.name: objective.direction for objective in self.further_objectives}
        for name, value in measured(trial, further).items():
            known.metrics.register(name, further[name])
            known.metrics.update(name, value)
        self.trials[trial.id] = known
        return known


class GridOracle(Oracle):
    """Walks the whole grid, in one wave.

    Args:
        objective: as in `Oracle`, like the others.
        admissible: likewise.
        max_trials: only the first so many points; None means all.
        hyperparameters: likewise.
        extend: whether further waves follow where the best learning rate lies at the border, see
            `bpfree.tuning.extension`.
        **kwargs: the remaining arguments of `keras_tuner.Oracle`.
    """

    def __init__(
        self,
        objective: Objectives,
        admissible: Callable[[grid.Values], bool] | None = None,
        max_trials: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        extend: bool = False,
        **kwargs,
    ):
        super().__init__(objective, admissible, max_trials, hyperparameters, **kwargs)
        self.extend = extend

    def points(self) -> list[grid.Values]:
        """The values of the grid's trials, in order."""
        points = grid.points(self.get_space().space)
        return [point for point in points if self.admissible(point)][: self.max_trials]

    def waves(self, trials: Mapping[int, Trial], epochs: int) -> Iterator[Wave]:
        """The grid, then what extends it."""
        rates = extension.declared(self.get_space().space) if self.extend else ()
        points = self.points()
        while points:
            yield Wave(dict(enumerate(points, len(trials))))
            room = None if self.max_trials is None else self.max_trials - len(trials)
            beyond = extension.points(rates, trials.values(), self.objective) if rates else []
            points = [point for point in beyond if self.admissible(point)][:room]

    def described(self) -> dict[str, Any]:
        """Whether the grid is extended."""
        return {"extend_grid": True} if self.extend else {}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The first point of the grid that has no trial yet, or the end of the search."""
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        for point in self.points():
            if point not in tried:
                return {"status": TrialStatus.RUNNING, "values": point}
        return {"status": TrialStatus.STOPPED}


def objectives(named: Objectives) -> list[keras_tuner.Objective]:
    """Objectives with their directions, the one that decides first.

    Raises:
        UserError: there is none, one of another type or twice, or a cost comes first.
    """
    listed = named if isinstance(named, (list, tuple)) else [named]
    found = [keras_tuner.Objective(o, direction(o)) if isinstance(o, str) else o for o in listed]
    if not found or not all(isinstance(o, keras_tuner.Objective) for o in found):
        raise UserError(
            f"An objective is a name or a keras_tuner.Objective, or a list of them, received {named!r}: "
            "name a metric, e.g. 'val_loss'."
        )
    check_order([objective.name for objective in found])
    return found
