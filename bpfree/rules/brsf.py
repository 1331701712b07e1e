"""brsf: batchwise random sign-concordant feedback."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.rules.feedback import FeedbackRule
from bpfree.rules.usf import spread


class BatchwiseRandomSignFeedback(FeedbackRule):
    """Batchwise random sign-concordant feedback: the kernels' signs with sizes drawn for every batch.

        B_l = |M_l| sign(K_l),  M_l ~ N(0, 2 / (fan_in + fan_out)), anew at every step

    Nothing is drawn in evaluation.

    Source: Liao, Leibo & Poggio 2016, https://arxiv.org/abs/1510.05067, section 3.
    """

    name = "brsf"
    stochastic = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generators = []

    def build_feedback(self, index: int, shape, seed: int) -> None:
        self.generators.append(keras.random.SeedGenerator(seed))

    def backward(self, index: int, kernel):
        sizes = keras.random.normal(
            kernel.shape, stddev=spread(kernel.shape), seed=self.generators[index]
        )
        return ops.abs(sizes) * ops.sign(kernel)
