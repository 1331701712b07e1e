"""dtp: difference target propagation."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from bpfree.autodiff import gradient, isolated, replaced
from bpfree.errors import UserError
from bpfree.layers.feedback_path import Anatomy, FeedbackPath, anatomy
from bpfree.layers.projection import check_initializer
from bpfree.network import run
from bpfree.precision import full, width
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh

LOSSES = ("ldrl", "reconstruction")


class Passed(NamedTuple):
    """What a part was given (x), its kernel (u) and what pools after it (p), and what it put out (h)."""

    x: Any
    u: Any
    p: Any
    h: Any


class DifferenceTargetPropagation(Rule):
    """Difference target propagation: learned feedback paths G_l carry targets t_l = h_l + Δ_l backwards.

        Δ of the outputs = −β e_n,     Δ_{l−1} = G_l(h_l + Δ_l) − G_l(h_l)
        surrogate  1/N Σ_n w_n ½ Σ_i (h_l − sg t_l)²       of the head too: β times BP's gradient

    with e_n = ∂ loss_n / ∂ outputs. G_l leads from block l (or the head) back to the block below, see
    `FeedbackPath`. Before each step all G learn, by steps of SGD with momentum on the batch, from the
    local difference reconstruction loss (L-DRL)

        1/N Σ_n w_n [ −2 δ · (G(F(u + δ)) − r) + |G(F(u) + ε) − r|² ],   r = G(F(u)),   δ, ε ~ σ N(0, 1)

    or 1/N Σ_n w_n |u + δ − G(F(u + δ))|² (`reconstruction`), where u is what the block's kernel is given and
    F the block from there on, fixed. For small σ the first is least where G's Jacobian is F's, transposed;
    updates are then β times BP's. Its gradient is of order σ², so `feedback_lr` and σ go together. Gradients
    stop at every block's input and at the targets; G learns from its own loss alone. Batch normalisation is
    part of F, in the batch's mode, and its statistics are those of the lesson's pass.

    Args:
        bw_init: initialiser of every G's B, of the shape of its kernel: `ortho lecun glorot he uniform
            he_uniform`.
        beta: β > 0, the nudge.
        sigma: σ > 0; of each G in a list, e.g. `[0.4,0.4,0.2]`, from the second block's to the head's.
        iterations: steps of G per batch, ≥ 0; or a list.
        feedback_lr: of G, ≥ 0; or a list.
        momentum: of G, in [0, 1).
        feedback_loss: `ldrl` or `reconstruction`.
        difference: false is plain target propagation, t_{l−1} = G_l(t_l).
        symmetric_init: B starts as the kernel, in the place of `bw_init`.

    Raises:
        UserError: for an unknown name, a number out of range, a list that has not one value per G, or a
            block from which no path leads back.

    Source: Ernoult et al. 2022, https://arxiv.org/abs/2201.13415, section 3 and algorithm 1; difference
    targets and `reconstruction` as in Lee, Zhang, Fischer & Bengio 2015, https://arxiv.org/abs/1412.7525.
    """

    name = "dtp"
    projects = True
    stochastic = True
    per_block = ("sigma", "iterations", "feedback_lr")

    def __init__(
        self,
        bw_init: str = "ortho",
        beta: float = 0.7,
        sigma: float | list = 0.1,
        iterations: int | list = 5,
        feedback_lr: float | list = 0.02,
        momentum: float = 0.9,
        feedback_loss: str = "ldrl",
        difference: bool = True,
        symmetric_init: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_initializer(bw_init)
        if feedback_loss not in LOSSES:
            choices = ", ".join(LOSSES)
            raise UserError(
                f"feedback_loss of 'dtp' is one of {choices}, received {feedback_loss!r}."
            )
        least = [min(_values(option), default=-1) for option in (iterations, feedback_lr, sigma)]
        if min(least) < 0 or least[-1] <= 0 or beta <= 0 or not 0 <= momentum < 1:
            raise UserError(
                "Rule 'dtp' needs beta > 0, sigma > 0, iterations ≥ 0, feedback_lr ≥ 0 and momentum in "
                f"[0, 1), received {beta}, {sigma}, {iterations}, {feedback_lr} and {momentum}."
            )
        self.bw_init, self.beta, self.sigma, self.iterations = bw_init, beta, sigma, iterations
        self.feedback_lr, self.momentum, self.feedback_loss = feedback_lr, momentum, feedback_loss
        self.difference, self.symmetric_init = difference, symmetric_init

    # -- construction ---------------------------------------------------------------------------

    def build(self, network, input_shape, outputs: int) -> None:
        seed = fresh() if self.seed is None else self.seed
        first, *others = [*network.blocks, network.head]
        self.parts = [Anatomy([first]), *map(anatomy, others)]
        self.draws = keras.random.SeedGenerator(derive(seed, "feedback noise"))
        self.feedback_paths, self.velocities = [], []
        bw_init = None if self.symmetric_init else self.bw_init
        for index, shape in enumerate(network.hidden_shapes):
            for layer in self.parts[index + 1].lead:
                shape = layer.compute_output_shape(shape)
            path = FeedbackPath(
                *(self.parts[index + 1], bw_init, derive(seed, "feedback", index)),
                name=f"feedback_path_{index + 1}",
            )
            path.build(shape)
            self.feedback_paths.append(path)
            self.velocities.append([self._velocity(variable) for variable in path.weights])
        for option in self.per_block:
            self._each(option)

    def _velocity(self, variable):
        options = {"initializer": "zeros", "trainable": False, "dtype": variable.dtype}
        return self.add_weight(name="velocity", shape=variable.shape, **options)

    def _each(self, option: str) -> list:
        """The option's value for every G."""
        value, count = getattr(self, option), len(self.feedback_paths)
        if isinstance(value, (list, tuple)) and len(value) != count:
            raise UserError(
                f"{option} of 'dtp' lists {len(value)} values, and this network has {count} feedback "
                "paths, from the second block's to the head's: give one number, or one for each."
            )
        return list(value) if isinstance(value, (list, tuple)) else [value] * count

    def pairs(self, network) -> list[tuple]:
        """Every kernel but the first with its B, for trackers of their alignment."""
        owners = [part.owner for part in self.parts[1:]]
        return [(o.kernel, g.kernel) for o, g in zip(owners, self.feedback_paths, strict=True)]

    # -- the network learns ---------------------------------------------------------------------

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        passes = self.run(batch)
        *activations, outputs = [passed.h for passed in passes]
        outputs = full(outputs)
        error = Trace(network, batch, activations, outputs).example_error
        pairs = zip([*activations, outputs], self.differences(passes, error), strict=True)
        return [batch.mean(self.local_loss(h, delta)) for h, delta in pairs], outputs

    def run(self, batch: Batch) -> list[Passed]:
        """One forward pass, stopped between the parts."""
        passes, h = [], batch.x
        for part in self.parts:
            x = ops.stop_gradient(h)
            u = run(part.lead, x, batch.training)
            p = run(part.body, u, batch.training)
            h = run(part.tail, p, batch.training)
            passes.append(Passed(x, u, p, h))
        return passes

    def differences(self, passes: list[Passed], error) -> list:
        """[Δ_1, …, Δ of the outputs], each t − h; stopped."""
        found = [-self.beta * error]
        for path, (x, u, p, h) in zip(self.feedback_paths[::-1], passes[:0:-1], strict=True):
            h = ops.stop_gradient(full(h))
            if self.difference:
                delta = path.lead_back(path.difference(h, found[0], u, p), x)
            else:
                delta = path.lead_back(path(h + found[0], u, p), x) - full(x)
            found.insert(0, ops.stop_gradient(delta))
        return found

    def local_loss(self, h, delta):
        """½ Σ (h − sg(h + Δ))² of each example (N,), with no digit of Δ lost to h."""
        h = full(h)
        return _total(ops.square(h - ops.stop_gradient(h) - delta)) / 2

    # -- the feedback learns --------------------------------------------------------------------

    def before_step(self, network, batch: Batch) -> None:
        with isolated(network.variables):
            passes = self.run(batch)
        still = [(variable, ops.stop_gradient(variable.value)) for variable in network.variables]
        for index, passed in enumerate(passes[1:]):
            if self._each("iterations")[index]:
                self.train(index, Passed(*map(ops.stop_gradient, passed)), batch, still)

    def train(self, index: int, passed: Passed, batch: Batch, still: list) -> None:
        """The steps of one G on a batch, the network's variables being still."""
        path, part, velocities = (
            self.feedback_paths[index],
            self.parts[index + 1],
            self.velocities[index],
        )
        sigma, iterations, rate = (self._each(option)[index] for option in self.per_block)

        def forward(u):
            with replaced(still):
                p = run(part.body, u, batch.training)
                return full(run(part.tail, p, batch.training)), p

        def step(_, state):
            values, momenta, random = state
            with replaced([(self.draws.state, random)]):
                noise = self.noise(passed.u, sigma), self.noise(passed.h, sigma)
                random = self.draws.state.value

            def loss(values):
                with replaced(zip(path.weights, values, strict=True)):
                    return batch.mean(self.reconstruction(path, passed, forward, *noise))

            slopes = gradient(loss, values)
            momenta = [self.momentum * m + g for m, g in zip(momenta, slopes, strict=True)]
            return [v - rate * m for v, m in zip(values, momenta, strict=True)], momenta, random

        changing = [*path.weights, *velocities, self.draws.state]
        *values, random = map(ops.convert_to_tensor, changing)
        start = values[:2], values[2:], random
        values, momenta, random = ops.fori_loop(0, iterations, step, start)
        for variable, value in zip(changing, [*values, *momenta, random], strict=True):
            variable.assign(value)

    def noise(self, like, sigma: float):
        """σ N(0, 1) in the shape of a tensor."""
        return sigma * keras.random.normal(ops.shape(like), dtype=width(), seed=self.draws)

    def reconstruction(self, path: FeedbackPath, passed: Passed, forward, dx, dy):
        """G's loss of each example (N,), with noise dx on u and dy on h.

        Args:
            forward: F, which maps u to h and what its pools were given.
        """
        _, u, p, h = passed
        u, h = full(u), full(h)
        moved, places = forward(u + dx)
        back = path(moved, u + dx, places)
        if self.feedback_loss == "reconstruction":
            return _total(ops.square(u + dx - back))
        r = path(h, u, p)
        return -2 * _total(dx * (back - r)) + _total(ops.square(path(h + dy, u, p) - r))


def _values(option) -> list:
    return list(option) if isinstance(option, (list, tuple)) else [option]


def _total(tensor):
    """The sum over all but the first axis (N,)."""
    return ops.sum(tensor, axis=tuple(range(1, len(tensor.shape))))
