"""TwoViews: two random views of every image, for contrastive losses."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.seeds import derive


@keras.saving.register_keras_serializable("bpfree")
class TwoViews(keras.layers.Layer):
    """Images (N, H, W, C) become (2N, H, W, C): two views each, first all first ones.

    A view is shifted by up to an eighth of the size each way, the border repeated, its contrast
    multiplied by U(0.6, 1.4), and, where it has three channels, mirrored with probability 1/2.

    Args:
        seed: of all draws.

    Raises:
        UserError: from `build`, if the inputs are not images.

    Source: after Chen et al. 2020, https://arxiv.org/abs/2002.05709, section 3; without crops that zoom
    and without changes of hue.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(trainable=False, **{**kwargs, "autocast": False})
        self.seed = seed
        self.shifts, self.contrasts, self.flips = (
            keras.random.SeedGenerator(derive(seed, role)) for role in ("shift", "contrast", "flip")
        )

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise UserError(
                "Two views are made of images (height, width, channels), received examples of shape "
                f"{tuple(input_shape[1:])}: use another loss than supcon."
            )

    def call(self, x):
        x = ops.concatenate([x, x])
        count, (height, width, channels) = ops.shape(x)[0], x.shape[1:]
        for axis, size in ((1, height), (2, width)):
            x = self._shifted(x, axis, size, count)
        mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
        contrast = keras.random.uniform((count, 1, 1, 1), 0.6, 1.4, seed=self.contrasts)
        x = mean + ops.cast(contrast, x.dtype) * (x - mean)
        if channels == 3:
            mirrored = keras.random.uniform((count, 1, 1, 1), seed=self.flips) < 0.5
            x = ops.where(mirrored, ops.flip(x, axis=2), x)
        return x

    def _shifted(self, x, axis: int, size: int, count):
        most = size // 8
        shift = keras.random.randint((count, 1), -most, most + 1, seed=self.shifts)
        places = ops.clip(ops.arange(size, dtype="int32")[None, :] + shift, 0, size - 1)
        shape = [-1, 1, 1, 1]
        shape[axis] = size
        return ops.take_along_axis(x, ops.reshape(places, shape), axis=axis)

    def get_config(self):
        config = super().get_config()
        config.pop("trainable")
        return {**config, "seed": self.seed}
