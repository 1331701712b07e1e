"""mlp: the multi-layer perceptron."""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts
from bpfree.errors import UserError
from bpfree.network import BlockNetwork


def widths(arch: str) -> list[int]:
    """The hidden widths that `"500-1000-500"` or `"500x5"` stand for.

    Raises:
        UserError: if the string is malformed or a width is 0.
    """
    sizes: list[int] = []
    for part in arch.split("-"):
        match = re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", part)
        if match is None:
            raise UserError(
                f"Malformed architecture {arch!r} at {part!r}: write hidden widths joined by "
                "dashes, e.g. 500-1000-500, or 500x5 for five of them."
            )
        sizes += [int(match[1])] * int(match[2] or 1)
    return sizes


def mlp(arch: str, input_shape: Sequence[int], outputs: int, **options) -> BlockNetwork:
    """A perceptron: block = [dropout] → Dense → [BN] → activation, head = [dropout] → Dense.

    Args:
        arch: hidden widths, see `widths`.
        input_shape: of one example; flattened if it has more than one axis.
        outputs: D, the number of outputs.
        **options: see `Parts`.

    Raises:
        UserError: if the string is malformed, or an option out of range.
    """
    sizes = widths(arch)
    parts = Parts(**options)

    def block(index: int, units: int) -> list[keras.layers.Layer]:
        flat = [keras.layers.Flatten()] if index == 0 and len(input_shape) > 1 else []
        return [
            *(parts.drop(index) if index else flat),
            parts.dense(units, index, normed=True),
            *parts.norm(),
            parts.activate(),
        ]

    blocks = [block(index, units) for index, units in enumerate(sizes)]
    head = [*parts.drop(len(sizes)), parts.dense(outputs, len(sizes))]
    return parts.network(blocks, head, input_shape, "mlp")
