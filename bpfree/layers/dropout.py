"""Dropout whose rate is a weight."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.errors import UserError


@keras.saving.register_keras_serializable("bpfree")
class Dropout(keras.layers.Layer):
    """Sets inputs to 0 with probability `rate` in training and scales the others by 1 / (1 − rate).

    Keras's own Dropout holds the rate as a Python number, compiled into the program; here it is a
    non-trainable weight, so models that differ in it alone can be one program.

    Args:
        rate: probability, in [0, 1).
        seed: seed of the masks.

    Raises:
        UserError: if the rate is outside [0, 1).

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html, section 4.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise UserError(f"A dropout rate lies in [0, 1), received {rate}: choose e.g. 0.3.")
        self.initial_rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        self.rate = self.add_weight(
            name="rate",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_rate),
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs, training=False):
        if not training:
            return inputs
        noise = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        keep = ops.cast(noise >= self.rate, inputs.dtype)
        return inputs * keep / ops.cast(1 - self.rate, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.initial_rate, "seed": self.seed}
