"""A perceptron with tanh units, its task losses and their derivatives, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Problem:
    """Weights, feedback matrices and a batch.

    Attributes:
        weights: `[K_1, b_1, …, K_head, b_head]`.
        feedback: `[F_1, …, F_L]`, each (n_l, D), or empty.
        x, y, w: inputs (N, n_0), targets (N, D), example weights (N,).
        task: `cce` (softmax cross entropy) or `mse`.
        own: the rule's trained weights.
    """

    weights: list
    feedback: list
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    task: str = "cce"
    own: list = field(default_factory=list)

    def __post_init__(self):
        self.own = [np.asarray(part, "float64") for part in self.own]
        self.weights = [np.asarray(part, "float64") for part in self.weights]
        self.feedback = [np.asarray(part, "float64") for part in self.feedback]
        self.x, self.y, self.w = (np.asarray(p, "float64") for p in (self.x, self.y, self.w))
        self.layers = list(zip(self.weights[::2], self.weights[1::2], strict=True))
        self.hidden = []
        h = self.x
        for kernel, bias in self.layers[:-1]:
            h = np.tanh(h @ kernel + bias)
            self.hidden.append(h)
        kernel, bias = self.layers[-1]
        self.outputs = h @ kernel + bias

    @property
    def shares(self) -> np.ndarray:
        """w_n / N as a column (N, 1)."""
        return self.w[:, None] / len(self.w)

    def losses(self) -> np.ndarray:
        """The task loss of each example (N,)."""
        if self.task == "mse":
            return ((self.outputs - self.y) ** 2).mean(1)
        return -(self.y * np.log(softmax(self.outputs))).sum(1)

    def loss(self) -> float:
        """1/N Σ_n w_n loss_n."""
        return float(np.sum(self.w * self.losses()) / len(self.w))

    def example_error(self) -> np.ndarray:
        """∂ loss_n / ∂ outputs_n (N, D)."""
        if self.task == "mse":
            return 2 / self.y.shape[1] * (self.outputs - self.y)
        return softmax(self.outputs) - self.y

    def error(self) -> np.ndarray:
        """∂ loss / ∂ outputs (N, D)."""
        return self.shares * self.example_error()

    def gradients(self, signals) -> list[np.ndarray]:
        """∂K = hᵀ_{l−1} (G_l ∘ f'(z_l)), ∂b = Σ_n of the same; the head's from the task's error.

        Args:
            signals: G_l (N, n_l) per block: what stands in for ∂loss/∂h_l.
        """
        found = []
        before = self.x
        for h, signal in zip(self.hidden, signals, strict=True):
            delta = signal * (1 - h**2)
            found += [before.T @ delta, delta.sum(0)]
            before = h
        return [*found, before.T @ self.error(), self.error().sum(0)]


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
