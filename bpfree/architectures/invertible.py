"""square, tower: networks of square layers, which targets can be sent back through exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts
from bpfree.errors import UserError
from bpfree.layers.activations import leaky
from bpfree.layers.invertible import FirstUnits, InvertibleDense
from bpfree.network import BlockNetwork

EXAMPLES = ("square:4", "tower:784-500-200")


class InvertibleParts(Parts):
    """`Parts` with square dense layers, and `lrelu` of the published slope 0.1."""

    def dense(self, units: int, *path: str | int, normed: bool = False) -> keras.layers.Dense:
        bias = self.use_bias and not (normed and self.batch_norm)
        return InvertibleDense(units, use_bias=bias, kernel_initializer=self.kernel(*path))

    def activate(self) -> keras.layers.Layer:
        if self.activation == "lrelu":
            return keras.layers.Activation(leaky)
        return super().activate()


def hidden(arch: str) -> int | list[int]:
    """What the string says of the hidden layers: of `square:4` their number, of a tower their widths.

    Raises:
        UserError: if it is malformed, or a tower grows.
    """
    name, _, text = arch.partition(":")
    pattern = r"[1-9]\d*" if name == "square" else r"[1-9]\d*(-[1-9]\d*)*"
    if not re.fullmatch(pattern, text):
        raise UserError(
            f"Malformed architecture {arch!r}: write square:<number of hidden layers>, e.g. "
            f"{EXAMPLES[0]}, or tower:<width>-<width>-…, e.g. {EXAMPLES[1]}."
        )
    if name == "square":
        return int(text)
    widths = [int(width) for width in text.split("-")]
    if widths != sorted(widths, reverse=True):
        raise UserError(
            f"A layer of a tower is at most as wide as the one below, received {arch!r}: order the "
            "widths from the largest to the smallest."
        )
    return widths


def invertible(arch: str, input_shape: Sequence[int], outputs: int, **options) -> BlockNetwork:
    """Block and head alike = [dropout] → InvertibleDense → [BN, in blocks] → activation.

    `square:<L>` has L hidden layers and an output layer, all as wide as the input; its outputs are the
    first D units of the output layer, the others learn nothing from the loss. A layer of
    `tower:<n_1>-…-<n_L>` reads as many units of the layer below as it has itself, so its last n_l −
    n_{l+1} units are auxiliary; the output layer has D units. The output layer has the activation, too,
    as published: the outputs are scores all the same.

    Args:
        arch: see `hidden`.
        input_shape: of one example; flattened if it has more than one axis.
        outputs: D, at most the width of the layer below.
        **options: see `Parts`. The default activation is `lrelu`, here a leaky ReLU of slope 0.1.

    Raises:
        UserError: if the string is malformed or does not fit the data, or an option out of range.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438, section 3.
    """
    sizes, inputs = hidden(arch), math.prod(input_shape)
    parts = InvertibleParts(**{"activation": "lrelu", **options})
    parts.not_aligned(arch)
    square = isinstance(sizes, int)
    sizes = [inputs] * sizes if square else sizes
    for what, above, below in (("first layer", sizes[0], inputs), ("output", outputs, sizes[-1])):
        if above > below:
            raise UserError(
                f"No layer of {arch!r} may be wider than the one below, and its {what} has {above} "
                f"units over {below}: choose other widths."
            )

    def layer(index: int, units: int, norm: Sequence) -> list[keras.layers.Layer]:
        flat = [keras.layers.Flatten()] if index == 0 and len(input_shape) > 1 else []
        return [
            *(parts.drop(index) if index else flat),
            parts.dense(units, index, normed=bool(norm)),
            *norm,
            parts.activate(),
        ]

    blocks = [layer(index, units, parts.norm()) for index, units in enumerate(sizes)]
    head = layer(len(sizes), inputs if square else outputs, ())
    first = [FirstUnits(outputs)] if square else []
    return parts.network(blocks, [*head, *first], input_shape, "invertible")
