"""vit: a small vision transformer, cut after every encoder block."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from bpfree.architectures.parts import Parts, images, options
from bpfree.errors import UserError
from bpfree.layers.activations import ACTIVATIONS
from bpfree.layers.residual import Residual
from bpfree.layers.tokens import Positions, SelfAttention
from bpfree.network import BlockNetwork
from bpfree.seeds import derive

OPTIONS = {"patch": 4, "width": 64, "depth": 4, "heads": 4}
NORMALISED = (
    "A vit has layer normalisation in the place of batch normalisation: give --nobatch_norm, or "
    "batch_norm=False."
)


def choose(arch: str) -> dict[str, int]:
    """The options that the string names, see `vit`, and the defaults of the others."""
    chosen = options(arch, OPTIONS)
    if chosen["width"] % chosen["heads"]:
        raise UserError(
            f"Architecture {arch!r} needs heads that divide the width, {chosen['width']}, received "
            f"{chosen['heads']}: choose another number."
        )
    return chosen


def vit(arch: str, input_shape: Sequence[int], outputs: int, **settings) -> BlockNetwork:
    """Encoder blocks of attention and a perceptron, each behind layer normalisation and with a skip.

    The first block also embeds the patches and adds learned positions; the head normalises, averages
    the tokens and ends in a Dense layer. Layers are normalised per token, and never over the batch.

    Args:
        arch: `vit`, with `:patch=4,width=64,depth=4,heads=4` (pixels, values per token, blocks, heads).
        input_shape: of an image, (height, width, channels); the patch divides both sizes.
        outputs: D, the number of outputs.
        **settings: see `Parts`; the activation is the perceptrons'.

    Raises:
        UserError: for a malformed string, images that patches do not cover, batch normalisation, or an
            option out of range.

    Source: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, equations 1 to 4, with the mean of
    the tokens in the place of a class token.
    """
    chosen = choose(arch)
    patch, width, heads = chosen["patch"], chosen["width"], chosen["heads"]
    images(arch, input_shape)
    parts = Parts(**settings)
    parts.not_aligned(arch)
    if parts.batch_norm:
        raise UserError(NORMALISED)
    if input_shape[0] % patch or input_shape[1] % patch:
        raise UserError(
            f"Architecture {arch!r} needs a patch that divides the image, {input_shape[0]} by "
            f"{input_shape[1]}, received {patch}: choose another."
        )
    tokens = input_shape[0] // patch * (input_shape[1] // patch)
    embedding = [
        parts.convolution(width, patch, "patches", strides=patch, padding="valid"),
        keras.layers.Reshape((tokens, width)),
        Positions(derive(parts.seed, "forward", "positions")),
    ]

    def encoder(index: int) -> list[keras.layers.Layer]:
        attention = SelfAttention(
            *(heads, width, derive(parts.seed, "forward", index, "attention")),
            use_bias=parts.use_bias,
            kernel_initializer=parts.kernel(index, "attention"),
        )
        perceptron = [
            parts.dense(4 * width, index, 0),
            keras.layers.Activation(ACTIVATIONS[parts.activation]),
            parts.dense(width, index, 1),
        ]
        first = parts.drop(index, 0) if index else []
        return [
            Residual([_norm(), *first, attention]),
            Residual([_norm(), *parts.drop(index, 1), *perceptron]),
        ]

    blocks = [encoder(index) for index in range(chosen["depth"])]
    blocks[0] = [*embedding, *blocks[0]]
    head = [_norm(), keras.layers.GlobalAveragePooling1D(), parts.dense(outputs, "head")]
    return parts.network(blocks, head, input_shape, "vit")


def _norm() -> keras.layers.Layer:
    return keras.layers.LayerNormalization(epsilon=1e-6)
