"""mf: Mono-Forward."""

from __future__ import annotations

from bpfree.errors import UserError
from bpfree.rules.local_heads import HeadPrediction
from bpfree.rules.local_losses import cce
from bpfree.rules.trace import Trace

PREDICTIONS = ("last", "sum")


class MonoForward(HeadPrediction):
    """Mono-Forward: a learned projection per block, whose scores are the classes' goodness.

        G_l = h_l M_lᵀ      surrogate  1/N Σ_n w_n CE(softmax(G_{l,n}), y_n)

    Block and projection M_l (D, n_l) both learn from it. It is `lw` with a linear head without bias,
    and predicts with those heads. Gradients stop at every block's input.

    Args:
        features: see `LocalHeads`.
        prediction: `last`, the last block's goodness, or `sum`, that of all blocks.

    Raises:
        UserError: for an unknown prediction.

    Source: Gong, Li & Abdulla 2025, https://arxiv.org/abs/2501.09238, section 3.
    """

    name = "mf"

    def __init__(self, features: int = 2048, prediction: str = "last", **kwargs):
        super().__init__(features, **kwargs)
        if prediction not in PREDICTIONS:
            raise UserError(f"Rule 'mf' predicts by last or sum, received {prediction!r}.")
        self.prediction = prediction

    def build(self, network, input_shape, outputs: int) -> None:
        super().build(network, input_shape, outputs)
        self.heads = self.make_heads(network, lambda shape: "linear", outputs, "goodness", False)

    def local_loss(self, trace: Trace, scores):
        return trace.batch.mean(cce(scores, trace.targets))

    def combine(self, scores: list):
        return scores[-1] if self.prediction == "last" else sum(scores)

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return "Mono-Forward cannot reconstruct: its goodness is that of a class; use mse."
        return super().refusal(problem_type, activation, fw_init)
