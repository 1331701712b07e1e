"""GridOracle: proposes the points of a grid, all known up front."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from bpfree.errors import UserError
from bpfree.tuning import grid, records
from bpfree.tuning.objective import direction


class GridOracle(keras_tuner.Oracle):
    """Walks the whole grid; what is tried is known from the records alone.

    It has no state of its own to lose: the points follow from the search space, and the trials are
    read from an experiment's folder.

    Args:
        objective: a metric's name, whose direction follows from it, or a `keras_tuner.Objective`.
        admissible: whether to try a point, from its values; None tries all.
        max_trials: only the first so many points; None means all.
        hyperparameters: as in Keras Tuner: overrides, or the whole space.
        **kwargs: the remaining arguments of `keras_tuner.Oracle`.
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective,
        admissible: Callable[[grid.Values], bool] | None = None,
        max_trials: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        **kwargs,
    ):
        if isinstance(objective, str):
            objective = keras_tuner.Objective(objective, direction(objective))
        if not isinstance(objective, keras_tuner.Objective):
            raise UserError(f"A grid search has one objective, received {objective!r}: name one.")
        super().__init__(
            objective=objective, max_trials=max_trials, hyperparameters=hyperparameters, **kwargs
        )
        self.admissible = admissible

    def points(self) -> list[grid.Values]:
        """The values of every trial, in order."""
        points = grid.points(self.get_space().space)
        found = [point for point in points if self.admissible is None or self.admissible(point)]
        return found[: self.max_trials]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The first point that has no trial yet, or the end of the search."""
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        for point in self.points():
            if point not in tried:
                return {"status": TrialStatus.RUNNING, "values": point}
        return {"status": TrialStatus.STOPPED}

    def record(self, trial: records.Trial) -> Trial:
        """Takes over a trial from the records, in Keras Tuner's terms."""
        hyperparameters = self.get_space()
        hyperparameters.values = dict(trial.hyperparameters)
        known = Trial(hyperparameters, trial_id=trial.id, status=trial.state.upper())
        known.score, known.message = trial.score, trial.failure
        self.trials[trial.id] = known
        return known
