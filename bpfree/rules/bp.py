"""bp: backpropagation, the baseline."""

from bpfree.rules.rule import Rule
from bpfree.rules.trace import Trace


class Backpropagation(Rule):
    """Backpropagation: nothing is stopped, so the head's task loss L trains every block.

        ∂L/∂h_{l−1} = (∂L/∂h_l · f'(z_l)) K_lᵀ

    The blocks have no surrogate of their own.

    Source: Rumelhart, Hinton & Williams 1986, https://doi.org/10.1038/323533a0, equations 4 to 7.
    """

    name = "bp"
    aliases = {"std": {}}
    cut = False

    def surrogates(self, trace: Trace) -> list:
        return [0.0 for _ in trace.blocks]
