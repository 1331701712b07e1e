"""BayesianOptimizationOracle: points where a model of the outcomes so far expects the most."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import keras_tuner
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial
from sklearn.exceptions import ConvergenceWarning

from bpfree.errors import UserError
from bpfree.tuning import grid, parego, sampling
from bpfree.tuning.oracle import Objectives, Oracle, Wave


class BayesianOptimizationOracle(Oracle):
    """Keras Tuner's Bayesian optimisation of each rule (`algorithm`) by itself, side by side.

    After a wave of random points, every wave has one point per rule, so that each has the same budget. What
    Keras Tuner proposes a second time, or cannot work, is replaced by a random point. Several objectives are
    one to it, by other weights for every proposal, see `bpfree.tuning.parego`.

    Args:
        objective: as in `Oracle`, like the others.
        max_trials: in all, shared evenly by the rules.
        num_initial_points: random points for each rule; None: `initial_points`.
        **options: the remaining arguments of `Oracle`.
    """

    def __init__(
        self,
        objective: Objectives,
        max_trials: int,
        num_initial_points: int | None = None,
        **options,
    ):
        if num_initial_points is not None and num_initial_points < 1:
            raise UserError(
                f"num_initial_points must be at least 1, received {num_initial_points}."
            )
        super().__init__(objective, max_trials=max_trials, **options)
        self.num_initial_points = num_initial_points

    def waves(self, trials: Mapping[int, Trial], epochs: int) -> Iterator[Wave]:
        """Random points, then one for each rule at a time."""
        # What is recorded was proposed from the same outcomes: it need not be found again.
        recorded = {
            int(name.split("-")[0]): t.hyperparameters.values for name, t in self.trials.items()
        }
        spaces = sampling.rules(self.get_space())
        rules = {name: _Rule(self, space) for name, space in spaces.items()}
        initial = self.num_initial_points or initial_points(self.get_space(), self.max_trials)
        points = [rule.draw() for _ in range(initial) for rule in rules.values()]
        while points := [point for point in points if point][: self.max_trials - len(trials)]:
            wave = Wave(dict(enumerate(points, len(trials))))
            yield wave
            for index, values in wave.points.items():
                rules[values.get("algorithm")].trials.append(trials[index])
            if len(trials) == self.max_trials:
                return
            points = []
            for name, rule in rules.items():
                known = recorded.get(len(trials) + sum(point is not None for point in points), {})
                is_its = known and known.get("algorithm") == name
                points.append(rule.take(known) if is_its else rule.propose())

    def planned(self, epochs: int) -> list[tuple[int, int, int]]:
        """As many as there may be; all points, if these are fewer."""
        points = islice(sampling.in_turn(self), self.max_trials)
        return [(sum(1 for _ in points), 0, epochs)]

    def described(self) -> dict[str, Any]:
        """The kind of search and its arguments."""
        return {"search": "bayesian", "num_initial_points": self.num_initial_points}


def initial_points(space: keras_tuner.HyperParameters, max_trials: int) -> int:
    """Random points for each rule: three per hyperparameter that varies, in half of the trials at most."""
    spaces = sampling.rules(space).values()
    wanted = max(3 * len(sampling.varying(rule)) for rule in spaces)
    return max(1, min(wanted, max_trials // (2 * len(spaces))))


class _Rule:
    """The optimisation of one rule's hyperparameters.

    Attributes:
        trials: those of the rule, whose outcomes decide what is proposed.
    """

    def __init__(self, oracle: BayesianOptimizationOracle, space: keras_tuner.HyperParameters):
        self.trials: list[Trial] = []
        self._oracle, self._space = oracle, space
        self._draws = sampling.draws(oracle, space)
        self._tried: set[str] = set()

    def draw(self) -> grid.Values | None:
        """A random point that was not tried; None if there is none left."""
        return next((self.take(v) for v in self._draws if sampling.key(v) not in self._tried), None)

    def propose(self) -> grid.Values | None:
        """The most promising point, or a random one if that is of no use."""
        if not sampling.varying(self._space):
            return self.draw()
        # A new one each time, for what it proposes to follow from the trials alone. Its one random point, the
        # first, is never drawn unless all failed.
        objective, trials = self._outcomes()
        upstream = oracles.BayesianOptimizationOracle(
            objective,
            None,
            num_initial_points=1,
            seed=sampling.seed_of(self._oracle, len(self.trials)),
            hyperparameters=self._space,
        )
        upstream.trials = {trial.trial_id: trial for trial in trials}
        with warnings.catch_warnings():
            # Keras Tuner's model often ends at a bound of its parameters, which does no harm.
            warnings.simplefilter("ignore", ConvergenceWarning)
            values = upstream.populate_space("")["values"]
        new = sampling.key(values) not in self._tried
        return self.take(values) if new and self._oracle.admissible(values) else self.draw()

    def _outcomes(self) -> tuple[keras_tuner.Objective, list[Trial]]:
        """One objective, and the trials with their scores by it."""
        objective, further = self._oracle.objective, self._oracle.further_objectives
        if not further:
            return objective, self.trials
        seed, number = sampling.seed_of(self._oracle), len(self.trials)
        scored = parego.scored(self.trials, [objective, *further], seed, number)
        return parego.OBJECTIVE, scored

    def take(self, values: grid.Values) -> grid.Values:
        """The point, which is tried from now on."""
        self._tried.add(sampling.key(values))
        return values
