"""vgg: convolutional networks of 3×3 kernels, cut after every convolution."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts, images, options
from bpfree.network import BlockNetwork

POOL = "M"
STAGES: dict[str, str] = {
    "vgg6b": "128 M 256 M 512 M 512 M",
    "vgg8b": "128 256 M 256 512 M 512 M 512 M",
    "vgg11b": "128 128 128 256 M 256 512 M 512 512 M 512 M",
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
}
"""Channels of each convolution, and where a 2×2 max pool stands."""
OPTIONS = {"width": 1.0, "hidden": 1024, "bn_momentum": 0.99}


def choose(arch: str) -> dict[str, float]:
    """The options that the string names, see `vgg`, and the defaults of the others."""
    return options(arch, OPTIONS)


def vgg(arch: str, input_shape: Sequence[int], outputs: int, **settings) -> BlockNetwork:
    """Block = [dropout] → convolution 3×3 → [BN] → activation; then a dense block, and the head.

    A pool begins the block after it, so that a block's local loss sees the maps before they are
    pooled, as published.

    Args:
        arch: `vgg6b vgg8b vgg11b vgg11 vgg13 vgg16`, with `:width=0.25` (times the channels),
            `hidden=1024` (units of the dense block, times the width too) and `bn_momentum=0.9`.
        input_shape: of an image, (height, width, channels).
        outputs: D, the number of outputs.
        **settings: see `Parts`.

    Raises:
        UserError: for a malformed string, images that are too small, or an option out of range.

    Source: Nøkland & Eidnes 2019, https://arxiv.org/abs/1901.06656, section 4; Simonyan & Zisserman
    2015, https://arxiv.org/abs/1409.1556, table 1.
    """
    chosen = choose(arch)
    stages = STAGES[arch.partition(":")[0]].split()
    images(arch, input_shape, 2 ** stages.count(POOL))
    parts = Parts(bn_momentum=chosen["bn_momentum"], **settings)
    parts.not_aligned(arch)

    def scaled(size: int) -> int:
        return max(1, round(size * chosen["width"]))

    blocks, pool = [], []
    for stage in stages:
        if stage == POOL:
            pool = [keras.layers.MaxPooling2D()]
            continue
        index = len(blocks)
        convolution = parts.convolution(scaled(int(stage)), 3, index)
        first = [*pool, *(parts.drop(index) if index else [])]
        blocks.append([*first, convolution, *parts.norm(), parts.activate()])
        pool = []
    index = len(blocks)
    dense = parts.dense(scaled(chosen["hidden"]), index, normed=True)
    flat = [*pool, keras.layers.Flatten(), *parts.drop(index)]
    blocks.append([*flat, dense, *parts.norm(), parts.activate()])
    head = [*parts.drop(index + 1), parts.dense(outputs, index + 1)]
    return parts.network(blocks, head, input_shape, "vgg")
