"""FeedbackRule: the base of rules that send the error back through other kernels than the forward ones."""

from __future__ import annotations

from functools import partial

import keras

from bpfree.layers.feedback import owns_kernel, with_feedback
from bpfree.network import walk
from bpfree.precision import full, width
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh


class FeedbackRule(Rule):
    """Backpropagation, with B_l in the place of K_l on the way back:

        ∂L/∂h_{l−1} ← (∂L/∂h_l · f'(z_l)) B_lᵀ,      the head's B included

    Every layer with a kernel has one, but for the very first, whose input needs no gradient. Nothing is
    stopped between blocks; activations, normalisation, pooling and skips are differentiated as they are.

    Raises:
        UserError: from `build`, for a layer whose kernel cannot be replaced, see `owns_kernel`.
    """

    cut = False

    def build(self, network, input_shape, outputs: int) -> None:
        self._input_shape = tuple(input_shape[1:])
        owners = self._owners(network)
        self._order = {id(part): index for index, part in enumerate(owners)}
        seed = fresh() if self.seed is None else self.seed
        for index, part in enumerate(owners):
            self.build_feedback(index, part.kernel.shape, derive(seed, "feedback", index))

    def build_feedback(self, index: int, shape, seed: int) -> None:
        """Creates what B of the layer `index` (0: the second one with a kernel) is made from."""

    def backward(self, index: int, kernel):
        """B of that layer, from its kernel."""
        raise NotImplementedError

    def surrogates(self, trace: Trace) -> list:
        return [0.0 for _ in trace.blocks]

    def trace(self, network, batch: Batch) -> Trace:
        call = partial(self._call, training=batch.training)
        x, activations = batch.x, []
        for block in network.blocks:
            x = walk(block, x, call)
            activations.append(x)
        outputs = full(walk(network.head, x, call))
        return Trace(network, batch, activations, outputs)

    def _call(self, part, x, training: bool):
        index = self._order.get(id(part))
        if index is None:
            return part(x, training=training)
        return with_feedback(part, x, self.backward(index, part.kernel.value), training)

    def pairs(self, network) -> list[tuple]:
        """Every kernel with its B, for trackers of their alignment."""
        return [
            (part.kernel, self.backward(index, part.kernel.value))
            for index, part in enumerate(self._owners(network))
        ]

    def _owners(self, network) -> list[keras.layers.Layer]:
        """The layers with a kernel in the order of the forward pass, without the first."""
        found = []

        def call(part, x):
            if owns_kernel(part):
                found.append(part)
            return part(x)

        x = keras.KerasTensor((None, *self._input_shape), width())
        for layer in (*network.blocks, network.head):
            x = walk(layer, x, call)
        return found[1:]
