"""tp: target propagation by exact inverses."""

from __future__ import annotations

import keras

from bpfree.errors import UserError
from bpfree.layers.increments import inverse_of
from bpfree.layers.invertible import FirstUnits
from bpfree.network import is_activation, is_dropout
from bpfree.precision import full
from bpfree.rules.targets import Step, TargetRule, activation_of

_KNOWN = (
    *(keras.layers.Dense, keras.layers.BatchNormalization, FirstUnits),
    *(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity),
)


class TargetPropagation(TargetRule):
    """Target propagation: what a layer should have put out, sent back through the layer's inverse.

        s_{l−1} = g_l(s_l),   g_l(y) = (f⁻¹(y) − b_l) W_l⁺

    as a difference, which is the same where W_l is invertible and else leaves h_{l−1} what W_l ignores:

        e_{l−1} = ê W_l⁺,   ê = f⁻¹(h_l) − f⁻¹(h_l − e_l)

    The highest target is s = outputs − ∂loss_n/∂outputs: the label, for half the squared error. A target
    beyond the range of f is taken at its end. Through batch normalisation ê is divided by its scaling,
    statistics held fixed.

    Args:
        inverse, tolerance, ortho_reg, ortho_norm: see `TargetRule`.

    Raises:
        UserError: if f has no inverse; see also `TargetRule`.

    Source: Bengio 2014, https://arxiv.org/abs/1407.7906; with exact inverses as in Ahmad, van Gerven &
    Ambrogioni 2020, https://arxiv.org/abs/2006.06438, section 2.
    """

    name = "tp"

    def before_activation(self, step: Step, e, gamma: float):
        return inverse_of(step.layer)(full(step.x), e, gamma)

    def increment(self, depth: int) -> float:
        return 1.0

    @property
    def inverts(self) -> bool:
        """Whether activations need an inverse."""
        return True

    def check_part(self, part) -> None:
        super().check_part(part)
        if self.inverts and activation_of(part) and inverse_of(part) is None:
            raise UserError(self._no_inverse(activation_of(part)))
        known = is_activation(part) or is_dropout(part) or isinstance(part, _KNOWN)
        if self.inverts and not known:
            raise UserError(
                f"Rule {self.name!r} sends targets through the inverse of every layer, and knows none of "
                f"{part.name!r} ({type(part).__name__}): use Dense, Activation and Dropout layers."
            )

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if self.inverts and activation is not None and inverse_of(activation) is None:
            return self._no_inverse(activation)
        return super().refusal(problem_type, activation, fw_init)

    def _no_inverse(self, name: str) -> str:
        return (
            f"Rule {self.name!r} sends targets through the inverse of the activation, and {name!r} has "
            "none: choose lrelu, tanh, sigmoid, elu or linear."
        )
