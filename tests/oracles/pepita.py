"""PEPITA, from its two passes."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem


def pepita(problem: Problem, use_sign_error=False, output_error="second", **options) -> list:
    """∂K_l = h'ᵀ_{l−1} w/N (h_l − h'_l), without f'; of the head h'ᵀ_L times the error."""
    (F,) = problem.feedback
    e = problem.example_error()
    if use_sign_error:
        e = 0.1 * np.sign(e)
    modulated = Problem(
        problem.weights, [], problem.x + e @ F.T, problem.y, problem.w, problem.task
    )
    of_output = modulated if output_error == "second" else problem
    pairs = zip(problem.hidden, modulated.hidden, strict=True)
    deltas = [*(problem.shares * (h - changed) for h, changed in pairs), of_output.error()]
    before = [modulated.x, *modulated.hidden]
    return [g for h, d in zip(before, deltas, strict=True) for g in (h.T @ d, d.sum(0))]
