"""ErrorProjectionRule: the base of rules that send one signal back to all blocks at once."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from bpfree import autodiff
from bpfree.precision import width
from bpfree.rules.local import after, everything_but
from bpfree.rules.projection import ProjectionRule
from bpfree.rules.trace import Batch, Trace


class ErrorProjectionRule(ProjectionRule):
    """Projects a signal that is known once the outputs are, (N, D), to every block.

        ∂L/∂h_l ← s · signal F_lᵀ

    All blocks could learn at once; here they do from the last to the first, each to its end before the
    next one's signal is projected. Left to itself a compiler projects all signals first, and a step
    needs room for one per block beside the activations: twice what backpropagation needs.
    """

    def signal(self, trace: Trace):
        """The signal (N, D), with weights and 1/N in it, stopped."""
        raise NotImplementedError(f"{type(self).__name__} defines no signal.")

    def surrogates(self, trace: Trace) -> list:
        return self.send([self.signal(trace)] * len(trace.blocks), trace.activations)

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        activations, pulls, x = [], [], batch.x
        for index, block in enumerate(network.blocks):

            def forward(x=x, index=index, block=block):
                return block(x, training=batch.mode(index)), ()

            state = everything_but(block.trainable_variables, network, self)
            h, _, pull = autodiff.pullback(forward, block.trainable_variables, state)
            x = ops.stop_gradient(h)
            activations.append(x)
            pulls.append(pull)
        outputs = network.head(x, training=batch.mode(len(network.blocks)))
        trace = Trace(network, batch, activations, ops.cast(outputs, keras.config.floatx()))
        surrogates = self._learned(trace, pulls)
        return [*surrogates, batch.task_loss(trace.outputs)], trace.outputs

    def _learned(self, trace: Trace, pulls: list) -> list:
        """The surrogates, each with its gradient, which `pulls[index]` makes from one by h."""
        # In half precision the gradient of a sum keeps small signals that that of a mean would lose.
        count = ops.cast(ops.shape(trace.x)[0], width())
        signal, surrogates = self.signal(trace), []
        for index in reversed(range(len(pulls))):
            h, variables = trace.activations[index], trace.blocks[index].trainable_variables
            back = self.scale * self.projections[index].back(signal * count, h)
            gradients = [
                ops.stop_gradient(gradient / count)
                for gradient in pulls[index](ops.cast(back, h.dtype))
            ]
            surrogate = ops.stop_gradient(self.sent(signal, h, index))
            surrogates.insert(0, surrogate + autodiff.attached(variables, gradients))
            signal = after(gradients, signal)
        return surrogates
