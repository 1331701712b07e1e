"""LabelEmbedding: a class label inside the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from bpfree.errors import UserError

METHODS = ("top-left", "append", "subtract", "mixture")


@keras.saving.register_keras_serializable("bpfree")
class LabelEmbedding(keras.layers.Layer):
    """Puts labels y (N, K), one-hot or soft, into inputs x (N, …).

        top-left   the first K positions, row by row, become `strength · y` in every channel
        append     x flattened, then `strength · y`: K values more
        subtract   x − y μ
        mixture    ½ x + ½ y μ

    μ (K, …) are the classes' means of all training examples so far: see `observe`.

    Args:
        shape: of one example.
        classes: K.
        method: one of the four.
        strength: what a label's position is set to.

    Raises:
        UserError: for an unknown method, or an example with fewer positions than classes.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, section 3.3 (top-left); the prototypes as in
    the code of Sakamoto & Sato 2024, https://arxiv.org/abs/2402.09050.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        method: str = "top-left",
        strength: float = 1.0,
        **kwargs,
    ):
        super().__init__(trainable=False, **{**kwargs, "autocast": False, "dtype": "float32"})
        if method not in METHODS:
            raise UserError(
                f"A label is embedded by {', '.join(METHODS)}, received {method!r}: choose one."
            )
        self.shape = tuple(shape)
        self.classes = classes
        self.method = method
        self.strength = strength
        places = math.prod(self.shape[:2]) if len(self.shape) > 1 else self.shape[0]
        if method == "top-left" and places < classes:
            raise UserError(
                f"{classes} labels do not fit into {places} positions: embed them by append."
            )

    @property
    def uses_prototypes(self) -> bool:
        """Whether μ matters."""
        return self.method in ("subtract", "mixture")

    def build(self, input_shape=None):
        if self.uses_prototypes:
            self.means = self.add_weight(
                name="prototypes", shape=(self.classes, math.prod(self.shape)), initializer="zeros"
            )
            self.counts = self.add_weight(
                name="counts", shape=(self.classes, 1), initializer="zeros"
            )

    def observe(self, x, labels) -> None:
        """Takes a batch into the classes' means; every example counts alike, in every epoch."""
        labels = ops.transpose(labels)
        new = ops.sum(labels, axis=1, keepdims=True)
        total = self.counts + new
        flat = ops.reshape(ops.cast(x, "float32"), (-1, math.prod(self.shape)))
        change = ops.matmul(labels, flat) - new * self.means
        self.means.assign(self.means + change / ops.maximum(total, 1.0))
        self.counts.assign(total)

    def call(self, x, labels):
        """The inputs with the labels in them, float32."""
        x = ops.cast(x, "float32")
        if self.method == "top-left":
            channels = self.shape[2] if len(self.shape) > 2 else 1
            flat = ops.reshape(x, (-1, math.prod(self.shape) // channels, channels))
            marks = ops.broadcast_to(
                self.strength * labels[:, :, None], (ops.shape(x)[0], self.classes, channels)
            )
            return ops.reshape(
                ops.concatenate([marks, flat[:, self.classes :]], axis=1), (-1, *self.shape)
            )
        flat = ops.reshape(x, (-1, math.prod(self.shape)))
        if self.method == "append":
            return ops.concatenate([flat, self.strength * labels], axis=1)
        prototypes = ops.matmul(labels, self.means)
        mixed = flat - prototypes if self.method == "subtract" else (flat + prototypes) / 2
        return ops.reshape(mixed, (-1, *self.shape))

    def get_config(self):
        config = super().get_config()
        config.pop("trainable")
        own = {"shape": self.shape, "classes": self.classes, "method": self.method}
        return {**config, **own, "strength": self.strength}
