"""Populations: models that are one program, trained side by side on JAX.

With `bpfree.autodiff` and `bpfree.costs.backend` the only code that names a backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bpfree.autodiff import BACKEND, replaced
from bpfree.data.batches import Batches
from bpfree.tuning.programs import state

AVAILABLE = BACKEND == "jax"
"""Whether there are populations: TensorFlow has nothing like `vmap` over a Keras training step."""
if AVAILABLE:
    import jax
    import jax.numpy as jnp

_SHARE = 0.8  # of the free memory

Values = Sequence[Any]
"""One array per variable of `bpfree.tuning.programs.state`, in its order."""


class Program:
    """An epoch of many models at once: Keras's own steps, `vmap` over models, `scan` over batches.

    The data are on the device; every model's batches are gathered there, in its own order. The model is
    one of them and lends the others its code: its own variables are not touched.

    Args:
        model: built and compiled, with a built optimizer.
        train: the training batches, without augmentation.
        validation: the validation batches, or None.
    """

    def __init__(self, model: keras.Model, train: Batches, validation: Batches | None):
        self.model = model
        _build_metrics(model, train)
        self.variables = state(model)
        self.weights = _places(self.variables, model.weights)
        parts = (model.trainable_variables, model.non_trainable_variables)
        self._parts = [_places(self.variables, p) for p in (*parts, model.optimizer.variables)]
        self._cleared = [keras.ops.convert_to_numpy(v) for v in model.metrics_variables]
        self._problem_type, self._steps = train.problem_type, len(train)
        self.rows = train.bounds[-1]
        self._held_out = () if validation is None else _runs(validation.bounds)
        self._data = [_on_device(b) for b in (train, validation) if b is not None]
        self._there = sum(array.nbytes for array in jax.tree.leaves(self._data))
        # In the order of Keras's fit, so that histories have the same columns.
        names = sorted(model.get_metrics_result())
        self.names = [*names, *(f"val_{name}" for name in names if validation is not None)]
        self._compiled: dict[int, Any] = {}

    def fitting(self, members: int) -> int:
        """How many models of so many the device has room for, at least 1."""
        while members > 1:
            needed, free = _needed(self._program(members)) - self._there, _free_memory()
            if needed <= free:
                break
            members = max(1, min(members - 1, int(members * free / needed)))
        return members

    def begin(self, members: Sequence[Values]) -> tuple[Values, Values]:
        """The models' values, stacked, and as many places for the weights of their best epochs."""
        with _on_the_device():
            stacked = [jnp.asarray(np.stack(values)) for values in zip(*members, strict=True)]
            return stacked, [jnp.array(stacked[place]) for place in self.weights]

    def epoch(self, values: Values, best: Values, improved: np.ndarray, orders: np.ndarray):
        """Trains every model for an epoch, and evaluates it.

        Args:
            values: the stacked values; they are used up, and so is `best`.
            best: the stacked weights of the best epochs.
            improved: whose values, as they are now, become the best first; (M,).
            orders: which examples each model is trained on, in order; (M, examples).

        Returns:
            New values and best weights, and the logs: each an array (M,), by name.

        Raises:
            OutOfMemory: the values are lost.
        """
        orders = orders.reshape(len(orders), self._steps, -1).astype("int32")
        with _on_the_device():
            run = self._program(len(orders))
            values, best, logs = run(values, best, improved, orders, *self._data)
            return values, best, {name: np.asarray(logs[name]) for name in self.names}

    def _program(self, members: int):
        """The program for so many models, compiled when it is first asked for."""
        if members not in self._compiled:
            shapes = [jax.ShapeDtypeStruct((members, *v.shape), v.dtype) for v in self.variables]
            rows = (members, self._steps, self.rows // self._steps)
            arguments = (
                shapes,
                [shapes[place] for place in self.weights],
                jax.ShapeDtypeStruct((members,), bool),
                jax.ShapeDtypeStruct(rows, "int32"),
                *self._data,
            )
            run = _over_models(self._epoch, (0, 0, 0, 0, *[None] * len(self._data)), members)
            lowered = jax.jit(run, donate_argnums=(0, 1)).lower(*arguments)
            self._compiled[members] = lowered.compile()
        return self._compiled[members]

    # -- of one model ---------------------------------------------------------------------------

    def _epoch(self, values, best, improved, rows, train, validation=None):
        best = [
            jnp.where(improved, values[place], kept)
            for place, kept in zip(self.weights, best, strict=True)
        ]
        parts = [[values[place] for place in part] for part in self._parts]

        def step(parts, rows):
            _, parts = self.model.train_step(parts, self._batch(train, rows))
            return parts, None

        (*parts, metrics), _ = jax.lax.scan(step, (*parts, self._cleared), rows)
        logs = self._logs(metrics)
        if validation is not None:
            parts, measured = self._evaluate(parts, validation)
            logs |= {f"val_{name}": value for name, value in measured.items()}
        values = list(values)
        for places, part in zip(self._parts, parts, strict=True):
            for place, value in zip(places, part, strict=True):
                values[place] = value
        return values, best, logs

    def _evaluate(self, parts, validation):
        trainable, rest, optimizer = parts
        carried = (trainable, rest, self._cleared)

        def step(carried, rows):
            _, carried = self.model.test_step(carried, self._batch(validation, rows))
            return carried, None

        for rows in self._held_out:
            carried, _ = jax.lax.scan(step, carried, rows)
        trainable, rest, metrics = carried
        return (trainable, rest, optimizer), self._logs(metrics)

    def _batch(self, data, rows):
        x = data["x"][rows]
        x = data["scaled"][x] if "scaled" in data else x.astype("float32")
        if self._problem_type == "reconstruction":
            return x, x.reshape(len(x), -1)
        return x, data["y"][rows]

    def _logs(self, metrics):
        with replaced(list(zip(self.model.metrics_variables, metrics, strict=True))):
            return self.model.get_metrics_result()


class OutOfMemory(Exception):
    """The device had no room for a population, whose values are lost."""


@contextmanager
def _on_the_device() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory("the device has no room even for one model.") from error


def _over_models(function: Callable, axes: tuple, members: int) -> Callable:
    if members > 1:
        return jax.vmap(function, axes)

    def single(*arguments):
        # Not as a batch of one, for which there are slower kernels.
        taken = [
            argument if axis is None else jax.tree.map(lambda a: a[0], argument)
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*taken))

    return single


