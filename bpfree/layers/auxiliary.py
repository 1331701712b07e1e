"""Auxiliary nets: what a block's activation goes through before the local loss of a forward gradient."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from bpfree.errors import UserError
from bpfree.layers.heads import pooling
from bpfree.seeds import derive

WIDTHS = {"linear": None, "mlp": 1024, "cnn": 32}
"""The kinds, and the published widths of their hidden layers."""
DEPTH = 3


def auxiliary(
    kind: str,
    shape: Sequence[int | None],
    outputs: int,
    width: int | None = None,
    batch_norm: bool = False,
    seed: int = 0,
    name: str = "auxiliary",
) -> keras.Sequential:
    """A built net from activations of this shape to outputs (N, D).

        linear  pool → Dense(D)
        mlp     pool → 3 × Dense(width) → Dense(D)
        cnn     Conv 1×1(width) → 3 × Conv 3×3(width) of stride 2 → pool → Dense(D)

    Hidden layers are followed by [BN] → ReLU. `pool` averages feature maps down to 2×2 (see
    `bpfree.layers.heads.pooling`), or repeats a single position as often, and flattens them; it is nothing on
    vectors. Kernels are He's uniform.

    Args:
        kind: one of the three.
        shape: of the activation, with the batch axis.
        outputs: D.
        width: of the hidden layers, ≥ 1; None is the published one of 8 blocks, 1024 (mlp) or 32 (cnn);
            with 16 blocks, 512 and 16 were published.
        batch_norm: whether hidden layers are normalised over the batch, as published; of `linear` the
            input.
        seed: from which every kernel derives its own.
        name: the layer's.

    Raises:
        UserError: for an unknown kind, a width below 1, or `cnn` on anything but feature maps.

    Source: Fournier et al. 2023, https://arxiv.org/abs/2306.06968, section 4, and their code.
    """
    if kind not in WIDTHS:
        raise UserError(f"Unknown auxnet {kind!r}: choose one of {', '.join(WIDTHS)}.")
    width = WIDTHS[kind] if width is None else width
    if kind != "linear" and not width >= 1:
        raise UserError(f"auxwidth is at least 1, received {width}.")
    if kind == "cnn" and len(shape) != 4:
        raise UserError(
            f"A cnn auxnet needs feature maps (height, width, channels), received a block with "
            f"activations {tuple(shape[1:])}: use auxnet=mlp or auxnet=linear."
        )
    he = lambda *path: keras.initializers.HeUniform(derive(seed, *path))  # noqa: E731

    def then(layer) -> list:
        norm = [keras.layers.BatchNormalization()] if batch_norm else []
        return [layer, *norm, keras.layers.ReLU()]

    def convolution(index: int, size: int, strides: int) -> list:
        kernel = he("convolution", index)
        options = {"use_bias": not batch_norm, "kernel_initializer": kernel}
        return then(keras.layers.Conv2D(width, size, strides, "same", **options))

    def dense(index: int) -> list:
        options = {"use_bias": not batch_norm, "kernel_initializer": he("dense", index)}
        return then(keras.layers.Dense(width, **options))

    layers: list = []
    if kind == "linear" and batch_norm:
        layers.append(keras.layers.BatchNormalization())
    if kind == "cnn":
        layers += convolution(0, 1, 1)
        for index in range(1, DEPTH + 1):
            layers += convolution(index, 3, 2)
    before = keras.Sequential(layers).compute_output_shape(shape) if layers else shape
    if before[1:-1] == (1, 1):  # the published pool to 2×2 repeats a single position
        layers.append(keras.layers.UpSampling2D(2))
        before = (before[0], 2, 2, before[-1])
    layers += pooling(before, 4 * before[-1])
    if kind == "mlp":
        for index in range(DEPTH):
            layers += dense(index)
    layers.append(keras.layers.Dense(outputs, kernel_initializer=he("last")))
    made = keras.Sequential(layers, name=name)
    made.build(tuple(shape))
    return made
