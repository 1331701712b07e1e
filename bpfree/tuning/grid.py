"""The grid: every active combination of a Keras Tuner search space, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from keras_tuner.engine import hyperparameters as hp_types

from bpfree.errors import UserError

Values = dict[str, Any]


def points(space: Sequence[hp_types.HyperParameter]) -> Iterator[Values]:
    """Every combination of the active hyperparameters' values.

    The default comes first and the last hyperparameter varies fastest, as in Keras Tuner's grid
    search. A hyperparameter in a conditional scope has a value only where its conditions hold.

    Args:
        space: the hyperparameters, parents before those that depend on them.

    Raises:
        UserError: for one without a finite set of values, or with the same value twice.
    """
    for parameter in space:
        values(parameter)
    yield from _extend({}, list(space))


def _extend(chosen: Values, rest: Sequence[hp_types.HyperParameter]) -> Iterator[Values]:
    if not rest:
        yield chosen
        return
    parameter, *others = rest
    active = all(condition.is_active(chosen) for condition in parameter.conditions)
    if not active or parameter.name in chosen:
        yield from _extend(chosen, others)
        return
    for value in values(parameter):
        yield from _extend({**chosen, parameter.name: value}, others)


def values(parameter: hp_types.HyperParameter) -> list[Any]:
    """A hyperparameter's values, its default first.

    Raises:
        UserError: if they are not finitely many, or not distinct.
    """
    listed = _listed(parameter)
    if len(set(listed)) != len(listed):
        raise UserError(
            f"The hyperparameter {parameter.name!r} has a value twice in {listed}: name each once."
        )
    default = parameter.default
    first = [value for value in listed if value == default] or [default]
    return [*first, *(value for value in listed if value != default)]


def _listed(parameter) -> list[Any]:
    if isinstance(parameter, hp_types.Fixed):
        return [parameter.value]
    if isinstance(parameter, hp_types.Boolean):
        return [False, True]
    if isinstance(parameter, hp_types.Choice):
        return list(parameter.values)
    if parameter.step is None:
        raise UserError(
            f"The hyperparameter {parameter.name!r} has no step, and a grid needs one: give it a "
            "step, or a Choice of values."
        )
    return list(_steps(parameter))


def _steps(parameter) -> Iterator[float | int]:
    """The values of a stepped number, its maximum included where a step reaches it."""
    kind = int if isinstance(parameter, hp_types.Int) else float
    if parameter.sampling not in ("linear", "log"):
        raise UserError(
            f"The hyperparameter {parameter.name!r} is sampled {parameter.sampling!r}, and a grid "
            "steps through 'linear' or 'log' ranges: choose one of these."
        )
    # As decimal numbers, which is what was written: -0.3 + 3 · 0.1 would otherwise not be 0.
    first, step, last = (
        Decimal(str(number))
        for number in (parameter.min_value, parameter.step, parameter.max_value)
    )
    is_log = parameter.sampling == "log"
    tolerance = Decimal("1e-9") * (last if is_log else step)
    index = 0
    while True:
        value = first * step**index if is_log else first + step * index
        if value > last + tolerance:
            return
        # Twelve digits: steps of √10 from 1e-4 would otherwise reach 0.001000…01.
        yield kind(float(f"{value:.12g}"))
        index += 1
