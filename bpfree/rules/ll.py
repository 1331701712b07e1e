"""ll: local losses behind fixed random projections."""

from __future__ import annotations

import keras

from bpfree.errors import UserError
from bpfree.rules.local import LocalRule
from bpfree.rules.local_losses import cce, mse
from bpfree.rules.projection import ProjectionRule
from bpfree.rules.trace import Trace

LOSSES = {"cce": cce, "mse": mse}


class LocalLoss(LocalRule, ProjectionRule):
    """Every block minimises a loss of its own, of its activation behind a fixed random projection.

        cce:  s/N Σ_n w_n CE(softmax(h_n F_l), y_n)      ∂/∂h = s w_n/N (softmax(h F) − y) Fᵀ
        mse:  s/N Σ_n w_n 1/D Σ_d (act(h_n F_l)_d − t_{nd})²

    Gradients stop at every block's input; F_l is not trained and has no bias.

    Args:
        bw_init, signal_scale, pool: see `ProjectionRule`.
        loss: `cce` (classification only) or `mse` (targets one-hot, or the values to reconstruct).
        activation: act of the mse, a Keras activation; linear compares like with like, since a
            network's outputs are pre-activations here.

    Raises:
        UserError: for an unknown loss.

    Source: Mostafa, Ramesh & Cauwenberghs 2018, https://doi.org/10.3389/fnins.2018.00608, section 2.
    """

    name = "ll"
    aliases = {"cce": {"loss": "cce"}, "mse": {"loss": "mse"}}

    def __init__(
        self,
        bw_init: str = "ortho",
        signal_scale: float = 1.0,
        pool: bool = False,
        loss: str = "cce",
        activation: str = "linear",
        **kwargs,
    ):
        super().__init__(bw_init, signal_scale, pool, **kwargs)
        if loss not in LOSSES:
            raise UserError(f"Rule 'll' has the losses {', '.join(LOSSES)}, received {loss!r}.")
        self.loss = loss
        self.activation = activation

    def surrogate(self, trace: Trace, index: int):
        activation = keras.activations.get(self.activation if self.loss == "mse" else "linear")
        prediction = activation(self.projections[index](trace.activations[index]))
        return self.scale * trace.batch.mean(LOSSES[self.loss](prediction, trace.targets))

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction" and self.loss == "cce":
            return (
                "The local cross entropy cannot reconstruct: it needs class labels, and "
                "reconstruction has none; use mse."
            )
        return super().refusal(problem_type, activation, fw_init)
