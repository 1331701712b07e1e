"""Feedback alignment and its kin: the error's recursion with other kernels on the way back."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem


def recursion(problem: Problem, backward: list) -> list:
    """G_{L} = e B_headᵀ, G_{l−1} = (G_l ∘ f'(z_l)) B_lᵀ."""
    signal = problem.error() @ backward[-1].T
    signals = [signal]
    for B, h in zip(backward[-2::-1], problem.hidden[:0:-1], strict=True):
        signal = (signal * (1 - h**2)) @ B.T
        signals.insert(0, signal)
    return problem.gradients(signals)


def fa(problem: Problem, **options) -> list:
    return recursion(problem, problem.feedback)


def usf(problem: Problem, **options) -> list:
    kernels = [K for K, _ in problem.layers[1:]]
    return recursion(problem, [np.sqrt(2 / sum(K.shape)) * np.sign(K) for K in kernels])


def frsf(problem: Problem, **options) -> list:
    kernels = [K for K, _ in problem.layers[1:]]
    sizes = map(np.abs, problem.feedback)
    return recursion(problem, [M * np.sign(K) for M, K in zip(sizes, kernels, strict=True)])