def _build_metrics(model: keras.Model, batches: Batches) -> None:
    """Gives the metrics their variables, which otherwise come with the first batch."""
    with keras.StatelessScope():
        jax.eval_shape(
            lambda x, y: model.compute_metrics(x, y, model(x, training=False)), *batches[0]
        )
    model.reset_metrics()


def _places(variables: Sequence, wanted: Iterable) -> list[int]:
    places = {id(variable): index for index, variable in enumerate(variables)}
    return [places[id(variable)] for variable in wanted]


def _on_device(batches: Batches) -> dict[str, Any]:
    """A data set as the program takes it. Bytes are scaled by looking them up, which is exact: XLA may
    turn a division into a product with the reciprocal."""
    data = {"x": batches.x, "y": batches.y}
    if batches.x.dtype == np.uint8:
        data["scaled"] = batches.scale(np.arange(256, dtype=np.uint8))
    return {name: jnp.asarray(value) for name, value in data.items() if value is not None}


def _runs(bounds: np.ndarray) -> list[np.ndarray]:
    """The rows of all batches in order, those of a size together: one array (batches, size) per size."""
    sizes = np.diff(bounds)
    starts = np.flatnonzero(np.diff(sizes, prepend=-1))
    ends = [*starts[1:], len(sizes)]
    return [
        np.arange(bounds[start], bounds[end]).reshape(end - start, -1)
        for start, end in zip(starts, ends, strict=True)
    ]


def _needed(compiled) -> int:
    """Bytes that a program takes, its data included; 0 where the compiler does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes


def _free_memory() -> float:
    """Bytes of the device that a population may take."""
    known = jax.local_devices()[0].memory_stats()
    if known and "bytes_limit" in known:
        return _SHARE * (known["bytes_limit"] - known["bytes_in_use"])
    return _SHARE * _free_ram()


def _free_ram() -> float:
    """What Linux counts as available, and the container leaves; unlimited where neither is known."""
    free = math.inf
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - used)
    return free
