"""fa: feedback alignment."""

from __future__ import annotations

from bpfree.layers.projection import INITIALIZERS, check_initializer
from bpfree.precision import width
from bpfree.rules.feedback import FeedbackRule


class FeedbackAlignment(FeedbackRule):
    """Feedback alignment: the error goes back through fixed random kernels B_l.

        ∂L/∂h_{l−1} ← (∂L/∂h_l · f'(z_l)) B_lᵀ

    Args:
        bw_init: initialiser of every B_l, which has the shape of K_l: `ortho lecun glorot he uniform`.

    Raises:
        UserError: for an unknown initialiser; see also `FeedbackRule`.

    Source: Lillicrap, Cownden, Tweed & Akerman 2016, https://doi.org/10.1038/ncomms13276, equation 3.
    """

    name = "fa"
    projects = True
    as_weights = ("bw_init",)

    def __init__(self, bw_init: str = "lecun", **kwargs):
        super().__init__(**kwargs)
        check_initializer(bw_init)
        self.bw_init = bw_init
        self.feedback = []

    def build_feedback(self, index: int, shape, seed: int) -> None:
        fan_in = 1
        for size in shape[:-1]:
            fan_in *= size
        weight = self.add_weight(
            name=f"feedback_{index + 1}",
            shape=shape,
            initializer=INITIALIZERS[self.bw_init](fan_in, seed),
            trainable=False,
            dtype=width(),
        )
        self.feedback.append(weight)

    def backward(self, index: int, kernel):
        return self.feedback[index].value
