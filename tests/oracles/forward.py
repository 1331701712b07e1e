"""Forward-Forward by hand: gradients of a perceptron with tanh units, in NumPy float64."""

from __future__ import annotations

import numpy as np


def forward_forward(
    weights,
    positive,
    negative,
    shares,
    activities,
    goodness="sum",
    threshold=None,
    temperature=1.0,
    norm="rms",
    peer=0.03,
) -> list:
    """`[K_1, b_1, …]`'s gradients: ∂loss/∂g = ∓σ(∓(g − θ)/T) w/2NT, ∂g/∂h = 2h, or 2h/n of the mean.

    Args:
        weights: `[(K_1, b_1), …]` of the blocks.
        positive, negative: inputs (N, D).
        shares: w/N (N,).
        activities: the running mean activity of each block before the step.
    """
    both = np.concatenate([positive, negative]).astype("float64")
    n, found = len(positive), []
    for (K, b), m in zip(weights, activities, strict=True):
        size = np.sqrt((both**2).mean(1) if norm == "rms" else (both**2).sum(1))
        u = both / (size[:, None] + 1e-8)
        h = np.tanh(u @ K + b)
        width = h.shape[1]
        g = (h**2).sum(1) if goodness == "sum" else (h**2).mean(1)
        theta = threshold if threshold is not None else (width if goodness == "sum" else 1.0)
        p = 1 / (1 + np.exp(-(g - theta) / temperature))
        slope = np.concatenate([-(1 - p[:n]), p[n:]]) * np.tile(shares, 2) / (2 * temperature)
        dh = slope[:, None] * 2 * h / (1 if goodness == "sum" else width)
        delta = dh * (1 - h**2)
        m = 0.9 * m + 0.1 * h[:n].mean(0)
        delta[:n] -= peer * shares[:, None] * (m.mean() - m)  # past the activation
        found += [u.T @ delta, delta.sum(0)]
        both = h
    return found


def classifier_outputs(problem, **options):
    """The logits of the neutral pass."""
    return classifier_pass(problem)[1]


def classifier_pass(problem) -> tuple:
    """Features and logits of a pass with a neutral label at the top left: tanh units, rms norm."""
    classes = problem.y.shape[1]
    u = np.concatenate([np.full_like(problem.y, 1 / classes), problem.x[:, classes:]], axis=1)
    features = []
    for K, b in problem.layers[:-1]:
        u = np.tanh(u / np.sqrt((u**2).mean(1, keepdims=True)) @ K + b)
        features.append(u / np.sqrt((u**2).mean(1, keepdims=True)))
    features, (K, b) = np.concatenate(features, axis=1), problem.own
    return features, features @ K + b
