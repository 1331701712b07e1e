"""The searches, by Keras Tuner's names: what distinguishes them is their oracle."""

from __future__ import annotations

from collections.abc import Callable

import keras_tuner

from bpfree.tuning.bayesian import BayesianOptimizationOracle
from bpfree.tuning.hyperband import HyperbandOracle
from bpfree.tuning.oracle import GridOracle, Objectives
from bpfree.tuning.sampling import RandomSearchOracle
from bpfree.tuning.tuner import Search


class GridSearch(Search):
    """Tries every point of the hypermodel's (conditional) search space.

    Args:
        hypermodel: see `Search`. An attribute `admissible(values) -> bool` leaves points out.
        objective: a metric that epochs log, e.g. `val_loss`, `val_error`, `val_accuracy`, or a
            `keras_tuner.Objective`. Of a list of them the first decides: it scores epochs, executions and
            trials. The others are measured beside it, and may be costs: `seconds`, `train_flops`, `energy`,
            `peak_host_memory`, `peak_device_memory`; `bpfree.reporting.pareto_front` weighs them all.
        directory: see `Search`, like `project_name`, `executions_per_trial`, `seed` and `score`.
        max_trials: at most so many trials: the first points of the grid.
        hyperparameters: as in Keras Tuner.
        extend_grid: whether a rule (`algorithm`) whose best learning rate (`lr`) is the lowest or highest
            tried gets the next one beyond it, by the ratio of the two outermost, with its best trial's
            other hyperparameters: until the best has others on either side, at most 3 times at either
            end.
        **options: the remaining arguments of `Search`.

    Raises:
        UserError: for an impossible argument, or a project that holds another configuration.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable,
        objective: Objectives = "val_loss",
        directory=None,
        project_name: str | None = None,
        executions_per_trial: int = 3,
        seed: int = 0,
        score: str = "best",
        max_trials: int | None = None,
        *,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        extend_grid: bool = False,
        **options,
    ):
        oracle = GridOracle(
            objective,
            admissible=getattr(hypermodel, "admissible", None),
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            extend=extend_grid,
            seed=seed,
        )
        place = (directory, project_name, executions_per_trial, seed, score)
        super().__init__(hypermodel, oracle, *place, **options)


class RandomSearch(Search):
    """Tries points at random, as many of each rule (`algorithm`).

    Args:
        hypermodel: as in `GridSearch`, like `objective` and `hyperparameters`.
        max_trials: how many; all that there are, if these are fewer.
        seed: of the points, and of the first execution.
        **options: the remaining arguments of `Search`.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable,
        objective: Objectives = "val_loss",
        *,
        max_trials: int = 10,
        seed: int = 0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        **options,
    ):
        oracle = RandomSearchOracle(
            objective,
            admissible=getattr(hypermodel, "admissible", None),
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            seed=seed,
        )
        super().__init__(hypermodel, oracle, seed=seed, **options)


class BayesianOptimization(Search):
    """Tries random points, then those that promise most by the outcomes so far, as many of each rule.

    Several objectives promise as one, under other weights for every point, see `bpfree.tuning.parego`.

    Args:
        hypermodel: as in `GridSearch`, like `objective` and `hyperparameters`.
        max_trials: how many; all that there are, if these are fewer.
        num_initial_points: random points of each rule (`algorithm`) before; None: three per
            hyperparameter that varies, in half of the trials at most.
        seed: of the points, and of the first execution.
        **options: the remaining arguments of `Search`.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable,
        objective: Objectives = "val_loss",
        *,
        max_trials: int = 10,
        num_initial_points: int | None = None,
        seed: int = 0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        **options,
    ):
        oracle = BayesianOptimizationOracle(
            objective,
            max_trials,
            num_initial_points,
            admissible=getattr(hypermodel, "admissible", None),
            hyperparameters=hyperparameters,
            seed=seed,
        )
        super().__init__(hypermodel, oracle, seed=seed, **options)


class Hyperband(Search):
    """Trains many random points for few epochs, and the best of each rule (`algorithm`) for more.

    A trial that is promoted goes on from where it stands, and comes to the same result as one that is trained
    for as long at once. The epochs of `search` are those of the longest trainings. Of several objectives the
    first alone promotes.

    Args:
        hypermodel: as in `GridSearch`, like `objective` and `hyperparameters`.
        factor: of every so many trials one is promoted, to so many times the epochs; ≥ 2.
        seed: of the points, and of the first execution.
        **options: the remaining arguments of `Search`.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable,
        objective: Objectives = "val_loss",
        *,
        factor: int = 3,
        seed: int = 0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        **options,
    ):
        oracle = HyperbandOracle(
            objective,
            admissible=getattr(hypermodel, "admissible", None),
            factor=factor,
            hyperparameters=hyperparameters,
            seed=seed,
        )
        super().__init__(hypermodel, oracle, seed=seed, **options)
