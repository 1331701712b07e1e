"""gait: GAIT-prop, target propagation whose increments are backpropagation's where weights are orthogonal."""

from __future__ import annotations

from bpfree.rules.itp import IncrementalTargetPropagation
from bpfree.rules.targets import Step


class GaitProp(IncrementalTargetPropagation):
    """GAIT-prop: incremental targets, the increment of a unit weighted by its squared derivative.

        e_{l−1} = ê W_l⁺,   ê = [f⁻¹(h_l) − f⁻¹(h_l − γ_l f'(a_l)² e_l)] / γ_l

    In the limit γ → 0, and for a piecewise-linear f at every γ until a kink is crossed, ê = f'(a_l) e_l:
    backpropagation with W_l⁺ in the place of W_lᵀ. Where all W_l but the first are orthogonal, or have
    orthonormal rows or columns, the two are the same; where W_l = c Q, e_{l−1} is 1/c² of it.

    In the limit f needs a derivative only, so relu and swish will do, and batch normalisation is
    differentiated as it is, statistics included.

    Args:
        gamma: γ in (0, 1]; given alone, it means `compounded`.
        propagate: `limit` (the default), `finite` (γ_l = γ everywhere) or `compounded` (γ_l = γ^k in the
            k-th layer from the top, as published), both with γ = 1e-3 unless given.
        inverse, tolerance, ortho_reg, ortho_norm: see `TargetRule`.

    Raises:
        UserError: as `itp`; that f has no inverse matters only beyond the limit.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438, equations of sections
    2 and 3; published with γ = 1e-3.
    """

    name = "gait"
    usual = "limit"

    @property
    def inverts(self) -> bool:
        return self.way != "limit"

    def before_activation(self, step: Step, e, gamma: float):
        if not gamma:
            return step.backpropagate(e)
        return super().before_activation(step, step.backpropagate(step.backpropagate(e)), gamma)

    def before_norm(self, step: Step, e):
        return step.backpropagate(e)
