"""Auxiliary heads: what a block's activation goes through before its local loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from bpfree.errors import UserError
from bpfree.seeds import derive

KINDS = ("linear", "mlp", "conv", "conv2", "identity")


def head(
    kind: str,
    shape: Sequence[int | None],
    outputs: int | None,
    features: int,
    seed: int,
    use_bias: bool = True,
    name: str = "head",
) -> keras.Sequential:
    """A built auxiliary head for activations of this shape.

    `linear` is a Dense layer, `mlp` one more with ReLU before it, both on feature maps that are
    averaged down to at most `features` values (see `pooling`) and flattened; `conv` and `conv2` are
    one 3×3 convolution, or two with ReLU between them, that keep the maps; `identity` only averages
    and flattens.

    Args:
        kind: one of the five.
        shape: of the activation, with the batch axis.
        outputs: values per example; None for as many as go in.
        features: the bound, ≥ 1.
        seed: from which every kernel derives its own.
        use_bias: of the last layer.
        name: the layer's.

    Raises:
        UserError: for an unknown kind, or a convolution on anything but feature maps.
    """
    if kind not in KINDS:
        raise UserError(f"Unknown head {kind!r}: choose one of {', '.join(KINDS)}.")
    if kind.startswith("conv"):
        if len(shape) != 4:
            raise UserError(
                f"A {kind} head needs feature maps (height, width, channels), received a block with "
                f"activations {tuple(shape[1:])}: use a linear or mlp head."
            )
        layers = _convolutions(kind, shape[-1], seed, use_bias)
    else:
        layers = [*pooling(shape, features)]
        width = keras.Sequential(layers).compute_output_shape(shape)[-1] if layers else shape[-1]
        layers += _dense(kind, width, outputs or width, seed, use_bias)
    made = keras.Sequential(layers or [keras.layers.Identity()], name=name)
    made.build(tuple(shape))
    return made


def pooling(shape: Sequence[int | None], features: int) -> list[keras.layers.Layer]:
    """Layers that average feature maps down to at most `features` values and flatten them.

    Windows begin with one pixel; height and then width are doubled in turn, each until it covers its
    side, until H'·W'·C fits. Padding counts as zeros in the mean. Tokens (T, C) are maps of width 1.

    Args:
        shape: of the activation, with the batch axis.
        features: the bound, ≥ 1; more channels than that are kept.

    Source: Nøkland & Eidnes 2019, https://arxiv.org/abs/1901.06656, section 3 (their `dim_in_decoder`).
    """
    if len(shape) == 2:
        return []
    size, channels = [*shape[1:-1], 1][:2], shape[-1]
    window, pooled = [1, 1], list(size)
    while math.prod(pooled) * channels > features and pooled != [1, 1]:
        for axis in (0, 1):
            if math.prod(pooled) * channels > features and pooled[axis] > 1:
                window[axis] *= 2
                pooled[axis] = math.ceil(size[axis] / window[axis])
    layers = [] if len(shape) == 4 else [keras.layers.Reshape((*size, channels))]
    if window != [1, 1]:
        padding = [
            (k * (after - before // k)) // 2
            for k, before, after in zip(window, size, pooled, strict=True)
        ]
        layers += [keras.layers.ZeroPadding2D(padding)] if any(padding) else []
        layers.append(keras.layers.AveragePooling2D(window, window))
    return [*layers, keras.layers.Flatten()]


def _dense(kind: str, width: int, outputs: int, seed: int, use_bias: bool) -> list:
    if kind == "identity":
        if outputs != width:
            raise UserError(
                f"An identity head puts out as many values as the block does, {width}, and the loss "
                f"needs {outputs}: use a linear or mlp head."
            )
        return []
    layers = []
    if kind == "mlp":
        layers.append(
            keras.layers.Dense(width, "relu", kernel_initializer=_initializer(seed, "hidden"))
        )
    last = _initializer(seed, "last")
    return [*layers, keras.layers.Dense(outputs, use_bias=use_bias, kernel_initializer=last)]


def _convolutions(kind: str, channels: int, seed: int, use_bias: bool) -> list:
    def convolution(role: str, activation: str | None, bias: bool):
        return keras.layers.Conv2D(
            *(channels, 3),
            padding="same",
            activation=activation,
            use_bias=bias,
            kernel_initializer=_initializer(seed, role),
        )

    first = [convolution("hidden", "relu", True)] if kind == "conv2" else []
    return [*first, convolution("last", None, use_bias)]


def _initializer(seed: int, role: str):
    return keras.initializers.GlorotUniform(seed=derive(seed, role))
