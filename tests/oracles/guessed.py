"""Forward gradients of a perceptron with tanh units: the target's gradient projected on the guess."""

from __future__ import annotations

import numpy as np

from oracles.feedback import true_signals
from oracles.local import pairs
from oracles.mlp import Problem, softmax

EPS = 1e-16


def fg(problem: Problem, target="global", guess="local", space="activation", **options) -> list:
    """The blocks but the last from projections; the last block and the head by the chain rule.

    Auxiliary nets are linear; only targets and guesses `global` and `local` have a closed form.
    """
    ones = Problem(problem.weights, [], problem.x, problem.y, np.ones(len(problem.w)), problem.task)
    true = [signal * len(problem.w) for signal in true_signals(ones)]  # ∂loss_n/∂h_{l,n}
    nets, own, local = pairs(problem.own), [], []
    for h, (M, b) in zip(problem.hidden, nets, strict=False):
        delta = softmax(h @ M + b) - problem.y
        local.append(delta @ M.T)
        own += [h.T @ (problem.shares * delta), (problem.shares * delta).sum(0)]
    signals = {"global": true, "local": local}
    found, before = problem.gradients(true_signals(problem)), problem.x
    for index, h in enumerate(problem.hidden[:-1]):
        slope = 1 - h**2
        T, U = (signals[name][index] for name in (target, guess))
        if space == "weight":  # of a dense layer: the projection of its pre-activation
            T, U, slope = T * slope, U * slope, 1
        if space == "avg-weight":
            moves = [
                [before.T @ (problem.shares * v * slope), (problem.shares * v * slope).sum(0)]
                for v in (T, U)
            ]
            found[2 * index : 2 * index + 2] = [
                projected(t, u) for t, u in zip(*moves, strict=True)
            ]
        else:
            G = np.array([projected(t, u) for t, u in zip(T, U, strict=True)])
            delta = problem.shares * G * slope
            found[2 * index : 2 * index + 2] = [before.T @ delta, delta.sum(0)]
        before = h
    return [*found, *own]


def projected(target, guess):
    """⟨target, guess⟩/(‖guess‖² + ε) guess."""
    return np.sum(target * guess) / (np.sum(guess**2) + EPS) * guess
