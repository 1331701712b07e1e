"""sdfa: direct feedback alignment with the error's sign."""

from keras import ops

from bpfree.rules.error_projection import ErrorProjectionRule
from bpfree.rules.trace import Trace


class SignDirectFeedbackAlignment(ErrorProjectionRule):
    """Direct feedback alignment with the sign of each example's error.

        ∂L/∂h_l ← s · mean_n sign(e_n) F_lᵀ   surrogate  s/N Σ_n w_n Σ_i sg(sign(e_n) F_lᵀ)_i h_{l,ni}

    with e_n = ∂L_n/∂outputs_n of the example alone, and sign(0) = 0. The signal does not fade as the
    error does. Gradients stop at every block's input and at the signal.

    Args:
        bw_init, signal_scale, pool: see `ProjectionRule`.

    Source: Frenkel, Lefebvre & Bol 2021, https://doi.org/10.3389/fnins.2021.629892 ("sDFA").
    """

    name = "sdfa"

    def signal(self, trace: Trace):
        return ops.sign(trace.example_error) * trace.batch.shares[:, None]
