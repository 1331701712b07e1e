"""What a rule is given to learn from: a batch, and the trace of a forward pass over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
from keras import ops

from bpfree import autodiff
from bpfree.precision import full, width

Tensor = Any


@dataclass(frozen=True)
class Batch:
    """One batch and the task's loss on it.

    Attributes:
        x: inputs (N, …).
        y: targets as the data give them: labels (N,), one-hot or real values (N, D).
        weights: one per example, shape (N,), float32; ones when there are none. Local losses are
            `mean_n weights_n · loss_n`, a division by N as in Keras.
        loss: the compiled loss as a function `(outputs, weights) -> scalar` of these targets.
        training: whether dropout and batch statistics are in training mode.
        stage: the only block that learns, L for the head; None if all do.
        losses: the compiled loss of every example as a function `outputs -> (N,)`, unweighted.
        error: ∂ loss / ∂ outputs (N, D), where it is known before the pass; else None.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    training: bool = True
    stage: int | None = None
    losses: Callable[[Tensor], Tensor] | None = None
    error: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The batch's tensors by their name."""
        named = {"x": self.x, "y": self.y, "weights": self.weights, "error": self.error}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def mode(self, index: int) -> bool:
        """Whether block `index` (L: the head) is in training mode; frozen ones are not."""
        return self.training and self.stage in (None, index)

    def task_loss(self, outputs: Tensor) -> Tensor:
        """The compiled loss of the outputs, weighted: a scalar."""
        return self.loss(outputs, self.weights)

    @property
    def shares(self) -> Tensor:
        """w_n / N, shape (N,): what each example counts for in the batch."""
        return self.weights / ops.cast(ops.shape(self.weights)[0], self.weights.dtype)

    def mean(self, per_example: Tensor) -> Tensor:
        """The weighted mean over the batch, `1/N Σ_n w_n v_n`, of values (N,)."""
        per_example = full(per_example)
        weighted = ops.cast(self.weights, per_example.dtype) * per_example
        return ops.sum(weighted) / ops.cast(ops.shape(weighted)[0], weighted.dtype)

    def average(self, values: Tensor) -> Tensor:
        """`Σ_n w_n v_n / Σ_n w_n` of values (N, …): for statistics, whose size no weight should change."""
        values = full(values)
        weights = ops.reshape(self.weights, (-1, *[1] * (len(values.shape) - 1)))
        total = ops.maximum(ops.sum(self.weights), 1e-12)
        return ops.sum(weights * values, axis=0) / total

    def targets(self, outputs: int) -> Tensor:
        """The targets in full precision (N, outputs): one-hot if they are labels."""
        y = ops.convert_to_tensor(self.y)
        if len(y.shape) == 2 and y.shape[1] == outputs:
            return ops.cast(y, width())
        if len(y.shape) == 1 or (len(y.shape) == 2 and y.shape[1] == 1):
            y = ops.reshape(y, (-1,))
            if outputs == 1:
                return ops.cast(y[:, None], width())
            return ops.one_hot(ops.cast(y, "int32"), outputs, dtype=width())
        return ops.cast(ops.reshape(y, (-1, outputs)), width())


@dataclass(frozen=True)
class Trace:
    """A forward pass over a batch.

    Attributes:
        network: the BlockNetwork.
        batch: the batch, with what derives from targets and weights.
        activations: `[h_1, …, h_L]`, each (N, …).
        outputs: pre-activations (N, D), float32; None where the pass has not come so far.
    """

    network: keras.Model
    batch: Batch
    activations: list
    outputs: Tensor | None

    @property
    def blocks(self) -> list:
        return self.network.blocks

    @property
    def inputs(self) -> list:
        """What each block was given: `[x, h_1, …, h_{L−1}]`."""
        return [self.x, *self.activations[:-1]]

    @property
    def x(self) -> Tensor:
        return self.batch.x

    @property
    def y(self) -> Tensor:
        return self.batch.y

    @property
    def weights(self) -> Tensor:
        return self.batch.weights

    @cached_property
    def targets(self) -> Tensor:
        """(N, D) float32: one-hot labels, or the values to be reconstructed."""
        return self.batch.targets(self.network.outputs)

    @cached_property
    def error(self) -> Tensor:
        """e = ∂ loss / ∂ outputs (N, D) of the compiled loss: carries the weights and 1/N. Stopped."""
        if self.batch.error is not None:
            return self.batch.error
        return ops.stop_gradient(autodiff.gradient(self.batch.task_loss, self.outputs))

    @cached_property
    def example_error(self) -> Tensor:
        """e_n = ∂ loss_n / ∂ outputs_n (N, D), for each example alone: neither weights nor 1/N. Stopped."""
        ones = ops.ones_like(self.weights)
        error = autodiff.gradient(lambda outputs: self.batch.loss(outputs, ones), self.outputs)
        return ops.stop_gradient(error * ops.cast(ops.shape(error)[0], error.dtype))
