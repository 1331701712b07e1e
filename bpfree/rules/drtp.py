"""drtp: direct random target projection."""

from __future__ import annotations

from bpfree.rules.local import LocalRule
from bpfree.rules.projection import ProjectionRule
from bpfree.rules.trace import Trace

BOUNDED = {"tanh", "sigmoid", "step", "softsign", "hard_tanh", "hard_sigmoid"}
"""Activations whose output cannot grow without limit."""


class DirectRandomTargetProjection(LocalRule, ProjectionRule):
    """Direct random target projection: the one-hot target, projected to every block.

        ∂L/∂h_l ← −s · mean_n y_n F_lᵀ   surrogate  −s/N Σ_n w_n Σ_i sg(y_n F_lᵀ)_i h_{l,ni}

    A block can be updated as soon as it has computed its activation. The paper writes + y F; since F
    is symmetric in distribution the sign does not matter to learning, and with − the hidden
    activations move along + y F, as they do under DFA, so that alignment figures compare. Gradients
    stop at every block's input.

    Args:
        bw_init, signal_scale, pool: see `ProjectionRule`.

    Source: Frenkel, Lefebvre & Bol 2021, https://doi.org/10.3389/fnins.2021.629892, equation 4.
    """

    name = "drtp"

    def surrogate(self, trace: Trace, index: int):
        target = -trace.targets * trace.batch.shares[:, None]
        return self.sent(target, trace.activations[index], index)

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return (
                "DRTP cannot reconstruct: it projects the target instead of the error, and only a "
                "class label tells the error's sign in advance; use bp, dfa or mse."
            )
        return super().refusal(problem_type, activation, fw_init)

    def risk(self, activation: str | None) -> str | None:
        if activation is None or activation in BOUNDED:
            return None
        return (
            f"DRTP with the unbounded activation {activation!r} tends to diverge, because nothing "
            "stops its activations from growing: prefer tanh or sigmoid."
        )
