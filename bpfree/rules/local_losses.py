"""Losses that a block can compute for itself, per example (N,), before the mean over the batch."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.precision import width

TINY = 1e-12


def cce(prediction, targets):
    """Softmax cross entropy of scores (N, D) against one-hot targets."""
    return keras.losses.categorical_crossentropy(targets, prediction, from_logits=True)


def mse(prediction, targets):
    """Mean squared error over the D outputs."""
    return ops.mean(ops.square(prediction - targets), axis=-1)


def similarities(features):
    """S_ij = cosine of examples i and j, each centred over its own features, (N, N) in [−1, 1].

    Feature maps (N, H, W, C) of more than three channels stand for their standard deviations (n − 1)
    over H·W, any others are flattened.

    Source: Nøkland & Eidnes 2019, https://arxiv.org/abs/1901.06656, section 2.1.
    """
    if len(features.shape) == 4 and features.shape[-1] > 3 and features.shape[1] > 1:
        places = features.shape[1] * features.shape[2]
        variance = ops.var(features, axis=(1, 2)) * (places / (places - 1))
        features = ops.sqrt(variance + TINY)  # without TINY its slope at 0 would be infinite
    features = ops.reshape(features, (ops.shape(features)[0], -1))
    features = features - ops.mean(features, axis=1, keepdims=True)
    norms = ops.sqrt(ops.sum(ops.square(features), axis=1, keepdims=True) + TINY)
    features = features / norms
    return ops.clip(ops.matmul(features, ops.transpose(features)), -1.0, 1.0)


def similarity(features, targets, shares, centred: bool = True):
    """Similarity matching, `Σ_j w_j/N (S_ij − T_ij)²`.

    Args:
        features: a head's output (N, …).
        targets: one-hot (N, D).
        shares: w_j / N, shape (N,).
        centred: T from the one-hot rows by the same formula as S, so −1/(D − 1) between classes
            (Nøkland & Eidnes); else 1 within a class and 0 between classes (Sakamoto & Sato).
    """
    wanted = similarities(targets) if centred else ops.matmul(targets, ops.transpose(targets))
    return ops.matmul(ops.square(similarities(features) - wanted), shares)


def contrastive(features, targets, shares, temperature: float, base_temperature: float):
    """Supervised contrastive loss of the examples of both views, in its "out" form.

        −T/T_b Σ_{j ∈ P(i)} w_j log p_ij / Σ_{j ∈ P(i)} w_j,  p_ij = e^{f_i·f_j/T} / Σ_{k≠i} w̄_k e^{f_i·f_k/T}

    with f the features normalised to length 1, P(i) the other examples of i's class, and w̄ = w over
    its mean.

    Args:
        features: a head's output (2N, …), both views.
        targets: one-hot (2N, D).
        shares: w_j / 2N, shape (2N,).
        temperature: T > 0.
        base_temperature: T_b > 0.

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2.
    """
    count = ops.shape(features)[0]
    features = ops.reshape(features, (count, -1))
    features = features / ops.sqrt(ops.sum(ops.square(features), axis=1, keepdims=True) + TINY)
    logits = ops.matmul(features, ops.transpose(features)) / temperature
    logits = logits - ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
    others = (1.0 - ops.eye(count, dtype=width())) * shares[None, :]
    total = ops.sum(others * ops.exp(logits), axis=1, keepdims=True)
    log_p = logits - ops.log(total * ops.cast(count, width()) + TINY)
    positives = others * ops.matmul(targets, ops.transpose(targets))
    mean = ops.sum(positives * log_p, axis=1) / (ops.sum(positives, axis=1) + TINY)
    return -temperature / base_temperature * mean
