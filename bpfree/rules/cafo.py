"""cafo: Cascaded-Forward."""

from __future__ import annotations

from keras import ops

from bpfree.errors import UserError
from bpfree.rules.local_heads import HeadPrediction
from bpfree.rules.local_losses import cce, mse
from bpfree.rules.trace import Trace

LOSSES = {"cce": cce, "mse": mse}
BLOCKS = ("random", "trained")


class CascadedForward(HeadPrediction):
    """Cascaded-Forward: a linear predictor per block, whose outputs are summed up.

        p_l = h_l M_l + b_l      surrogate  1/N Σ_n w_n loss(p_{l,n}, y_n)      prediction  Σ_l p_l

    With random blocks only the predictors learn: the gradient stops at their input. Trained blocks
    learn from their predictor's loss, as under `lw`. Gradients stop at every block's input.

    Args:
        features: see `LocalHeads`.
        loss: `cce` (softmax cross entropy) or `mse` (against one-hot targets, or the values to be
            reconstructed).
        blocks: `random` or `trained`.

    Raises:
        UserError: for an unknown loss, or blocks that are neither.

    Source: Zhao et al. 2023, https://arxiv.org/abs/2303.09728, section 3.
    """

    name = "cafo"

    def __init__(self, features: int = 2048, loss: str = "cce", blocks: str = "random", **kwargs):
        super().__init__(features, **kwargs)
        if loss not in LOSSES:
            raise UserError(f"Rule 'cafo' has the losses {', '.join(LOSSES)}, received {loss!r}.")
        if blocks not in BLOCKS:
            raise UserError(f"Blocks of 'cafo' are random or trained, received {blocks!r}.")
        self.loss = loss
        self.blocks = blocks

    def build(self, network, input_shape, outputs: int) -> None:
        super().build(network, input_shape, outputs)
        self.heads = self.make_heads(network, lambda shape: "linear", outputs, "predictor")
        if self.blocks == "random":
            fixed = [v for block in network.blocks for v in block.trainable_variables]
            self._unused |= frozenset(map(id, fixed))

    def seen(self, h):
        return h if self.blocks == "trained" else ops.stop_gradient(h)

    def local_loss(self, trace: Trace, scores):
        return trace.batch.mean(LOSSES[self.loss](scores, trace.targets))

    def combine(self, scores: list):
        return sum(scores)

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction" and self.loss == "cce":
            return (
                "Cascaded-Forward with the cross entropy cannot reconstruct: it needs class labels, "
                "and reconstruction has none; use cafo:loss=mse."
            )
        return super().refusal(problem_type, activation, fw_init)
