"""Forward-Forward by hand, recurrent too: gradients of a perceptron with tanh units, in NumPy float64."""

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
    both, found = np.concatenate([positive, negative]).astype("float64"), []
    for (K, b), m in zip(weights, activities, strict=True):
        u = normalised(both, norm)
        h = np.tanh(u @ K + b)
        delta = slope(h, shares, goodness, threshold, temperature) * (1 - h**2)
        delta += pushes(h, m, shares, peer)
        found += [u.T @ delta, delta.sum(0)]
        both = h
    return found


def normalised(h, norm="rms"):
    size = np.sqrt((h**2).mean(1) if norm == "rms" else (h**2).sum(1))
    return h / (size[:, None] + 1e-8)


def slope(h, shares, goodness="sum", threshold=None, temperature=1.0):
    """∂separation/∂h, the first half of h being positives."""
    n, width = len(h) // 2, h.shape[1]
    g = (h**2).sum(1) if goodness == "sum" else (h**2).mean(1)
    theta = threshold if threshold is not None else (width if goodness == "sum" else 1.0)
    p = 1 / (1 + np.exp(-(g - theta) / temperature))
    each = np.concatenate([-(1 - p[:n]), p[n:]]) * np.tile(shares, 2) / (2 * temperature)
    return each[:, None] * 2 * h / (1 if goodness == "sum" else width)


def pushes(h, m, shares, peer):
    """∂equalisation/∂z, past the activation; m is the running mean before the step."""
    n = len(h) // 2
    m = 0.9 * m + 0.1 * (shares @ h[:n]) / shares.sum()
    return np.concatenate([-peer * shares[:, None] * (m.mean() - m), np.zeros_like(h[n:])])


def settling(layers, top_down, x, labels, iterations, damping, norm="rms") -> list:
    """Per iteration `(u, computed, h)`: the normalised `[u_0, …, u_{L+1}]` it started from, tanh(z), h."""
    h, states = x, []
    for K, b in layers:
        h = np.tanh(normalised(h, norm) @ K + b)
        states.append(h)
    course = []
    for _ in range(iterations):
        u = [normalised(part, norm) for part in (x, *states, labels)]
        computed = [
            np.tanh(u[index] @ K + b + u[index + 2] @ V)
            for index, ((K, b), V) in enumerate(zip(layers, top_down, strict=True))
        ]
        states = [
            damping * old + (1 - damping) * new for old, new in zip(states, computed, strict=True)
        ]
        course.append((u, computed, states))
    return course


def recurrent(
    layers,
    top_down,
    x,
    labels,
    shares,
    activities,
    iterations=8,
    damping=0.3,
    norm="rms",
    peer=0.03,
    **options,
) -> tuple[list, list]:
    """`[K_1, b_1, …]`'s gradients and `[V_1, …]`'s: of each iteration alone, summed up.

    Args:
        x, labels: (2N, …), positives before negatives.
    """
    course = settling(layers, top_down, x, labels, iterations, damping, norm)
    forward, backward = [], []
    for index, m in enumerate(activities):
        mean = sum(h[index] for *_, h in course) / iterations
        push = pushes(mean, m, shares, peer)
        K = b = V = 0.0
        for u, computed, h in course:
            delta = (1 - damping) * slope(h[index], shares, **options) * (1 - computed[index] ** 2)
            delta = (delta + push) / iterations
            K, b, V = K + u[index].T @ delta, b + delta.sum(0), V + u[index + 2].T @ delta
        forward += [K, b]
        backward.append(V)
    return forward, backward


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


def recurrent_outputs(problem, **options):
    """The logits of the bottom-up pass, which has no label."""
    h, features = problem.x, []
    for K, b in problem.layers[:-1]:
        h = np.tanh(normalised(h) @ K + b)
        features.append(normalised(h))
    K, b = problem.own[:2]
    return np.concatenate(features, axis=1) @ K + b
