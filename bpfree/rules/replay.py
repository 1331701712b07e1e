"""Replay: a step's forward pass, to be repeated from any block on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import ops

from bpfree.autodiff import replaced
from bpfree.network import walk
from bpfree.precision import full
from bpfree.rules.trace import Batch

Tensor = Any


@dataclass(frozen=True)
class Replay:
    """The pass of a training step again, in whole or in part: the same weights, the same dropout masks.

    Nothing that it assigns (random states, statistics) is kept, and no gradient reaches a variable.

    Attributes:
        network: the BlockNetwork.
        batch: the batch.
        values: pairs (variable, its value), made by `of` before the pass moves any random state.
        constant: whether batch statistics count as constants when the pass is differentiated. Then an
            example's loss depends on that example alone.
    """

    network: keras.Model
    batch: Batch
    values: list
    constant: bool = True

    @classmethod
    def of(cls, network, batch: Batch, variables: Sequence, constant: bool = True) -> Replay:
        """The pass that is about to be made, with these variables as they are now."""
        values = [(v, ops.stop_gradient(ops.convert_to_tensor(v))) for v in variables]
        return cls(network, batch, values, constant)

    def having(self, values: Sequence[tuple]) -> Replay:
        """The same with other values of some variables; derivatives reach these values."""
        return Replay(self.network, self.batch, [*self.values, *values], self.constant)

    def block(self, index: int, x: Tensor, after: Callable | None = None) -> Tensor:
        """The output of block `index`.

        Args:
            x: its input.
            after: a function `(layer, its input, its output) -> output`, called for every layer in it.
        """

        def call(layer, x):
            y = self.layer(index, layer, x)
            return y if after is None else after(layer, x, y)

        return walk(self.network.blocks[index], x, call)

    def outputs(self, h: Tensor, index: int = -1) -> Tensor:
        """The network's outputs (N, D) from the output of block `index`; −1: from the inputs."""
        depth = len(self.network.blocks)
        for later in range(index + 1, depth):
            h = self.block(later, h)
        return self.through(self.network.head, h, depth)

    def through(self, net: keras.layers.Layer, h: Tensor, index: int) -> Tensor:
        """The outputs (N, D) of a head, in full precision: the network's, or that of block `index`."""
        return full(walk(net, h, partial(self.layer, index)))

    def layer(self, index: int, layer: keras.layers.Layer, x: Tensor) -> Tensor:
        """The output of one layer of block `index`, or of its head."""
        training = self.batch.mode(index)
        with replaced(self.values):
            if training and self.constant and isinstance(layer, keras.layers.BatchNormalization):
                return _with_constant_statistics(layer, x)
            return layer(x, training=training)


def _with_constant_statistics(layer, x: Tensor) -> Tensor:
    """A BatchNormalization in training, as if the batch's mean and variance did not depend on x."""
    mean, variance = statistics(layer, x)
    own = [(v, v.value) for v in layer.variables]
    with replaced([*own, (layer.moving_mean, mean), (layer.moving_variance, variance)]):
        return layer(x, training=False)


def statistics(layer: keras.layers.BatchNormalization, x: Tensor) -> tuple[Tensor, Tensor]:
    """The batch's mean and variance (C,) as the layer takes them, stopped, in full precision."""
    x = full(ops.stop_gradient(x))
    rank = len(x.shape)
    return ops.moments(x, [axis for axis in range(rank) if axis != layer.axis % rank])
