"""Beyond the border of a grid: further learning rates where the best one is the last that was tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras_tuner
from keras_tuner.engine import hyperparameters as hp_types
from keras_tuner.engine.trial import Trial, TrialStatus

from bpfree.errors import UserError
from bpfree.tuning import grid

MOST = 3
"""How many learning rates are added at either end, for each rule, at most."""


def declared(space: Sequence[hp_types.HyperParameter]) -> tuple[float, ...]:
    """The learning rates (`lr`) of a search space.

    Raises:
        UserError: unless there are two positive ones, whose ratio says how to go on.
    """
    rates = {
        rate for parameter in space if parameter.name == "lr" for rate in grid.values(parameter)
    }
    if len(rates) < 2 or min(rates) <= 0:
        raise UserError(
            f"To extend a grid takes at least two positive learning rates (lr), received "
            f"{sorted(rates)}: name more, or do not extend it."
        )
    return tuple(sorted(rates))


def points(
    rates: Sequence[float], trials: Iterable[Trial], objective: keras_tuner.Objective
) -> list[grid.Values]:
    """The next point of each rule (`algorithm`) whose best trial has the lowest or highest rate it met.

    It is that trial with a learning rate further out, by the ratio of the two outermost ones.

    Args:
        rates: the grid's, to count from.
        trials: all there are.
        objective: by which trials are compared.
    """
    rules: dict[str | None, list[Trial]] = {}
    for trial in trials:
        rules.setdefault(trial.hyperparameters.values.get("algorithm"), []).append(trial)
    found = []
    for tried in rules.values():
        best = _best(tried, objective)
        further = best and _further(
            best["lr"], {trial.hyperparameters.values["lr"] for trial in tried}, rates
        )
        if further:
            found.append({**best, "lr": further})
    return found


def _best(trials: Iterable[Trial], objective: keras_tuner.Objective) -> grid.Values | None:
    completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
    best = None
    for trial in completed:
        if best is None or objective.better_than(trial.score, best.score):
            best = trial
    return best and best.hyperparameters.values


def _further(rate: float, tried: set[float], rates: Sequence[float]) -> float | None:
    """The learning rate beyond this one; None if it has some on either side, or `MOST` were added."""
    for outermost, added in (
        (min, sum(other < min(rates) for other in tried)),
        (max, sum(other > max(rates) for other in tried)),
    ):
        if rate == outermost(tried) and len(tried) > 1 and added < MOST:
            # Twelve digits, as in a grid: 0.1 · 0.1 / 0.01 would otherwise be 1.0000…02.
            return float(f"{rate * rate / outermost(tried - {rate}):.12g}")
    return None
