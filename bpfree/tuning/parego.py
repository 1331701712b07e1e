"""ParEGO: several objectives become one score, under other weights for every proposal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus

RHO = 0.05
OBJECTIVE = keras_tuner.Objective("augmented_chebyshev", "min")
"""What the scores are of."""


def scored(
    trials: Sequence[Trial],
    objectives: Sequence[keras_tuner.Objective],
    seed: int,
    number: int,
) -> list[Trial]:
    """Copies of the completed trials, scored for one proposal: `chebyshev` of the normalised objectives.

    The weights are drawn evenly from the simplex, so that proposals in turn look for every part of the
    front. An objective that no trial has does not count. A trial that lacks one of the others is left out:
    what would be assumed in its place, a model would take for an outcome.

    Args:
        trials: of one rule; the first objective is their `score`, the others are in their `metrics`.
        objectives: at least one.
        seed: of the search, ≥ 0.
        number: of the proposal, ≥ 0; with the seed it decides the weights.

    Source: Knowles 2006, IEEE Transactions on Evolutionary Computation 10(1),
    https://doi.org/10.1109/TEVC.2005.851274; the paper draws from weights
    that are evenly spaced, and has a model and an acquisition of its own.
    """
    completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
    costs = np.array([_costs(trial, objectives) for trial in completed])
    costs = costs.reshape(len(completed), len(objectives))
    costs = costs[:, np.isfinite(costs).any(axis=0)]
    whole = np.isfinite(costs).all(axis=1)
    if not (costs.size and whole.any()):
        return []
    weights = np.random.default_rng([seed, number]).dirichlet(np.ones(costs.shape[1]))
    kept = [copy(trial) for trial, is_whole in zip(completed, whole, strict=True) if is_whole]
    for trial, score in zip(kept, chebyshev(normalised(costs[whole]), weights), strict=True):
        trial.score = float(score)
    return kept


def normalised(costs: np.ndarray) -> np.ndarray:
    """Every column between its least value, 0, and its greatest, 1; 0 where all are alike."""
    least, span = costs.min(axis=0), np.ptp(costs, axis=0)
    return (costs - least) / np.where(span > 0, span, 1)


def chebyshev(costs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The augmented Chebyshev function of every row f: max_i(w_i f_i) + 0.05 Σ_i w_i f_i.

    The maximum alone would call a row as good as one that betters it in another objective.

    Args:
        costs: a row per trial, a column per objective; in [0, 1], to be minimised.
        weights: one per objective, ≥ 0, 1 in all.

    Source: Knowles 2006, the scalarising function of ParEGO.
    """
    weighted = weights * costs
    return weighted.max(axis=1) + RHO * weighted.sum(axis=1)


def _costs(trial: Trial, objectives: Sequence[keras_tuner.Objective]) -> list[float]:
    """The objectives' values, the less the better; NaN for what the trial has not."""
    first, *further = objectives
    known = [objective.name for objective in further if trial.metrics.exists(objective.name)]
    values = {first.name: trial.score, **{n: trial.metrics.get_last_value(n) for n in known}}
    signs = {"min": 1, "max": -1}
    return [signs[o.direction] * values.get(o.name, math.nan) for o in objectives]
