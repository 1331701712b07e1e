"""dfa: direct feedback alignment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras import ops

from bpfree.autodiff import isolated
from bpfree.precision import full
from bpfree.rules.error_projection import ErrorProjectionRule
from bpfree.rules.local import in_turn
from bpfree.rules.trace import Batch, Trace


class DirectFeedbackAlignment(ErrorProjectionRule):
    """Direct feedback alignment: the output error, projected to every block.

        ∂L/∂h_l ← s · e F_lᵀ        surrogate  s Σ_{n,i} sg(e F_lᵀ)_{ni} h_{l,ni}

    with e = ∂L/∂outputs (N, D), which carries the example weights and 1/N, for any loss L. Gradients
    stop at every block's input and at e.

    Args:
        bw_init, signal_scale, pool: see `ProjectionRule`.
        recompute: run the forward pass twice. No activation has to wait for the error then, so the
            step's memory does not grow with depth, at about the FLOPs of backpropagation. The first
            pass changes no state; both draw the same dropout masks.

    Source: Nøkland 2016, https://arxiv.org/abs/1609.01596, equation 7.
    """

    name = "dfa"

    def __init__(
        self,
        bw_init: str = "ortho",
        signal_scale: float = 1.0,
        pool: bool = False,
        recompute: bool = False,
        **kwargs,
    ):
        super().__init__(bw_init, signal_scale, pool, **kwargs)
        self.recompute = recompute

    def signal(self, trace: Trace):
        return trace.error

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        if not self.recompute:
            return super().lesson(network, batch)
        with isolated(network.variables):
            first = self.trace(network, batch)
            error = first.error
        # If the second pass did not wait for the end of the first, XLA would merge the two; if it did
        # not wait for its middle, XLA's CPU compiler would make the first one operation with a buffer
        # for every block.
        end = sum(ops.sum(full(part)) for part in (*first.activations, error))
        late = batch.x + ops.stop_gradient(ops.cast(0 * end, batch.x.dtype))
        second = replace(batch, x=late, error=error)
        surrogates, _, outputs = in_turn(self, network, second, self._learn)
        return [*surrogates, batch.task_loss(outputs)], outputs

    def _learn(self, trace: Trace, index: int):
        return self.sent(trace.error, trace.activations[index], index), ()
