"""Difference target propagation with given feedback paths."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem


def dtp(problem: Problem, beta=0.7, iterations=5, difference=True, **options) -> list | None:
    """G_l = −w/N Δ_l; Δ of the outputs −β e_n, Δ_l = G(v + Δ) − G(v) for v above, G(v) = tanh(v) Bᵀ + c,
    or v Bᵀ + c of the outputs. None where the feedback would learn first."""
    if iterations:
        return None
    values = [*problem.hidden, problem.outputs]
    paths = list(zip(problem.feedback[::2], problem.feedback[1::2], strict=True))
    deltas = [-beta * problem.example_error()]
    for index in reversed(range(len(paths))):
        B, c = paths[index]
        act = np.tanh if index < len(paths) - 1 else np.asarray
        above = values[index + 1]
        back = act(above + deltas[0]) @ B.T + c
        deltas.insert(0, back - (act(above) @ B.T + c if difference else values[index]))
    *hidden, kernel, bias = problem.gradients([-problem.shares * d for d in deltas[:-1]])
    return [*hidden, beta * kernel, beta * bias]
