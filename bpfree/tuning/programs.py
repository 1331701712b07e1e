"""Reusing a compiled model for another one that is the same program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import keras
import numpy as np

from bpfree import autodiff

_KEPT = 8
"""Programs until the backend forgets them all: what initialises one model serves the next as well."""


class Programs:
    """Keeps the last model compiled, and lends it to others that differ in variables alone.

    Compiling takes longer than many a short training; executions of a trial differ in their seed
    only, and often trials in a learning rate only, which are values of variables.
    """

    def __init__(self):
        self._key: Hashable = None
        self._model: keras.Model | None = None
        self._compiled = 0

    def model(
        self, key: Hashable, build: Callable[[], keras.Model], input_shape: Sequence[int]
    ) -> keras.Model:
        """A compiled and built model with the variables that `build` gives it.

        Args:
            key: equal for models that are the same program.
            build: makes a compiled model.
            input_shape: of one example.
        """
        if key != self._key:
            self._key = self._model = None
            keras.backend.clear_session()
            self._compiled += 1
            if self._compiled % _KEPT == 0:
                autodiff.forget_programs()
        fresh = ready(build, input_shape)
        if self._model is None:
            self._key, self._model = key, fresh
        else:
            for variable, value in zip(state(self._model), state(fresh), strict=True):
                variable.assign(value)
        return self._model


def ready(build: Callable[[], keras.Model], input_shape: Sequence[int]) -> keras.Model:
    """A compiled model with all its variables, the optimizer's as well."""
    model = build()
    if not model.built:
        model.build((None, *input_shape))
    model.optimizer.build(model.trainable_variables)
    return model


def arrays_of(model: keras.Model) -> list[np.ndarray]:
    """The values of the model's `state`."""
    return [keras.ops.convert_to_numpy(variable) for variable in state(model)]


def state(model: keras.Model) -> list[keras.Variable]:
    """All that decides how training goes on: the model's variables and its optimizer's.

    Metrics are left out, since every epoch resets them.
    """
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return [*own, *model.optimizer.variables]
