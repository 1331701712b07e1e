"""TargetRule: the base of rules whose targets go down through the inverse of the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from bpfree import autodiff, inverses
from bpfree.errors import UserError
from bpfree.network import is_activation, kernels
from bpfree.penalties import off_diagonal
from bpfree.precision import full
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch, Trace

NEGLIGIBLE = 1e-12  # an increment that makes no difference in any precision


@dataclass(frozen=True)
class Step:
    """A layer of the forward pass, with its input x and its variables' values before it."""

    layer: keras.layers.Layer
    x: Any
    values: list
    training: bool

    def backpropagate(self, e):
        """∂(Σ e·h)/∂x, with the masks and batch statistics of the forward pass."""
        with autodiff.replaced(self.values):
            return full(autodiff.gradient(lambda x: ops.sum(e * full(self.run(x))), self.x))

    def run(self, x):
        return self.layer(x, training=self.training)


@dataclass(frozen=True)
class TargetTrace(Trace):
    """A trace that knows the steps inside the second block and everything above."""

    steps: list


class TargetRule(Rule):
    """Every block has a target s_l for its activation, and learns to come nearer to it:

        1/N Σ_n w_n ½ ∥h_l − sg(s_l)∥²,      s_l = h_l − e_l

    Targets are carried as differences e_l, so that nothing is lost by subtracting what is almost equal,
    at any depth, in float32. The highest is e = ∂loss_n/∂outputs of each example, for any loss; through
    a layer a = x W + b below an activation,

        e_{l−1} = ê W⁺,   with ê what a subclass makes of e_l before the activation

    and W⁺ = W⁻¹ the (pseudo-)inverse. Units that go no further have e = 0, and keep what they are.
    Gradients stop at every block's input, and at every target; the first block may be anything.

    Args:
        inverse: how W⁺ is found: `newton_schulz` (kept from step to step), `solve`, `pinv` or `transpose`
            (conjugate gradients); see `bpfree.inverses`.
        tolerance: of `newton_schulz` and `transpose`: relative error, > 0.
        ortho_reg: λ ≥ 0, adds λ Σ_{i≠j} (W Wᵀ)²_ij of every kernel to the gradient (and to `reg`, not to
            `loss`); of a kernel with more rows than columns, WᵀW. See `bpfree.penalties`.
        ortho_norm: whether the diagonal is held at 1 as well, (W Wᵀ − I)².

    Raises:
        UserError: for an unknown inverse or a number out of range; and from `build`, for a layer that
            has no inverse here.
    """

    cut = False
    """Later weights reach a block, through its target; gradients do not."""

    def __init__(
        self,
        inverse: str = "newton_schulz",
        tolerance: float = 1e-3,
        ortho_reg: float = 0.0,
        ortho_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        inverses.check(inverse, tolerance)
        if not ortho_reg >= 0:
            raise UserError(f"ortho_reg of {self.name!r} is at least 0, received {ortho_reg}.")
        self.inverse = inverse
        self.tolerance = tolerance
        self.ortho_reg = ortho_reg
        self.ortho_norm = ortho_norm

    # -- what a subclass says -------------------------------------------------------------------

    def before_activation(self, step: Step, e, gamma: float):
        """ê, from the error e of an activation's output."""
        raise NotImplementedError

    def before_norm(self, step: Step, e):
        """The same of batch normalisation, a scaling by c = γ/√(var + ε) of statistics held fixed: e/c."""
        norm = step.layer
        variance = ops.var(full(step.x), axis=0) if step.training else norm.moving_variance
        scale = 1.0 if norm.gamma is None else full(norm.gamma.value)
        return e * ops.sqrt(full(variance) + norm.epsilon) / scale

    def increment(self, depth: int) -> float:
        """γ of the layer that is `depth` layers of weights below the outputs; the last has depth 1."""
        return 0.0

    # -- what the base does ---------------------------------------------------------------------

    @property
    def alone(self) -> str | None:
        # jax 0.10.2 does on a CPU, with three systems of 784 equations and 256 right sides each.
        if self.inverse == "solve":
            return "inverse=solve: XLA may wait for ever where it solves several networks at once."
        return None

    def build(self, network, input_shape, outputs: int) -> None:
        dense = []
        for part in upper(network):
            self.check_part(part)
            dense += [part] if isinstance(part, keras.layers.Dense) else []
        self._order = {id(part): index for index, part in enumerate(dense)}
        self.inverses = []
        for index, part in enumerate(dense):
            made = inverses.METHODS[self.inverse](self.tolerance, name=f"inverse_{index + 2}")
            made.build(part.kernel.shape)
            self.inverses.append(made)

    def check_part(self, part) -> None:
        """Raises a UserError where no target can be sent back through this layer."""
        linear = isinstance(part, keras.layers.Dense) and activation_of(part) is None
        norm = isinstance(part, keras.layers.BatchNormalization)
        has_weights = part.trainable_variables or isinstance(part, keras.layers.Dense)
        if has_weights and not linear and not norm:
            raise UserError(
                f"Rule {self.name!r} inverts dense layers with their activation in a layer of its own, "
                f"and {part.name!r} is a {type(part).__name__} that is none: use a perceptron, square or "
                "tower, or another rule."
            )

    def before_step(self, network, batch: Batch) -> None:
        for part in upper(network):
            if id(part) in self._order:
                inverse = self.inverses[self._order[id(part)]]
                inverse.refresh(ops.stop_gradient(part.kernel.value))

    def trace(self, network, batch: Batch) -> TargetTrace:
        activations, steps = [], []
        x = network.blocks[0](batch.x, training=batch.mode(0))
        for index, layer in enumerate((*network.blocks[1:], network.head), start=1):
            activations.append(x)
            steps.append([])
            x = ops.stop_gradient(x)
            for part in parts(layer):
                # Copies: on TensorFlow a value would follow its variable, and a mask would be another one.
                values = [(variable, ops.copy(variable)) for variable in part.variables]
                steps[-1].append(Step(part, x, values, batch.mode(index)))
                x = part(x, training=batch.mode(index))
        return TargetTrace(network, batch, activations, full(x), steps)

    def surrogates(self, trace: TargetTrace) -> list:
        found, e = [], trace.example_error
        for depth, (h, steps) in enumerate(
            zip(trace.activations[::-1], trace.steps[::-1], strict=True), start=1
        ):
            gamma = self.increment(depth)
            e = ops.stop_gradient(self.below(steps, e, gamma if gamma > NEGLIGIBLE else 0.0))
            # h − s, without the rounding of s = h − e.
            apart = full(h) - ops.stop_gradient(full(h)) + e
            axes = tuple(range(1, len(h.shape)))
            found.append(trace.batch.mean(ops.sum(ops.square(apart), axis=axes) / 2))
        return found[::-1]

    def below(self, steps: list[Step], e, gamma: float):
        """The error of a block's (or the head's) input, from that of its output."""
        for step in reversed(steps):
            if id(step.layer) in self._order:
                _check_vectors(step)
                inverse = self.inverses[self._order[id(step.layer)]]
                e = inverse.through(e, ops.stop_gradient(step.layer.kernel.value))
                # Auxiliary units project nowhere: their target is their own activity.
                e = ops.pad(e, [[0, 0], [0, step.x.shape[-1] - e.shape[-1]]])
            elif isinstance(step.layer, keras.layers.BatchNormalization):
                e = self.before_norm(step, e)
            elif activation_of(step.layer):
                e = self.before_activation(step, e, gamma)
            else:
                e = step.backpropagate(e)
        return e

    def penalty(self, network):
        if not self.ortho_reg:
            return None
        terms = (off_diagonal(v.value, self.ortho_norm) for v in kernels(network))
        return self.ortho_reg * sum(terms)


def parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers of a Sequential, all the way down; any other layer alone."""
    if not isinstance(layer, keras.Sequential):
        return [layer]
    return [part for inner in layer.layers for part in parts(inner)]


def upper(network) -> list[keras.layers.Layer]:
    """All layers above the first block, the head's included."""
    return [part for layer in (*network.blocks[1:], network.head) for part in parts(layer)]


def activation_of(layer: keras.layers.Layer) -> str | None:
    """The name of the activation that a layer applies, None if that is none or linear."""
    function = getattr(layer, "activation", None)
    if function not in (None, keras.activations.linear):
        return getattr(function, "__name__", type(function).__name__)
    is_one = is_activation(layer) and not isinstance(layer, keras.layers.Activation)
    return type(layer).__name__ if is_one else None


def _check_vectors(step: Step) -> None:
    if len(step.x.shape) != 2:
        raise UserError(
            f"Targets go back through dense layers on vectors, and {step.layer.name!r} is given the shape "
            f"{tuple(step.x.shape[1:])}: put a Flatten in front of it, or use another rule."
        )
