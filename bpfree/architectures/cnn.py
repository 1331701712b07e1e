"""cnn: small convolutional networks, written as in the code of DRTP."""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts, images
from bpfree.errors import UserError
from bpfree.network import BlockNetwork

EXAMPLE = "CONV_32_5_1_2_FC_1000_FC_10"
POOL_LAST = ":pool=last"


def topology(arch: str) -> list[tuple[str, list[int]]]:
    """`CONV_<channels>_<kernel>_<stride>_<padding>` and `FC_<units>`, joined by `_`, as pairs.

    What may follow, `:pool=last`, is left out.

    Raises:
        UserError: unless it is convolutions first and then at least one `FC`.
    """
    arch = arch.removesuffix(POOL_LAST)
    found = re.findall(r"(CONV)((?:_\d+){4})(?=_|$)|(FC)((?:_\d+))(?=_|$)", arch)
    pairs = [(c or f, [int(n) for n in (cn or fn)[1:].split("_")]) for c, cn, f, fn in found]
    kinds = [kind for kind, _ in pairs]
    whole = "_".join("_".join([kind, *map(str, numbers)]) for kind, numbers in pairs)
    if whole != arch or not kinds or kinds[-1] != "FC" or kinds != sorted(kinds):
        raise UserError(
            f"Malformed topology {arch!r}: write CONV_<channels>_<kernel>_<stride>_<padding> and then "
            f"FC_<units>, the last one the output layer, e.g. {EXAMPLE}, and {POOL_LAST} if you like."
        )
    if any(0 in (numbers[:3] if kind == "CONV" else numbers) for kind, numbers in pairs):
        raise UserError(f"Malformed topology {arch!r}: only a padding may be 0.")
    return pairs


def cnn(arch: str, input_shape: Sequence[int], outputs: int, **options) -> BlockNetwork:
    """Convolutional blocks, each followed by a 2×2 max pool, then dense ones and the head.

    Block = convolution → [BN] → activation; the pool begins the next block, so that a block's signal
    enters before the pool, as published. With `:pool=last` it ends the block instead, as in difference
    target propagation; the network computes the same.

    Args:
        arch: see `topology`; its last `FC` is the head and must have as many units as there are
            outputs.
        input_shape: of an image, (height, width, channels).
        outputs: D, the number of outputs.
        **options: see `Parts`.

    Raises:
        UserError: if the string is malformed or does not fit the data, or an option out of range.

    Source: Frenkel, Lefebvre & Bol 2021, https://doi.org/10.3389/fnins.2021.629892, their option
    `--topology`.
    """
    *hidden, (_, (last,)) = topology(arch)
    pool_last = arch.endswith(POOL_LAST)
    parts = Parts(**options)
    parts.not_aligned(arch)
    images(arch, input_shape)
    if last != outputs:
        raise UserError(
            f"The last layer of {arch!r} has {last} units and the data {outputs} outputs: write "
            f"FC_{outputs} at the end."
        )
    if not _leaves_a_map(hidden, min(input_shape[:2])):
        raise UserError(
            f"Images of {input_shape[0]} by {input_shape[1]} pixels are too small for {arch!r}: use "
            "fewer convolutions, or more padding."
        )
    blocks, maps = [], True
    for index, (kind, numbers) in enumerate(hidden):
        pooled = bool(index and maps)
        pool = [keras.layers.MaxPooling2D()] if pooled and not pool_last else []
        if kind == "CONV":
            channels, kernel, stride, padding = numbers
            convolution = parts.convolution(
                channels, kernel, index, strides=stride, padding="valid"
            )
            pad = [keras.layers.ZeroPadding2D(padding)] if padding else []
            layers = [*pool, *(parts.drop(index) if index else []), *pad, convolution]
        else:
            flat = [keras.layers.Flatten()] if maps else []
            dense = parts.dense(numbers[0], index, normed=True)
            layers = [*pool, *flat, *(parts.drop(index) if index else []), dense]
            maps = False
        end = [keras.layers.MaxPooling2D()] if pool_last and maps else []
        blocks.append([*layers, *parts.norm(), parts.activate(), *end])
    rest = [] if pool_last else [keras.layers.MaxPooling2D()]
    rest = [*rest, keras.layers.Flatten()] if maps else []
    head = [*rest, *parts.drop(len(hidden)), parts.dense(outputs, len(hidden))]
    return parts.network(blocks, head, input_shape, "cnn")


def _leaves_a_map(hidden: Sequence[tuple[str, list[int]]], size: int) -> bool:
    """Whether the shorter side of an image is never less than a pixel; every convolution is pooled."""
    for _, (_, kernel, stride, padding) in (pair for pair in hidden if pair[0] == "CONV"):
        size = ((size + 2 * padding - kernel) // stride + 1) // 2
        if size < 1:
            return False
    return True
