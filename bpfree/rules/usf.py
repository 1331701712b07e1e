"""usf: uniform sign-concordant feedback."""

from __future__ import annotations

import math

from keras import ops

from bpfree.rules.feedback import FeedbackRule


class UniformSignFeedback(FeedbackRule):
    """Uniform sign-concordant feedback: only the signs of the forward kernels go back.

        B_l = s_l sign(K_l),  s_l = √(2 / (fan_in + fan_out)),  with K_l as it is at this step

    Source: Moskovitz, Litwin-Kumar & Abbott 2018, https://arxiv.org/abs/1812.06488, section 2.
    """

    name = "usf"

    def backward(self, index: int, kernel):
        return spread(kernel.shape) * ops.sign(kernel)


def spread(shape) -> float:
    """Glorot's standard deviation of a kernel of this shape."""
    field = math.prod(shape[:-2])
    return math.sqrt(2 / (field * (shape[-2] + shape[-1])))
