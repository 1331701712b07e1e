"""RandomProjection: the fixed feedback matrix of DFA, DRTP and local losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.precision import full, width

Initializer = keras.initializers

INITIALIZERS: dict[str, Callable[[int, int], Initializer.Initializer]] = {
    "ortho": lambda units, seed: Initializer.Orthogonal(seed=seed),
    "lecun": lambda units, seed: Initializer.LecunNormal(seed=seed),
    "glorot": lambda units, seed: Initializer.GlorotNormal(seed=seed),
    "he": lambda units, seed: Initializer.HeNormal(seed=seed),
    "uniform": lambda units, seed: Initializer.RandomUniform(
        -1 / math.sqrt(units), 1 / math.sqrt(units), seed=seed
    ),
    "he_uniform": lambda units, seed: Initializer.HeUniform(seed=seed),
}
"""Feedback initialisers by their command-line name, from (units of the block, seed)."""


@keras.saving.register_keras_serializable("bpfree")
class RandomProjection(keras.layers.Layer):
    """`p = h F` with a fixed random F (n, D), and `F`'s transpose for the way back.

    Feature maps are flattened: n is the number of values that a block puts out per example. Or they are
    averaged over all positions first: n is then the number of channels.

    Args:
        outputs: D, the number of outputs of the network.
        bw_init: `ortho` (orthonormal columns where n ≥ D; Saxe et al. 2014), `lecun` (variance 1/n),
            `glorot` (2/(n+D)), `he` (2/n), all normal; `uniform` (±1/√n; Nøkland 2016) or
            `he_uniform` (±√(6/n)).
        seed: seed of F.
        pool: whether feature maps (N, …, C) are averaged over their positions.

    Raises:
        UserError: if `bw_init` is none of these.
    """

    def __init__(
        self,
        outputs: int,
        bw_init: str = "ortho",
        seed: int | None = None,
        pool: bool = False,
        **kwargs,
    ):
        super().__init__(trainable=False, **{**kwargs, "autocast": False})
        check_initializer(bw_init)
        self.outputs = outputs
        self.bw_init = bw_init
        self.seed = seed
        self.pool = pool

    def build(self, input_shape):
        units = input_shape[-1] if self.pool else math.prod(input_shape[1:])
        self.kernel = self.add_weight(
            name="feedback",
            shape=(units, self.outputs),
            initializer=INITIALIZERS[self.bw_init](units, self.seed),
            trainable=False,
            dtype=width(),
        )

    def call(self, h):
        """The projection h F, float32 (N, D), of an activation (N, …) of any float type."""
        h = full(h)
        if self.pool:
            h = ops.mean(h, axis=tuple(range(1, len(h.shape) - 1)))
        return ops.matmul(ops.reshape(h, (-1, self.kernel.shape[0])), self.kernel)

    def back(self, signal, like):
        """The signal's way back, `signal Fᵀ`, float32 in the shape of an activation; where maps were
        averaged, shared out evenly over the positions.

        Args:
            signal: shape (N, D).
            like: the activation, shape (N, …).
        """
        back = ops.matmul(signal, ops.transpose(self.kernel))
        if not self.pool:
            return ops.reshape(back, (-1, *like.shape[1:]))
        *places, channels = like.shape[1:]
        back = ops.reshape(back / math.prod(places), (-1, *[1] * len(places), channels))
        return ops.broadcast_to(back, (ops.shape(like)[0], *like.shape[1:]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.outputs)

    def get_config(self):
        config = super().get_config()
        config.pop("trainable")
        own = {"outputs": self.outputs, "bw_init": self.bw_init, "seed": self.seed}
        return {**config, **own, "pool": self.pool}


def check_initializer(bw_init: str) -> None:
    """Raises a UserError unless the feedback initialiser exists."""
    if bw_init not in tuple(INITIALIZERS):
        raise UserError(
            f"Unknown feedback initialiser {bw_init!r}: choose one of {', '.join(INITIALIZERS)}."
        )
