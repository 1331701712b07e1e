"""Target propagation: the recursion of differences, in float64 by the inverse functions themselves."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem

EDGE = 1e-6


def recursion(problem: Problem, before) -> list:
    """e_{L} = e K_head⁺, e_{l−1} = ê K_l⁺, with ê = before(h_l, e_l, depth); G_l = w/N e_l."""
    kernels = [K for K, _ in problem.layers]
    e = problem.example_error() @ np.linalg.pinv(kernels[-1])
    errors = [e]
    for depth, (K, h) in enumerate(
        zip(kernels[-2:0:-1], problem.hidden[:0:-1], strict=True), start=2
    ):
        e = before(h, e, depth) @ np.linalg.pinv(K)
        errors.insert(0, e)
    return problem.gradients([problem.shares * e for e in errors])


def difference(h, d):
    inside = lambda v: np.arctanh(np.clip(v, EDGE - 1, 1 - EDGE))  # noqa: E731
    return inside(h) - inside(h - d)


def tp(problem: Problem, **options) -> list:
    return recursion(problem, lambda h, e, depth: difference(h, e))


def itp(problem: Problem, gamma=1e-3, propagate="compounded", **options) -> list:
    def before(h, e, depth):
        step = gamma ** (depth if propagate == "compounded" else 1)
        return difference(h, step * e) / step

    return recursion(problem, before)


def gait(problem: Problem, gamma=None, **options) -> list:
    def before(h, e, depth):
        slope = 1 - h**2
        if gamma is None:
            return slope * e
        return difference(h, gamma**depth * slope**2 * e) / gamma**depth

    return recursion(problem, before)


def off_diagonal(W) -> float:
    """Σ_{i≠j} (W Wᵀ)²_ij, entry by entry; of WᵀW where W has more rows than columns."""
    rows = W if W.shape[0] <= W.shape[1] else W.T
    return sum(
        float(rows[i] @ rows[j]) ** 2 for i in range(len(rows)) for j in range(len(rows)) if i != j
    )
