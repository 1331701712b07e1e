"""frsf: fixed random sign-concordant feedback."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.precision import width
from bpfree.rules.feedback import FeedbackRule
from bpfree.rules.usf import spread


class FixedRandomSignFeedback(FeedbackRule):
    """Fixed random sign-concordant feedback: the kernels' signs with sizes that were drawn once.

        B_l = |M_l| sign(K_l),  M_l ~ N(0, 2 / (fan_in + fan_out)), fixed

    `feedback` are the M_l.

    Source: Liao, Leibo & Poggio 2016, https://arxiv.org/abs/1510.05067, section 3.
    """

    name = "frsf"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.feedback = []

    def build_feedback(self, index: int, shape, seed: int) -> None:
        weight = self.add_weight(
            name=f"feedback_{index + 1}",
            shape=shape,
            initializer=keras.initializers.RandomNormal(stddev=spread(shape), seed=seed),
            trainable=False,
            dtype=width(),
        )
        self.feedback.append(weight)

    def backward(self, index: int, kernel):
        return ops.abs(self.feedback[index].value) * ops.sign(kernel)
