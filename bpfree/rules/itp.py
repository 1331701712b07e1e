"""itp: incremental target propagation."""

from __future__ import annotations

from bpfree.errors import UserError
from bpfree.rules.tp import TargetPropagation

WAYS = ("limit", "finite", "compounded")


class IncrementalTargetPropagation(TargetPropagation):
    """Incremental target propagation: targets a small step γ away from the activity, rescaled by 1/γ.

        e_{l−1} = ê W_l⁺,   ê = [f⁻¹(h_l) − f⁻¹(h_l − γ_l e_l)] / γ_l

    and ê = e_l / f'(a_l) in the limit γ → 0, which a piecewise-linear f has at every γ until a kink is
    crossed.

    Args:
        gamma: γ in (0, 1], by default 1e-3. Not for `limit`.
        propagate: `compounded` (γ_l = γ^k in the k-th layer from the top, as published; the default),
            `finite` (γ_l = γ everywhere), or `limit`.
        inverse, tolerance, ortho_reg, ortho_norm: see `TargetRule`.

    Raises:
        UserError: for a γ out of range or beside `limit`, an unknown way, or if f has no inverse; see
            also `TargetRule`.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438, section 2.
    """

    name = "itp"
    usual = "compounded"

    def __init__(self, gamma: float | None = None, propagate: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if propagate not in (None, *WAYS):
            ways = ", ".join(WAYS)
            raise UserError(f"propagate of {self.name!r} is one of {ways}, received {propagate!r}.")
        fits = gamma is None or (type(gamma) in (int, float) and 0 < gamma <= 1)
        if not fits or (gamma is not None and propagate == "limit"):
            raise UserError(
                f"gamma of {self.name!r} lies in (0, 1], and the limit has none; received {gamma} with "
                f"propagate={propagate}."
            )
        self.gamma = gamma
        self.propagate = propagate

    @property
    def way(self) -> str:
        """How increments propagate: as asked for, or as a given γ implies."""
        return self.propagate or (self.usual if self.gamma is None else "compounded")

    def increment(self, depth: int) -> float:
        gamma = 1e-3 if self.gamma is None else self.gamma
        return {"limit": 0.0, "finite": gamma, "compounded": gamma**depth}[self.way]
