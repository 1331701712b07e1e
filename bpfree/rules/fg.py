"""fg: forward gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.auxiliary import WIDTHS, auxiliary
from bpfree.precision import full
from bpfree.rules import fg_spaces
from bpfree.rules.fg_losses import LOSSES
from bpfree.rules.replay import Replay
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch
from bpfree.seeds import derive, fresh

TARGETS = ("global", "local", "above")
GUESSES = ("random", *LOSSES)
NOISES = {
    "gaussian": keras.random.normal,
    "rademacher": lambda shape, seed: ops.sign(keras.random.uniform(shape, -1.0, 1.0, seed=seed)),
}
REFUSED = {
    "sum": "it was announced and never defined",
    "predsim": "its loss compares examples with each other, so no example has a loss of its own",
    "activation-2": "it is activation wherever examples do not meet inside a block",
    "f-weight": "it was announced and never defined",
    "f-activation": "it was announced and never defined",
    "constrained-weight": "it was announced and never defined",
    "sign-weight": "the published code computes weight under this name",
    "span-weight": "the published code computes weight under this name",
    "random-sign-weight": "it is a control that takes no derivative",
    "span-activation": "it needs one directional derivative for every pair of examples",
}
"""Names of the published command line that are not here, and why."""


class ForwardGradient(Rule):
    """Forward gradient: the rate at which a target loss changes along a guess, times the guess.

        u = v/√(‖v‖² + ε)  or  v,    c = ⟨∂target, u⟩,    Ĝ = c u

    with c from forward-mode differentiation: one pass forward, no way back. Normalised, Ĝ is the
    projection of the target's gradient on the guess v; a random v is left as it is, which makes Ĝ
    unbiased. The blocks but the last learn from Ĝ, by space:

        activation  v is ∂guess/∂h_{l,n} or noise; c for every example    1/N Σ_n w_n sg(c_n u_n) · h_{l,n}
        weight      v is an example's ∂guess/∂W or noise, for each tensor W  Σ_W sg(1/N Σ_n w_n c_n u_n) · W
        avg-weight  v is the batch's ∂guess/∂W or noise, for each W          Σ_W sg(c u) · W

    A target or guess is a loss of each example: `global`, the compiled one of the network's outputs;
    `local`, that of an auxiliary net on h_l, which learns from it; `ntk`, the same of a net drawn anew
    for every batch, `fixed-ntk` of one drawn once; `above`, the next block's local loss. Within a block
    gradients flow, between blocks they stop. The last block and the head learn from the true loss by its
    exact gradient. In weight spaces a random guess is one direction for the whole batch.

    Where c is an example's, the batch statistics of BatchNormalization count as constants in it, so that
    an example's loss does not depend on the others. Masks of dropout are those of the pass.

    Args:
        target: `global`, `local` or `above`.
        guess: `random`, `local`, `ntk`, `fixed-ntk`, `above` or `global` (backpropagation's, a reference).
        space: `activation`, `weight` (of dense, convolutional and normalisation layers) or `avg-weight`.
        noise: of random guesses, `gaussian` N(0, 1) or `rademacher` ±1.
        joint: whether all random guesses of a global target share one derivative, c = Σ ⟨∂target, u⟩ over
            blocks and tensors (Baydin et al.), the cheapest; else each has its own, with less variance.
        normalise: `auto` (all guesses but random), true or false.
        eps: ε > 0; gradients of single examples' losses have no 1/N here.
        derivative: `forward`, or `simulated`: c as the product with a backpropagated gradient, as in the
            published code; statistics of the batch are then differentiated.
        auxnet: `linear`, `mlp` or `cnn`, see `bpfree.layers.auxiliary`.
        auxwidth: of its hidden layers; None is the published one of ResNet-18 in 8 blocks.
        auxnorm: whether it has batch normalisation, as published.

    Raises:
        UserError: for an unknown name or combination, ε ≤ 0, or an auxnet that does not fit.

    Source: Fournier, Rivaud, Belilovsky, Eickenberg & Oyallon 2023, https://arxiv.org/abs/2306.06968,
    section 3; random guesses: Baydin et al. 2022, https://arxiv.org/abs/2202.08587, section 3, and Ren et al.
    2022, https://arxiv.org/abs/2210.03310, section 3.
    """

    name = "fg"
    aliases = {
        "localonly": {
            **{"target": "local", "guess": "local", "space": "activation"},
            "derivative": "simulated",
        },
        **{
            f"fg-tgt-e2e-guess-{guess}-{space}": {"target": "global", "guess": own, "space": at}
            for guess, own in [("localgrad", "local"), ("random", "random"), ("ntk", "ntk")]
            for space, at in [("weight", "weight"), ("activity", "activation")]
        },
    }

    def __init__(
        self,
        target: str = "global",
        guess: str = "local",
        space: str = "activation",
        noise: str = "gaussian",
        joint: bool = True,
        normalise: bool | str = "auto",
        eps: float = 1e-16,
        derivative: str = "forward",
        auxnet: str = "linear",
        auxwidth: int | None = None,
        auxnorm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for option, value, allowed in [
            ("target", target, TARGETS),
            ("guess", guess, GUESSES),
            ("space", space, tuple(fg_spaces.SPACES)),
            ("noise", noise, tuple(NOISES)),
            ("normalise", normalise, ("auto", True, False)),
            ("derivative", derivative, ("forward", "simulated")),
            ("auxnet", auxnet, tuple(WIDTHS)),
        ]:
            _check(option, value, allowed)
        if not eps >= 1e-30:
            raise UserError(
                f"eps of 'fg' is at least 1e-30, which float32 can add, received {eps}."
            )
        if auxwidth is not None and (type(auxwidth) is not int or auxwidth < 1):
            raise UserError(f"auxwidth of 'fg' is a whole number from 1, received {auxwidth!r}.")
        self.target, self.guess, self.space, self.noise = target, guess, space, noise
        self.joint, self.normalise, self.eps, self.derivative = joint, normalise, eps, derivative
        self.auxnet, self.auxwidth, self.auxnorm = auxnet, auxwidth, auxnorm
        self.cut = target == "local" and guess not in ("global", "above")
        self.stochastic = guess in ("random", "ntk")

    def build(self, network, input_shape, outputs: int) -> None:
        seed = fresh() if self.seed is None else self.seed
        self.draws = keras.random.SeedGenerator(derive(seed, "guesses"))

        def nets(role: str, trainable: bool) -> list:
            made = [
                auxiliary(
                    *(self.auxnet, shape, outputs, self.auxwidth, self.auxnorm),
                    seed=derive(seed, role, index),
                    name=f"{role}_{index + 1}",
                )
                for index, shape in enumerate(network.hidden_shapes[:-1])
            ]
            for net in made:
                net.trainable = trainable
            return made

        used = {self.target, self.guess}
        self.heads = nets("auxiliary", True) if used & {"local", "above"} else []
        self.random = nets("random", False) if used & {"ntk", "fixed-ntk"} else []

    def losses(self, name: str, replay: Replay, index: int) -> Callable:
        """The losses (N,) of that name, as a function of the output of block `index`."""
        return partial(LOSSES[name], self, replay, index)

    def scale(self, square):
        """u/v from ‖v‖²: 1/√(‖v‖² + ε), or 1."""
        normalised = self.guess != "random" if self.normalise == "auto" else self.normalise
        return 1 / ops.sqrt(square + self.eps) if normalised else ops.ones_like(square)

    @property
    def shares_derivative(self) -> bool:
        """Whether all blocks have one c: only noise may, and only of a loss that sees all blocks."""
        return self.joint and self.guess == "random" and self.target == "global"

    def rate(self, function, at: list, along: list):
        """c, the derivative of a function's value, a scalar or (N,), from `at` along `along`."""
        along = [ops.cast(u, a.dtype) for u, a in zip(along, at, strict=True)]
        if self.derivative == "forward":
            return ops.stop_gradient(autodiff.jvp(function, at, along)[1])
        slopes = autodiff.gradient(lambda at: ops.sum(function(*at)), at)
        per_example = len(function(*at).shape)
        products = [
            ops.sum(full(g * u), axis=tuple(range(per_example, len(g.shape))))
            for g, u in zip(slopes, along, strict=True)
        ]
        return ops.stop_gradient(sum(products))

    def drawn(self, shapes: list) -> list:
        """Noise of these shapes."""
        return [NOISES[self.noise](shape, seed=self.draws) for shape in shapes]

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        variables = [
            *network.variables,
            *(v for n in [*self.heads, *self.random] for v in n.variables),
        ]
        whole = self.space == "avg-weight" or (self.space == "weight" and self.guess == "random")
        constant = self.derivative == "forward" and not whole
        replay = Replay.of(network, batch, variables, constant)
        if self.guess == "ntk":
            replay = replay.having(self._redrawn())
        last = len(network.blocks) - 1
        modes = [batch.mode(index) for index in range(last + 2)]
        *hidden, outputs = network.trace(batch.x, modes, [True] * last + [False])
        surrogates = fg_spaces.SPACES[self.space](self, replay, hidden[:-1])
        for index, head in enumerate(self.heads):
            scores = head(ops.stop_gradient(hidden[index]), training=batch.mode(index))
            surrogates[index] += batch.mean(batch.losses(full(scores)))
        return [*surrogates, 0.0, batch.task_loss(outputs)], outputs

    def _redrawn(self) -> list[tuple]:
        """New kernels for the random nets."""
        draw = keras.initializers.HeUniform(seed=self.draws)
        found = [v for net in self.random for v in net.variables if v.name.endswith("kernel")]
        return [(kernel, draw(kernel.shape, dtype=kernel.dtype)) for kernel in found]


def _check(option: str, value, allowed: tuple) -> None:
    if isinstance(value, str) and value in REFUSED:
        raise UserError(f"{option} {value!r} is not part of 'fg': {REFUSED[value]}.")
    if value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise UserError(f"{option} of 'fg' is one of {choices}, received {value!r}.")
