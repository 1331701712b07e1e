"""Spaces of a forward gradient: what the directions are of, and so what is projected on a guess.

Each is a function of the rule, the step's pass and `[h_1, …, h_{L−1}]`, the activations of the blocks that
learn by it, and returns one surrogate for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.examplewise import maps
from bpfree.precision import full
from bpfree.rules.replay import Replay


def activation(rule, replay: Replay, hidden: list) -> list:
    """`1/N Σ_n w_n sg(c_n u_n) · h_{l,n}`: one direction for every example."""
    points = [ops.stop_gradient(h) for h in hidden]
    if rule.guess == "random":
        guesses = rule.drawn([ops.shape(h) for h in hidden])
    else:
        origins = [rule.losses(rule.guess, replay, index) for index in range(len(hidden))]
        guesses = [_slope(f, h) for f, h in zip(origins, points, strict=True)]
    directions = [v * rule.scale(_dot(v, v, keepdims=True)) for v in guesses]

    def shifted(*shifts):
        h = replay.batch.x
        for index, shift in enumerate(shifts):
            h = replay.block(index, h) + shift
        return rule.losses(rule.target, replay, len(shifts) - 1)(h)

    if rule.shares_derivative and hidden:
        rate = rule.rate(shifted, [ops.zeros_like(h) for h in points], directions)
        rates = [rate for _ in hidden]
    else:
        targets = [rule.losses(rule.target, replay, index) for index in range(len(hidden))]
        rates = [rule.rate(*part) for part in _one_by_one(targets, points, directions)]
    return [
        replay.batch.mean(c * _dot(ops.stop_gradient(u), full(h)))
        for c, u, h in zip(rates, directions, hidden, strict=True)
    ]


def avg_weight(rule, replay: Replay, hidden: list) -> list:
    """`Σ_W sg(c u) · W`: one direction for every weight tensor W, of the batch's mean loss."""
    blocks = replay.network.blocks[: len(hidden)]
    variables = [block.trainable_variables for block in blocks]
    inputs = [replay.batch.x, *map(ops.stop_gradient, hidden)]

    def loss(name: str, index: int, among: list) -> Callable:
        """The weighted mean loss of a block's output, as a function of these weights of the block."""

        def function(*values):
            moved = replay.having(zip(among, values, strict=True))
            losses = rule.losses(name, replay, index)(moved.block(index, inputs[index]))
            return replay.batch.mean(losses)

        return function

    def whole(*values):
        moved = replay.having(zip(sum(variables, []), values, strict=True))
        return replay.batch.mean(replay.batch.losses(moved.outputs(replay.batch.x)))

    points = [[ops.stop_gradient(v.value) for v in own] for own in variables]
    if rule.guess == "random":
        guesses = [rule.drawn([v.shape for v in own]) for own in variables]
    else:
        origins = [loss(rule.guess, index, own) for index, own in enumerate(variables)]
        guesses = [_slopes(f, at) for f, at in zip(origins, points, strict=True)]
    directions = [[v * rule.scale(ops.sum(ops.square(v))) for v in own] for own in guesses]

    def rates_of(index: int) -> list:
        targets = [loss(rule.target, index, [v]) for v in variables[index]]
        return [rule.rate(*part) for part in _one_by_one(targets, points[index], directions[index])]

    if rule.shares_derivative and hidden:
        rate = rule.rate(whole, sum(points, []), sum(directions, []))
        rates = [[rate for _ in own] for own in variables]
    else:
        rates = [rates_of(index) for index in range(len(variables))]
    return [
        sum(_move(v, c * u) for v, c, u in zip(own, cs, us, strict=True))
        for own, cs, us in zip(variables, rates, directions, strict=True)
    ]


def weight(rule, replay: Replay, hidden: list) -> list:
    """`Σ_W sg(1/N Σ_n w_n c_n u_n) · W`: one direction for every example and every weight tensor W."""
    if rule.guess == "random":
        return avg_weight(rule, replay, hidden)
    inputs = [replay.batch.x, *map(ops.stop_gradient, hidden)]
    return [_examplewise(rule, replay, index, inputs[index]) for index in range(len(hidden))]


def _examplewise(rule, replay: Replay, index: int, x):
    guess, target = (rule.losses(name, replay, index) for name in (rule.guess, rule.target))
    layers: list = []
    replay.block(index, x, lambda *passed: layers.append(passed) or passed[-1])
    _check_used_once([layer for layer, *_ in layers])
    surrogate = 0.0
    for layer, before, z in layers:
        linear = maps(layer, _regressor(replay, index, layer, before))
        if not linear:
            continue
        origin = ops.zeros_like(z)

        def moved(shift, layer=layer):
            """The block's output with the layer's output shifted."""
            return replay.block(index, x, lambda other, _, y: y + shift if other is layer else y)

        def rate(direction, moved=moved, origin=origin):
            return rule.rate(lambda shift: target(moved(shift)), [origin], [direction])

        g = _slope(lambda shift, moved=moved: guess(moved(shift)), origin)
        # Whatever moves the output along g has one derivative.
        rate_along_g = rate(g) if any(part.factor is not None for part in linear) else None
        for part in linear:
            along = part.along(g)  # A U, with ‖U‖² = g · A U
            scale = rule.scale(_dot(g, along, keepdims=True))
            if part.factor is None:
                c = rate(scale * along)
            else:
                c = (scale * part.factor)[:, 0] * rate_along_g
            share = ops.reshape(replay.batch.shares * c, ops.shape(scale))
            surrogate += _move(part.variable, part.back(share * scale * g))
    return surrogate


def _check_used_once(layers: list) -> None:
    for layer in layers:
        if layer.trainable_variables and sum(other is layer for other in layers) > 1:
            raise UserError(
                f"Space weight of 'fg' is for layers that are used once, and {layer.name!r} is used again "
                "in its block: use space=avg-weight or space=activation."
            )


def _regressor(replay: Replay, index: int, layer, x):
    """What multiplies the weights: the layer's input, of a normalisation the normalised values."""
    if not isinstance(layer, (keras.layers.BatchNormalization, keras.layers.LayerNormalization)):
        return x
    plain = [
        (v, f(v.value))
        for v, f in ((layer.gamma, ops.ones_like), (layer.beta, ops.zeros_like))
        if v is not None
    ]
    return ops.stop_gradient(replay.having(plain).layer(index, layer, x))


def _one_by_one(functions: list, at: list, along: list):
    return [(f, [a], [u]) for f, a, u in zip(functions, at, along, strict=True)]


def _slope(losses: Callable, at):
    """∂ℓ_n/∂at_n of every example, in full precision."""
    return full(autodiff.gradient(lambda h: ops.sum(losses(h)), at))


def _slopes(loss: Callable, at: list) -> list:
    """∂loss/∂W of each of several tensors."""
    return autodiff.gradient(lambda values: loss(*values), at)


def _dot(a, b, keepdims: bool = False):
    """Every example's inner product, (N,) or (N, 1, …)."""
    return ops.sum(a * b, axis=tuple(range(1, len(a.shape))), keepdims=keepdims)


def _move(variable, gradient):
    """The surrogate that gives a weight this gradient."""
    return ops.sum(ops.stop_gradient(gradient) * full(variable.value))


SPACES = {"activation": activation, "weight": weight, "avg-weight": avg_weight}
