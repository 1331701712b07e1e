"""RandomSearchOracle: points drawn at random, each once, as many for every rule."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from itertools import islice

import keras_tuner
from keras_tuner import oracles
from keras_tuner.engine import hyperparameters as hp_types
from keras_tuner.engine.trial import Trial

from bpfree.errors import UserError
from bpfree.tuning import grid
from bpfree.tuning.oracle import Oracle, Wave

_PATIENCE = 200  # draws without a new point


class RandomSearchOracle(Oracle):
    """Draws `max_trials` points by Keras Tuner's random search, all in one wave.

    The rules (`algorithm`) take turns, so that each has the same budget.
    """

    def waves(self, trials: Mapping[int, Trial], epochs: int) -> Iterator[Wave]:
        """One wave."""
        points = list(islice(in_turn(self), self.max_trials))
        if points:
            yield Wave(dict(enumerate(points)))

    def described(self) -> dict[str, str]:
        """The kind of search."""
        return {"search": "random"}


def in_turn(oracle: Oracle) -> Iterator[grid.Values]:
    """Points of each rule in turn, until none has another."""
    streams = [draws(oracle, space) for space in rules(oracle.get_space()).values()]
    while streams:
        found = [(stream, values) for stream in streams if (values := next(stream, None))]
        streams = [stream for stream, _ in found]
        yield from (values for _, values in found)


def rules(
    space: keras_tuner.HyperParameters,
) -> dict[str | None, keras_tuner.HyperParameters]:
    """The space of each rule, in which `algorithm` is fixed; one space where nothing is called so."""
    named = [parameter for parameter in space.space if parameter.name == "algorithm"]
    if not named:
        return {None: space}
    found = {}
    for rule in grid.values(named[0]):
        found[rule] = keras_tuner.HyperParameters()
        found[rule].Fixed("algorithm", rule)
        found[rule].merge([parameter for parameter in space.space if parameter.name != "algorithm"])
    return found


def draws(oracle: Oracle, space: keras_tuner.HyperParameters) -> Iterator[grid.Values]:
    """Points that can be tried, in random order and each once; in a grid they come to an end.

    Keras Tuner draws them. When it has found nothing new for a while, the points of the grid that are
    left follow.
    """
    upstream = oracles.RandomSearchOracle(oracle.objective, None, seed_of(oracle), space)
    seen: set[str] = set()
    misses = 0
    while misses < _PATIENCE:
        values = upstream.populate_space("")["values"]
        misses += 1
        if key(values) not in seen:
            seen.add(key(values))
            if oracle.admissible(values):
                misses = 0
                yield values
    if is_grid(space):
        rest = [values for values in grid.points(space.space) if key(values) not in seen]
        random.Random(oracle.seed).shuffle(rest)
        yield from filter(oracle.admissible, rest)


def is_grid(space: keras_tuner.HyperParameters) -> bool:
    """Whether every hyperparameter has finitely many values."""
    try:
        return all(grid.values(parameter) for parameter in space.space)
    except UserError:
        return False


def seed_of(oracle: Oracle, number: int = 0) -> int:
    """A seed in the range that Keras Tuner takes: to it, 0 is none at all."""
    return (oracle.seed + number) % (2**32 - 1) + 1


def key(values: grid.Values) -> str:
    """Equal for equal points; a stepped number is drawn as 0.30000000000000004 and listed as 0.3."""
    rounded = {n: f"{v:.12g}" if isinstance(v, float) else v for n, v in values.items()}
    return json.dumps(rounded, sort_keys=True)


def varying(space: keras_tuner.HyperParameters) -> list[hp_types.HyperParameter]:
    """The hyperparameters with more than one value."""
    return [p for p in space.space if not isinstance(p, hp_types.Fixed)]
