"""ff_recurrent: Forward-Forward with top-down connections."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.network import pre_activation
from bpfree.rules.goodness import GoodnessRule
from bpfree.rules.rule import zero
from bpfree.rules.trace import Batch


class RecurrentForwardForward(GoodnessRule):
    """Recurrent Forward-Forward: the layers of a perceptron settle between the pixels and the label.

        z_l^t = K_l u_{l−1}^{t−1} + b_l + V_l u_{l+1}^{t−1},     u = normalise(sg h),  u_0 = normalise(x),
        h_l^t = δ sg h_l^{t−1} + (1 − δ) f(z_l^t)                                 u_{L+1} = normalise(y)
        surrogate_l   mean over t = 1 … T of separation(h_l^t), + equalisation(mean z_l, mean h_l)

    for t = 1 … T, all layers at once, from h^0, one bottom-up pass without a label. The classifier
    learns on that pass, and negatives, the same image under a wrong label, are drawn by its
    probabilities. The label with the most goodness, averaged over the iterations `first` to `last`, is
    the prediction. The top-down kernels V_l (of the layer above × of this one) learn with their block.
    No gradient goes through time, nor from one layer to another.

    Args:
        iterations: T ≥ 1.
        damping: δ in [0, 1), the share of a layer's old state.
        first, last: 1 ≤ first ≤ last.
        **kwargs: see `GoodnessRule`.

    Raises:
        UserError: for an unknown name, a number out of range, or a network of other blocks than dense
            ones that end in an activation.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, section 3.4. Which iterations learn, and how V
    starts (LeCun's normal), is not stated there.
    """

    name = "ff_recurrent"

    def __init__(
        self, iterations: int = 8, damping: float = 0.3, first: int = 3, last: int = 5, **kwargs
    ):
        super().__init__(**kwargs)
        if not iterations >= 1 or not 0 <= damping < 1 or not 1 <= first <= last:
            raise UserError(
                "Rule 'ff_recurrent' needs iterations ≥ 1, damping in [0, 1) and 1 ≤ first ≤ last, "
                f"received {iterations}, {damping}, {first} and {last}."
            )
        self.iterations, self.damping, self.first, self.last = iterations, damping, first, last

    def build(self, network, input_shape, outputs: int) -> None:
        _check_blocks(network)
        super().build(network, input_shape, outputs)
        above = [*self.widths[1:], outputs]
        self.top_down = []
        for index, (units, inputs) in enumerate(zip(self.widths, above, strict=True)):
            seed = self.derived("top-down", index)
            layer = keras.layers.Dense(
                units,
                use_bias=False,
                kernel_initializer=keras.initializers.LecunNormal(seed=seed),
                name=f"top_down_{index + 1}",
            )
            layer.build((None, inputs))
            self.top_down.append(layer)

    def trained_with(self, network, index: int) -> list:
        own = self.top_down[index].trainable_variables if index < len(self.top_down) else []
        return [*super().trained_with(network, index), *own]

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        modes = [batch.mode(index) for index in range(len(network.blocks))]
        pixels, states = self.bottom_up(network, batch.x, modes)
        logits = self.classify(states)
        labels = batch.targets(self.classifier.units)
        both = ops.concatenate([labels, self.wrong_labels(logits, labels)])
        pixels, *states = (ops.concatenate([part, part]) for part in (pixels, *states))
        course = list(self.settle(network, pixels, states, both, modes, self.iterations))
        surrogates = []
        for index in range(len(network.blocks)):
            z, h = zip(*((z[index], h[index]) for z, h in course), strict=True)
            surrogates.append(self.over_time(z, h, index, batch))
        unused = zero(network.head.trainable_variables)
        return [*surrogates, batch.task_loss(logits) + unused], logits

    def over_time(self, z, h, index: int, batch: Batch):
        """What block `index` learns from, of its z and h at every iteration."""
        count = len(h)
        loss = sum(self.separation(state, index, batch) for state in h) / count
        if not self.peer:
            return loss
        return loss + self.equalisation(sum(z) / count, sum(h) / count, index, batch)

    def bottom_up(self, network, x, modes) -> tuple[Any, list]:
        """K_1 u_0 + b_1, which no iteration changes, and the states h^0 without a label."""
        pixels, state, states = None, x, []
        for block, mode in zip(network.blocks, modes, strict=True):
            z, state = pre_activation(block, self.normalise(state), training=mode)
            pixels = z if pixels is None else pixels
            states.append(state)
        return pixels, states

    def settle(self, network, pixels, states: list, labels, modes, iterations: int):
        """Yields `[z_1, …, z_L], [h_1, …, h_L]` of one iteration after another."""
        top = self.normalise(labels)
        for _ in range(iterations):
            u = [*map(self.normalise, states), top]
            below = [
                pixels,
                *(
                    pre_activation(block, u[index], training=modes[index + 1])[0]
                    for index, block in enumerate(network.blocks[1:])
                ),
            ]
            z = [
                drive + V(above)
                for drive, V, above in zip(below, self.top_down, u[1:], strict=True)
            ]
            states = [
                self.damped(old, block.layers[-1](now))
                for old, block, now in zip(states, network.blocks, z, strict=True)
            ]
            yield z, states

    def damped(self, old, computed):
        """δ sg old + (1 − δ) computed, float32."""
        old, computed = (ops.cast(part, "float32") for part in (old, computed))
        return self.damping * ops.stop_gradient(old) + (1 - self.damping) * computed

    def activations(self, network, x) -> list:
        return self.bottom_up(network, x, [False] * len(network.blocks))[1]

    def goodness_by_label(self, network, x):
        modes = [False] * len(network.blocks)
        pixels, states = self.bottom_up(network, x, modes)
        pixels, *states = (self.every_label(part)[0] for part in (pixels, *states))
        labels = self.every_label(x)[1]
        course = list(self.settle(network, pixels, states, labels, modes, self.last))
        total = sum(self.total_goodness(h) for _, h in course[self.first - 1 :])
        return self.by_label(total / (self.last - self.first + 1))


def _check_blocks(network) -> None:
    for block, shape in zip(network.blocks, network.hidden_shapes, strict=True):
        layers = block.layers if isinstance(block, keras.Sequential) else []
        if len(shape) != 2 or not layers or not isinstance(layers[-1], keras.layers.Activation):
            raise UserError(
                "Recurrent Forward-Forward adds top-down input to the pre-activation of dense blocks that "
                f"end in an activation, which block {block.name!r}, with output {tuple(shape[1:])}, is "
                "not: use a perceptron, e.g. 500-500."
            )
