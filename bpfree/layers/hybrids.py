"""Hybrids: negative images that are right nearby and wrong far apart."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.seeds import derive


@keras.saving.register_keras_serializable("bpfree")
class Hybrids(keras.layers.Layer):
    """`m x + (1 − m) x'` of every image x and another x' of the batch, with a mask m of its own.

    A mask begins as random bits, is blurred `blurs` times with [¼, ½, ¼] along rows and columns, the
    border reflected, and is 1 where it is above ½: half of all pixels, everywhere. Partners are
    neighbours on a random ring through the batch, so no image is its own. Masks and partners are drawn
    anew at every call.

    Args:
        blurs: ≥ 0; the more, the larger the mask's regions.
        seed: of masks and partners.

    Raises:
        UserError: from `build`, if the inputs are not images.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, section 3.2; the border is not stated there.
    """

    def __init__(self, blurs: int, seed: int, **kwargs):
        super().__init__(trainable=False, **{**kwargs, "autocast": False})
        self.blurs = blurs
        self.seed = seed
        self.bits = keras.random.SeedGenerator(derive(seed, "mask"))
        self.ring = keras.random.SeedGenerator(derive(seed, "partner"))

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise UserError(
                "Hybrids are made of images (height, width, channels), received examples of shape "
                f"{tuple(input_shape[1:])}: use supervised negatives."
            )

    def masks(self, count, height: int, width: int):
        """(N, H, W, 1), zeros and ones."""
        noise = keras.random.uniform((count, height, width, 1), seed=self.bits)
        mask = ops.cast(noise < 0.5, "float32")
        for _ in range(self.blurs):
            for axis in (1, 2):
                mask = _blurred(mask, axis)
        return ops.cast(mask > 0.5, "float32")

    def partners(self, count):
        """For every image the index of another, a random ring through all, (N,)."""
        order = ops.argsort(keras.random.uniform((count,), seed=self.ring))
        following = ops.roll(order, -1)
        return ops.take(following, ops.argsort(order))

    def call(self, x):
        count = ops.shape(x)[0]
        mask = ops.cast(self.masks(count, *x.shape[1:3]), x.dtype)
        return mask * x + (1 - mask) * ops.take(x, self.partners(count), axis=0)

    def get_config(self):
        config = super().get_config()
        config.pop("trainable")
        return {**config, "blurs": self.blurs, "seed": self.seed}


def _blurred(mask, axis: int):
    size = mask.shape[axis]
    around = [[0, 0]] * 4
    around[axis] = [1, 1]
    padded = ops.pad(mask, around, mode="reflect")
    left, middle, right = (
        ops.take(padded, ops.arange(start, start + size), axis=axis) for start in range(3)
    )
    return left / 4 + middle / 2 + right / 4
