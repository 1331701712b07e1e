"""Rules whose blocks have trained heads or a signal of their own: lw, mf, cafo, sp."""

from __future__ import annotations

import numpy as np

from oracles.mlp import Problem, softmax


def mf(problem: Problem, **options) -> list:
    """δ_l = w/N (softmax(h_l M_l) − y): G_l = δ_l M_lᵀ, ∂M_l = h_lᵀ δ_l; the network's head rests."""
    signals, own = [], []
    for h, M in zip(problem.hidden, problem.own, strict=True):
        delta = problem.shares * (softmax(h @ M) - problem.y)
        signals.append(delta @ M.T)
        own.append(h.T @ delta)
    return [*without_head(problem.gradients(signals)), *own]


def mf_outputs(problem: Problem, prediction="last", **options):
    scores = [h @ M for h, M in zip(problem.hidden, problem.own, strict=True)]
    return scores[-1] if prediction == "last" else sum(scores)


def cafo(problem: Problem, loss="cce", blocks="random", **options) -> list:
    """As mf with biases; under random blocks G_l = 0."""
    signals, own = [], []
    for h, (M, b) in zip(problem.hidden, pairs(problem.own), strict=True):
        scores = h @ M + b
        if loss == "cce":
            delta = problem.shares * (softmax(scores) - problem.y)
        else:
            delta = problem.shares * 2 / problem.y.shape[1] * (scores - problem.y)
        signals.append(delta @ M.T * (blocks == "trained"))
        own += [h.T @ delta, delta.sum(0)]
    return [*without_head(problem.gradients(signals)), *own]


def cafo_outputs(problem: Problem, **options):
    return sum(h @ M + b for h, (M, b) in zip(problem.hidden, pairs(problem.own), strict=True))


def lw(
    problem: Problem, loss="cross_entropy", beta=0.99, target="centred", head="auto", **options
) -> list:
    """Linear heads: G_l = δ_l M_lᵀ, with δ_l of the cross entropy, of similarity matching, or both."""
    depth = len(problem.hidden)
    heads, matching = pairs(problem.own[: 2 * depth]), problem.own[2 * depth :]
    signals, own, further = [], [], []
    for index, (h, (M, b)) in enumerate(zip(problem.hidden, heads, strict=True)):
        scores = h @ M + b
        if loss == "similarity":
            delta = similarity_signal(scores, problem, target)
        else:
            delta = problem.shares * (softmax(scores) - problem.y)
        if loss == "predsim":
            delta = (1 - beta) * delta
            second = beta * similarity_signal(h @ matching[index], problem, target)
            further.append(h.T @ second)
        signals.append(delta @ M.T + (second @ matching[index].T if loss == "predsim" else 0))
        own += [h.T @ delta, delta.sum(0)]
    return [*problem.gradients(signals), *own, *further]


def similarity_signal(features, problem: Problem, target: str):
    """∂/∂features of Σ_ij w_i w_j/N² (z_i·z_j − T_ij)², z the rows, centred and of length 1."""
    centred = lambda a: a - a.mean(1, keepdims=True)  # noqa: E731
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    z = unit(centred(features))
    wanted = problem.y if target == "binary" else unit(centred(problem.y))
    shares = problem.shares @ problem.shares.T
    slope = 4 * (shares * (z @ z.T - wanted @ wanted.T)) @ z
    slope -= (slope * z).sum(1, keepdims=True) * z
    return centred(slope / np.linalg.norm(centred(features), axis=1, keepdims=True))


def sp(problem: Problem, loss="prototype", k=6, scale="sqrt", **options) -> list:
    """Both streams' gradients, written out; the first block's reach on into the signal's embedding."""
    S, gamma, beta = problem.own
    source = np.eye(problem.y.shape[1]) if loss == "prototype" else problem.y
    embedded = source @ S
    mean, deviation = embedded.mean(1, keepdims=True), np.sqrt(embedded.var(1) + 1e-5)[:, None]
    normal = (embedded - mean) / deviation
    t = np.maximum(normal * gamma + beta, 0)
    before, first, found = problem.x, None, []
    incoming = source
    for (K, b), h in zip(problem.layers[:-1], problem.hidden, strict=True):
        signal = np.tanh(t @ K + b)
        divisor = {"sqrt": np.sqrt(h.shape[1]), "mean": 1.0, "dot": 1.0}[scale]
        wanted = problem.y if loss == "prototype" else wanted_of(incoming, loss, k, divisor)
        scores = h @ signal.T / divisor
        delta = softmax(scores) * wanted.sum(1, keepdims=True) - wanted
        delta = problem.shares * delta / divisor
        dh, dt = delta @ signal * (1 - h**2), delta.T @ h * (1 - signal**2)
        found += [before.T @ dh + t.T @ dt, dh.sum(0) + dt.sum(0)]
        if first is None:
            first = dt @ K.T
        before, t, incoming = h, signal, signal
    output = problem.error()
    found += [problem.hidden[-1].T @ output, output.sum(0)]
    slope = first * (normal * gamma + beta > 0)
    through = slope * gamma
    through -= through.mean(1, keepdims=True) + normal * (through * normal).mean(1, keepdims=True)
    return [*found, source.T @ (through / deviation), (slope * normal).sum(0), slope.sum(0)]


def wanted_of(incoming, loss: str, k: int, divisor: float):
    """The weights of log softmax(A), from the incoming signals' similarity."""
    similar = incoming @ incoming.T
    if loss == "soft":
        # The first block's signals are labels, D values long; later ones as wide as the block below.
        return softmax(similar / np.sqrt(incoming.shape[1]))
    order = np.argsort(-np.round(similar / np.abs(similar).max(1, keepdims=True), 4), 1, "stable")
    most = similar.max(1, keepdims=True)
    if loss == "max":
        return (similar >= most - 1e-6 * abs(most)).astype(float)
    wanted = np.zeros_like(similar)
    for row, columns in enumerate(order[:, : k if loss == "topk" else 1]):
        wanted[row, columns] = 1
    return wanted


def pairs(values: list) -> list:
    return list(zip(values[::2], values[1::2], strict=True))


def without_head(gradients: list) -> list:
    return [*gradients[:-2], *(np.zeros_like(g) for g in gradients[-2:])]
