"""sp: Signal Propagation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from keras import ops

from bpfree.autodiff import isolated
from bpfree.errors import UserError
from bpfree.layers.signal import LearningSignal
from bpfree.precision import full
from bpfree.rules.local import taught
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch
from bpfree.seeds import derive, fresh

LOSSES = ("prototype", "max", "argmax", "topk", "soft")
PREDICTIONS = ("head", "prototype")
SCALES = ("mean", "sqrt", "dot")


class SignalPropagation(Rule):
    """Signal Propagation: the label goes forward through the same blocks as the input, as a signal t.

        t_0 = signal(y);   h_l = block_l(sg h_{l−1}),   t_l = block_l(sg t_{l−1})
        scores A_ij = h_{l,i} · t_{l,j}      similarity of the incoming signals  R_ij = t_{l−1,i} · t_{l−1,j}

        prototype   t_0 of each class;       1/N Σ_i w_i CE(softmax(A_i), y_i)
        max         t_0 of each example;     −1/N Σ_i w_i Σ_{j: R_ij = max_k R_ik} log softmax(A_i)_j
        argmax      the same with the first such j alone
        topk        the same with the k largest R_ij
        soft        the same with softmax(R_i)_j as the weight of every j

    R of the first block compares labels. Block, and with the first one the signal's embedding, learn
    from both streams; gradients stop at every block's input and at R. The embedding is needed to
    learn, not to predict by the head. Batch statistics are collected from the inputs' stream alone;
    both streams draw the same dropout masks where they have as many rows.

    Args:
        loss: which of the five.
        k: of `topk`, ≥ 1; no more than there are examples.
        scale: A and R over feature maps are divided by the number of positions and over vectors not
            (`mean`, as published), by the square root of the number of values (`sqrt`), or not (`dot`).
        prediction: `head`, or `prototype`: the class whose signal scores highest at the last block.
        train_signal: whether the embedding learns, else it is a fixed random projection.

    Raises:
        UserError: for an unknown name, or k below 1.

    Source: Kohan, Rietman & Siegelmann 2023, https://arxiv.org/abs/2204.01723, section 3; `soft` and
    `sqrt` as in the code of Sakamoto & Sato 2024, https://arxiv.org/abs/2402.09050.
    """

    name = "sp"
    local = True

    def __init__(
        self,
        loss: str = "prototype",
        k: int = 6,
        scale: str = "sqrt",
        prediction: str = "head",
        train_signal: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        named = {"loss": (loss, LOSSES), "scale": (scale, SCALES)}
        named["prediction"] = (prediction, PREDICTIONS)
        for option, (value, allowed) in named.items():
            if value not in allowed:
                choices = ", ".join(allowed)
                raise UserError(f"{option} of 'sp' is one of {choices}, received {value!r}.")
        if k < 1:
            raise UserError(f"k of 'sp' is at least 1, received {k}.")
        self.loss = loss
        self.k = k
        self.scale = scale
        self.prediction = prediction
        self.train_signal = train_signal

    def build(self, network, input_shape, outputs: int) -> None:
        seed = derive(fresh() if self.seed is None else self.seed, "signal")
        self.signal = LearningSignal(input_shape[1:], seed, trainable=self.train_signal)
        self.signal.build((None, outputs))

    def trained_with(self, network, index: int) -> list:
        own = self.signal.trainable_variables if index == 0 else []
        return [*super().trained_with(network, index), *own]

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        labels = batch.targets(network.outputs)
        source = ops.eye(labels.shape[1]) if self.loss == "prototype" else labels
        passed, surrogates = (batch.x, None, source), []
        for index in range(len(network.blocks)):
            step = partial(self._learn, network, batch, labels, index, *passed)
            surrogate, _, passed = taught(self, network, batch, index, step)
            surrogates.append(surrogate)
        head = network.head(passed[0], training=batch.mode(len(network.blocks)))
        outputs = full(head)
        return [*surrogates, batch.task_loss(outputs)], outputs

    def _learn(self, network, batch: Batch, labels, index: int, h, t, source):
        """A block's surrogate, and what the next one is given; `source` is what R compares."""
        block = network.blocks[index]
        if t is None:
            t = ops.cast(self.signal(source), batch.x.dtype)
        with isolated(block.variables):
            t = block(t, training=batch.mode(index))
        h = block(h, training=batch.mode(index))
        wanted = labels if self.loss == "prototype" else self.wanted(self.scores(source, source))
        # TensorFlow's own cross entropy has another gradient where the targets' sum is not 1.
        loss = -ops.sum(wanted * ops.log_softmax(self.scores(h, t)), axis=1)
        return batch.mean(loss), (), (h, t, t)

    def scores(self, h, t):
        """A (N, M), float32: every row of h with every row of t."""
        positions = h.shape[1] * h.shape[2] if len(h.shape) == 4 else 1
        values = math.prod(h.shape[1:])
        h, t = (ops.reshape(full(a), (-1, values)) for a in (h, t))
        scale = {"mean": positions, "sqrt": math.sqrt(values), "dot": 1.0}[self.scale]
        return ops.matmul(h, ops.transpose(t)) / scale

    def wanted(self, similar):
        """What the softmax of the scores is held against, (N, N), from the similarity R."""
        similar = ops.stop_gradient(similar)
        if self.loss == "soft":
            return ops.softmax(similar)
        count = similar.shape[0] if similar.shape[0] else ops.shape(similar)[0]
        # Signals of one class are alike; rounding in the product must not tell them apart.
        most = ops.max(similar, axis=1, keepdims=True)
        similar = ops.round(1e4 * similar / ops.maximum(ops.abs(most), 1e-30))
        if self.loss == "argmax":
            return ops.one_hot(ops.argmax(similar, axis=1), count)
        if self.loss == "max":
            most = ops.max(similar, axis=1, keepdims=True)
            return full(ops.equal(similar, most))
        k = min(self.k, similar.shape[0] or self.k)
        return ops.sum(ops.one_hot(ops.top_k(similar, k)[1], count), axis=1)

    def predict(self, network, x):
        *activations, outputs = network.trace(x, training=False)
        if self.prediction == "head":
            return outputs
        signals = network.trace(self.signal(ops.eye(outputs.shape[1])), training=False)
        return self.scores(activations[-1], signals[-2])

    def assess(self, network, x):
        return network.trace(x, training=False)[-1], self.predict(network, x)

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return "Signal Propagation cannot reconstruct: its signal is a class label; use mse."
        return super().refusal(problem_type, activation, fw_init)
