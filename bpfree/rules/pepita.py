"""pepita: error-modulated second forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial, reduce
from itertools import pairwise, takewhile
from typing import Any

from keras import ops

from bpfree.autodiff import isolated
from bpfree.errors import UserError
from bpfree.layers.projection import INITIALIZERS, check_initializer
from bpfree.network import around_activation, is_dropout, kernels, layers_of, run
from bpfree.precision import width
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh

REDUCTIONS = {"mean": lambda count: count, "sqrt": math.sqrt, "sum": lambda count: 1}
"""By what the sum over a feature map's positions is divided."""
PASSES = ("second", "first")


class Pepita(Rule):
    """PEPITA: a second forward pass, on inputs that the output error has modulated.

        h_l of x,   h'_l of x' = x + s e Fᵀ                e = ∂ loss_n / ∂ outputs, each example's own
        ∂L/∂K_l ← 1/N Σ_n w_n h'_{l−1}ᵀ (h_l − h'_l)       surrogate  1/N Σ_n w_n sg(h_l − h'_l) · z'_l
        ∂L/∂K   ← 1/N Σ_n w_n h'_Lᵀ e'                     of the head: the task loss of the second pass

    No derivative of the activation is taken: a block's pre-activation z' = h'_{l−1} K + b is what the
    surrogate moves. Batch normalisation counts to z', and its statistics are those of the second pass.
    Dropout draws the same masks in both, and a block's h is what is left after the dropout that follows
    it. Of feature maps, h is the map before the pool, and positions are averaged; the sign is that of
    dense layers (in the published code a convolution's has the other one). Blocks without an activation
    layer count as linear. Both passes compute in float32, under any policy: half precision would round
    h − h' away. Gradients stop at every block's input and at e. The logged loss is that of the first pass.

    Args:
        bw_init: initialiser of F (n_0, D), before s: `he_uniform`, which is U(±√(6/n_0)) as published, or
            `ortho lecun glorot he uniform`.
        f_scale: s, any float.
        use_sign_error: sign(e) in the place of e, with s a tenth (the variant ERINsign).
        output_error: the head learns from the error of the `second` pass or of the `first`, always with the
            second pass's activities.
        conv_reduction: the sum over positions is divided by their number (`mean`), its root (`sqrt`), or
            not (`sum`).

    Raises:
        UserError: for an unknown name; from `build`, for a Dense or convolution with an activation built in,
            and for weights behind a block's first activation, which z' does not depend on.

    Source: Dellaferrera & Kreiman 2022, https://arxiv.org/abs/2201.11665, algorithm 1; options as in the
    authors' published code.
    """

    name = "pepita"
    projects = True

    def __init__(
        self,
        bw_init: str = "he_uniform",
        f_scale: float = 0.05,
        use_sign_error: bool = False,
        output_error: str = "second",
        conv_reduction: str = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_initializer(bw_init)
        named = {"output_error": (output_error, PASSES)}
        named["conv_reduction"] = (conv_reduction, tuple(REDUCTIONS))
        for option, (value, allowed) in named.items():
            if value not in allowed:
                choices = ", ".join(allowed)
                raise UserError(f"{option} of 'pepita' is one of {choices}, received {value!r}.")
        self.bw_init, self.f_scale, self.use_sign_error = bw_init, f_scale, use_sign_error
        self.output_error, self.conv_reduction = output_error, conv_reduction

    def build(self, network, input_shape, outputs: int) -> None:
        for block in network.blocks:
            _check_nothing_learns_behind(block)
        seed = fresh() if self.seed is None else self.seed
        size = math.prod(input_shape[1:])
        scaled = INITIALIZERS[self.bw_init](size, derive(seed, "feedback"))
        self.projection = self.add_weight(
            name="feedback",
            shape=(size, outputs),
            initializer=lambda shape, dtype=None: self.f_scale * scaled(shape, dtype),
            trainable=False,
            dtype=width(),
        )

    @property
    def feedback(self) -> list:
        """`[F]`, s included: the one matrix (n_0, D), from the outputs to the input."""
        return [self.projection]

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        with isolated(network.variables):  # both passes draw the same masks
            _, first = self.run(network, batch, batch.x)
        error = first.example_error
        pre, second = self.run(network, batch, batch.x + self.modulation(error, batch.x))
        pairs = zip(pre, first.activations, second.activations, strict=True)
        surrogates = [batch.mean(self.push(z, h - modulated)) for z, h, modulated in pairs]
        if self.output_error == "second":
            task = batch.task_loss(second.outputs)
        else:
            task = ops.sum(first.error * second.outputs)
        return [*surrogates, task], first.outputs

    def modulation(self, error, x):
        """s e Fᵀ, in the shape of the inputs x."""
        if self.use_sign_error:
            error = 0.1 * ops.sign(error)
        return ops.reshape(ops.matmul(error, ops.transpose(self.projection)), ops.shape(x))

    def push(self, z, difference):
        """Σ sg(h − h') · z' of each example (N,), averaged over positions."""
        positions = REDUCTIONS[self.conv_reduction](math.prod(z.shape[1:-1]))
        axes = tuple(range(1, len(z.shape)))
        return ops.sum(ops.stop_gradient(difference) * z, axis=axes) / positions

    def run(self, network, batch: Batch, x) -> tuple[list, Trace]:
        """One pass in float32: every block's pre-activation z and activity h, and the outputs."""
        call = partial(run, training=batch.training, dtype=width())
        pre, activities = [], []
        for block, above in pairwise([*network.blocks, network.head]):
            linear, activation, rest = around_activation(block)
            z = call(linear, ops.stop_gradient(x))
            h = call(activation, z)
            following = [*rest, *layers_of(above)]
            with isolated([v for layer in following for v in layer.variables]):
                activities.append(call(takewhile(is_dropout, following), h))
            pre.append(z)
            x = call(rest, h)
        outputs = call(layers_of(network.head), ops.stop_gradient(x))
        return pre, Trace(network, batch, activities, outputs)

    def alignment(self, network) -> Iterator[tuple]:
        """`network`, K_1 … K_head, and F: their cosine falls below 0 as the weights align against F.

        Nothing where the kernels are no chain of matrices from the inputs to the outputs.
        """
        found = kernels(network)
        chain = [self.projection.shape[0], *(v.shape[-1] for v in found)]
        if [tuple(v.shape) for v in found] == list(pairwise(chain)):
            yield "network", reduce(ops.matmul, found), self.projection

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if fw_init == "zeros":
            return (
                "Zero forward weights make both passes of 'pepita' alike, so that no block would ever "
                "learn: choose another fw_init."
            )
        return super().refusal(problem_type, activation, fw_init)


def _check_nothing_learns_behind(block) -> None:
    _, activation, rest = around_activation(block)
    for layer in rest:
        if layer.trainable_variables:
            raise UserError(
                f"Rule 'pepita' moves what is in front of a block's first activation, and {layer.name!r} has "
                f"weights behind {activation[0].name!r}: cut the block there, or choose an architecture "
                "with one activation per block."
            )
