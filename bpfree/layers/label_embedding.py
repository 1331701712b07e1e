"""LabelEmbedding: a class label inside the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.precision import width

METHODS = ("top-left", "append", "subtract", "mixture", "2channel")
PROTOTYPES = ("average", "fixed-example")


@keras.saving.register_keras_serializable("bpfree")
class LabelEmbedding(keras.layers.Layer):
    """Puts labels y (N, K), one-hot or soft, into inputs x (N, …).

        top-left   the first K positions, row by row, become `strength · y` in every channel
        append     x flattened, then `strength · y`: K values more
        subtract   x − y μ
        mixture    ½ x + ½ y μ
        2channel   x and y μ, one behind the other on the channels

    μ (K, …) stand for the classes: the `average` of their training examples so far, or a `fixed-example`
    of each, the first that was met; see `observe`.

    Args:
        shape: of one example.
        classes: K.
        method: one of the five.
        strength: what a label's position is set to.
        prototype: μ, `average` or `fixed-example`.

    Raises:
        UserError: for an unknown method or prototype, an example with fewer positions than classes, or
            channels of anything but images.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, section 3.3 (top-left); the prototypes as in
    the code of Sakamoto & Sato 2024, https://arxiv.org/abs/2402.09050.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        method: str = "top-left",
        strength: float = 1.0,
        prototype: str = "average",
        **kwargs,
    ):
        super().__init__(trainable=False, **{**kwargs, "autocast": False, "dtype": width()})
        if method not in METHODS:
            raise UserError(
                f"A label is embedded by {', '.join(METHODS)}, received {method!r}: choose one."
            )
        if prototype not in PROTOTYPES:
            raise UserError(
                f"A class is stood for by {' or '.join(PROTOTYPES)}, received {prototype!r}: choose one."
            )
        self.shape = tuple(shape)
        self.classes = classes
        self.method = method
        self.strength = strength
        self.prototype = prototype
        places = math.prod(self.shape[:2]) if len(self.shape) > 1 else self.shape[0]
        if method == "top-left" and places < classes:
            raise UserError(
                f"{classes} labels do not fit into {places} positions: embed them by append."
            )
        if method == "2channel" and len(self.shape) != 3:
            raise UserError(
                "A second set of channels needs images (height, width, channels), received examples of "
                f"shape {self.shape}: embed labels by append."
            )

    @property
    def uses_prototypes(self) -> bool:
        """Whether μ matters."""
        return self.method in ("subtract", "mixture", "2channel")

    @property
    def enlarges(self) -> bool:
        """Whether what comes out is larger than what goes in."""
        return self.output_shape != self.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one example with its label."""
        if self.method == "append":
            return (math.prod(self.shape) + self.classes,)
        if self.method == "2channel":
            return (*self.shape[:2], 2 * self.shape[2])
        return self.shape

    def build(self, input_shape=None):
        if self.uses_prototypes:
            self.prototypes = self.add_weight(
                name="prototypes", shape=(self.classes, math.prod(self.shape)), initializer="zeros"
            )
            self.counts = self.add_weight(
                name="counts", shape=(self.classes, 1), initializer="zeros"
            )

    def observe(self, x, labels) -> None:
        """Takes a batch into the classes' prototypes, if the method has some.

        Args:
            x: inputs (N, …).
            labels: one-hot (N, K), times the examples' weights; in every epoch they count again.
        """
        if not self.uses_prototypes:
            return
        labels = ops.transpose(ops.cast(labels, self.dtype))
        new = ops.sum(labels, axis=1, keepdims=True)
        flat = ops.reshape(ops.cast(x, self.dtype), (-1, math.prod(self.shape)))
        if self.prototype == "average":
            change = ops.matmul(labels, flat) - new * self.prototypes
            change = change / ops.maximum(self.counts + new, 1e-12)
        else:
            met = ops.cast((self.counts == 0) & (new > 0), self.dtype)
            earliest = ops.take(flat, ops.argmax(ops.cast(labels > 0, "int32"), axis=1), axis=0)
            change = met * (earliest - self.prototypes)
        self.prototypes.assign(self.prototypes + change)
        self.counts.assign(self.counts + new)

    def call(self, x, labels):
        """The inputs with the labels in them, in full precision."""
        x, labels = ops.cast(x, self.dtype), ops.cast(labels, self.dtype)
        if self.method == "top-left":
            channels = self.shape[2] if len(self.shape) > 2 else 1
            flat = ops.reshape(x, (-1, math.prod(self.shape) // channels, channels))
            marks = ops.broadcast_to(
                self.strength * labels[:, :, None], (ops.shape(x)[0], self.classes, channels)
            )
            return ops.reshape(
                ops.concatenate([marks, flat[:, self.classes :]], axis=1), (-1, *self.shape)
            )
        if self.method == "append":
            flat = ops.reshape(x, (-1, math.prod(self.shape)))
            return ops.concatenate([flat, self.strength * labels], axis=1)
        shown = ops.reshape(ops.matmul(labels, self.prototypes), (-1, *self.shape))
        if self.method == "2channel":
            return ops.concatenate([x, shown], axis=-1)
        return x - shown if self.method == "subtract" else (x + shown) / 2

    def get_config(self):
        config = super().get_config()
        config.pop("trainable")
        own = {"shape": self.shape, "classes": self.classes, "method": self.method}
        return {**config, **own, "strength": self.strength, "prototype": self.prototype}
