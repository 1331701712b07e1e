"""Backpropagation and the rules that project with fixed random matrices."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem, softmax


def bp(problem: Problem, **options) -> list:
    """G_l = (G_{l+1} ∘ f'_{l+1}) K_{l+1}ᵀ, from G_L = e K_headᵀ."""
    return problem.gradients(true_signals(problem))


def true_signals(problem: Problem) -> list:
    """∂loss/∂h_l by the chain rule."""
    signal = problem.error() @ problem.layers[-1][0].T
    signals = [signal]
    for (kernel, _), h in zip(problem.layers[-2:0:-1], problem.hidden[:0:-1], strict=True):
        signal = (signal * (1 - h**2)) @ kernel.T
        signals.insert(0, signal)
    return signals


def shallow(problem: Problem, **options) -> list:
    """G_l = 0."""
    return problem.gradients([np.zeros_like(h) for h in problem.hidden])


def dfa(problem: Problem, **options) -> list:
    """G_l = e F_lᵀ."""
    return projected(problem, problem.error(), **options)


def sdfa(problem: Problem, **options) -> list:
    """G_l = w/N sign(e_n) F_lᵀ."""
    return projected(problem, problem.shares * np.sign(problem.example_error()), **options)


def drtp(problem: Problem, **options) -> list:
    """G_l = −w/N y F_lᵀ."""
    return projected(problem, -problem.shares * problem.y, **options)


def projected(problem: Problem, signal, signal_scale: float = 1.0, **options) -> list:
    return problem.gradients([signal_scale * signal @ F.T for F in problem.feedback])


def ll(problem: Problem, loss="cce", activation="linear", signal_scale=1.0, **options) -> list:
    """cce: G_l = w/N (softmax(hF) − y) Fᵀ; mse: G_l = w/N 2/D ((p − y) ∘ act'(hF)) Fᵀ, p = act(hF)."""
    signals = []
    for h, F in zip(problem.hidden, problem.feedback, strict=True):
        scores = h @ F
        if loss == "cce":
            delta = softmax(scores) - problem.y
        else:
            p, slope = ACTIVATIONS[activation](scores)
            delta = 2 / problem.y.shape[1] * (p - problem.y) * slope
        signals.append(signal_scale * problem.shares * delta @ F.T)
    return problem.gradients(signals)


def _sigmoid(z):
    p = 1 / (1 + np.exp(-z))
    return p, p * (1 - p)


ACTIVATIONS = {
    "linear": lambda z: (z, np.ones_like(z)),
    "sigmoid": _sigmoid,
    "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
}
