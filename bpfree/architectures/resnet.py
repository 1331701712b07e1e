"""resnet: residual networks in the form for small images, cut after every residual block."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts, images, options
from bpfree.errors import UserError
from bpfree.layers.activations import ACTIVATIONS
from bpfree.layers.residual import Residual
from bpfree.network import BlockNetwork

STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
CHANNELS = (64, 128, 256, 512)
BOTTLENECK = {"resnet50"}
OPTIONS = {
    "resnet18": {"width": 1.0, "bn_momentum": 0.99, "blocks": 9},
    "resnet34": {"width": 1.0, "bn_momentum": 0.99},
    "resnet50": {"width": 1.0, "bn_momentum": 0.99},
}


def choose(arch: str) -> dict[str, float]:
    """The options that the string names, see `resnet`, and the defaults of the others."""
    chosen = options(arch, OPTIONS[arch.partition(":")[0]])
    cuts = chosen.get("blocks")
    if cuts not in (None, 8, 9, 16):
        raise UserError(
            f"resnet18 has 8, 9 or 16 blocks, received {cuts}: write e.g. resnet18:blocks=8."
        )
    return chosen


def resnet(arch: str, input_shape: Sequence[int], outputs: int, **settings) -> BlockNetwork:
    """A stem block, residual blocks, and a head of global average pooling and a Dense layer.

    The stem is a 3×3 convolution of 64 channels; the stages have 64, 128, 256 and 512, and begin with
    strides of 1, 2, 2 and 2; the activation follows the addition. A shortcut is a 1×1 convolution where
    shapes change. resnet50 has bottlenecks of 1×1, 3×3 (strided) and 1×1 convolutions, the last with
    four times the channels.

    Args:
        arch: `resnet18 resnet34 resnet50`, with `:width=0.25` (times the channels) and
            `bn_momentum=0.9`; `resnet18` also with `blocks`: 8 joins the stem to the first residual
            block, 16 cuts after every convolution but the first and so leaves all skips out, as
            published for forward gradients.
        input_shape: of an image, (height, width, channels), at least 8 pixels each way.
        outputs: D, the number of outputs.
        **settings: see `Parts`.

    Raises:
        UserError: for a malformed string, images that are too small, or an option out of range.

    Source: He, Zhang, Ren & Sun 2016, https://arxiv.org/abs/1512.03385, table 1 and section 4.2; 8 and 16
    blocks as in the code of Fournier et al. 2023, https://arxiv.org/abs/2306.06968.
    """
    name = arch.partition(":")[0]
    chosen = choose(arch)
    width, cuts = chosen["width"], chosen.get("blocks")
    images(arch, input_shape, 8)
    parts = Parts(bn_momentum=chosen["bn_momentum"], **settings)
    parts.not_aligned(arch)
    if cuts == 16:
        head = _head(parts, outputs, 16)
        return parts.network(_without_skips(parts, width), head, input_shape, "resnet")
    stem = parts.convolution(max(1, round(64 * width)), 3, 0)
    blocks = [[stem, *parts.norm(), parts.activate()]]
    before = max(1, round(64 * width))
    for stage, (count, full) in enumerate(zip(STAGES[name], CHANNELS, strict=True)):
        channels = max(1, round(full * width))
        for turn in range(count):
            index, strides = len(blocks), 2 if stage and not turn else 1
            make = _bottleneck if name in BOTTLENECK else _basic
            body, after = make(parts, index, channels, strides)
            shortcut = []
            if strides > 1 or before != after:
                skip = parts.convolution(after, 1, index, "shortcut", strides=strides)
                shortcut = [skip, *parts.norm()]
            activation = ACTIVATIONS[parts.activation]
            residual = Residual([*parts.drop(index), *body], shortcut, activation)
            blocks.append([residual])
            before = after
    if cuts == 8:
        blocks[:2] = [blocks[0] + blocks[1]]
    return parts.network(blocks, _head(parts, outputs, len(blocks)), input_shape, "resnet")


def _head(parts: Parts, outputs: int, index: int) -> list:
    return [keras.layers.GlobalAveragePooling2D(), *parts.drop(index), parts.dense(outputs, index)]


def _without_skips(parts: Parts, width: float) -> list:
    """17 convolutions in a row, four blocks of one (the first of two) for each number of channels."""

    def convolve(index: int, *path: int) -> list:
        stage, turn = divmod(index, 4)
        strides = 2 if stage and not turn else 1
        channels = max(1, round(CHANNELS[stage] * width))
        convolution = parts.convolution(channels, 3, index, *path, strides=strides)
        return [convolution, *parts.norm(), parts.activate()]

    later = [[*parts.drop(index), *convolve(index)] for index in range(1, 16)]
    return [[*convolve(0), *convolve(0, 1)], *later]


def _basic(parts: Parts, index: int, channels: int, strides: int):
    first = parts.convolution(channels, 3, index, 0, strides=strides)
    second = parts.convolution(channels, 3, index, 1)
    return [first, *parts.norm(), parts.activate(), second, *parts.norm()], channels


def _bottleneck(parts: Parts, index: int, channels: int, strides: int):
    first = parts.convolution(channels, 1, index, 0)
    second = parts.convolution(channels, 3, index, 1, strides=strides)
    third = parts.convolution(4 * channels, 1, index, 2)
    inner = [first, *parts.norm(), parts.activate(), second, *parts.norm(), parts.activate()]
    return [*inner, third, *parts.norm()], 4 * channels
