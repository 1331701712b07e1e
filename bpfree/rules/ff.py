"""ff: Forward-Forward."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.layers.hybrids import Hybrids
from bpfree.layers.label_embedding import LabelEmbedding
from bpfree.network import pre_activation
from bpfree.rules.rule import Rule, zero
from bpfree.rules.trace import Batch
from bpfree.seeds import derive, fresh

CHOICES = {
    "mode": ("supervised", "unsupervised"),
    "goodness": ("sum", "mean"),
    "norm": ("rms", "l2"),
    "negatives": ("hard", "uniform"),
    "prediction": ("goodness", "softmax"),
    "layers": ("auto", "all", "skip-first"),
}


class ForwardForward(Rule):
    """Forward-Forward: every block tells positive examples from negative ones by its activity.

        u_l = normalise(sg h_{l−1}),  h_l = block_l(u_l),  g = Σ_i h_i² or its mean
        surrogate   ½ mean_pos softplus((θ − g)/T) + ½ mean_neg softplus((g − θ)/T)
                    − λ mean_pos Σ_i sg(m̄ − m_i) z_i

    with weighted means over the batch. Supervised, a positive is an image with its label in it and a
    negative the same image with a wrong one; unsupervised, a real image and a hybrid of two. The last
    term equalises the units' mean activities m (running, over positives, m ← 0.9 m + 0.1 batch mean, from
    ½), and reaches the pre-activations z past the activation. A linear classifier learns from the task
    loss, on the normalised activities of a pass with a neutral label (1/K each) in inference mode; its
    outputs are what the logged loss and the training metrics are of. The network's own head is not used.
    Gradients stop at every block's input and at the classifier's.

    Args:
        mode: `supervised` or `unsupervised`.
        embed: how a label is put into an image: `top-left append subtract mixture`, see
            `LabelEmbedding`; with `append` the network takes K inputs more, flattened.
        goodness: `sum` or `mean` of squares.
        threshold: θ; None is 1 per unit, so the block's width for the sum: more than a bounded
            activation can reach, so prefer relu.
        temperature: T > 0.
        norm: examples are divided by the root of their mean square (`rms`), or by their length (`l2`).
        negatives: wrong labels drawn by the classifier's probabilities (`hard`) or `uniform`ly.
        peer: λ ≥ 0.
        prediction: the label with the most `goodness`, summed over layers, K passes; or the classifier's
            (`softmax`), one pass. Unsupervised only the classifier predicts.
        layers: which ones the goodness and the classifier count: `all`, `skip-first`, or `auto`: without
            the first where there are three or more.
        blurs: of the hybrids' masks, see `Hybrids`.
        train_blocks: false leaves the blocks random, the control.

    Raises:
        UserError: for an unknown name, a number out of range, or inputs that do not fit.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, sections 2 and 3; peer term and hard negatives as
    in the author's published MATLAB code.
    """

    name = "ff"
    local = True
    stochastic = True

    def __init__(
        self,
        mode: str = "supervised",
        embed: str = "top-left",
        goodness: str = "sum",
        threshold: float | None = None,
        temperature: float = 1.0,
        norm: str = "rms",
        negatives: str = "hard",
        peer: float = 0.03,
        prediction: str = "goodness",
        layers: str = "auto",
        blurs: int = 6,
        train_blocks: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        named = (mode, goodness, norm, negatives, prediction, layers)
        for (option, allowed), value in zip(CHOICES.items(), named, strict=True):
            if value not in allowed:
                choices = ", ".join(allowed)
                raise UserError(f"{option} of 'ff' is one of {choices}, received {value!r}.")
        if not temperature > 0 or peer < 0 or blurs < 0:
            raise UserError(
                "Rule 'ff' needs temperature > 0, peer ≥ 0 and blurs ≥ 0, received "
                f"{temperature}, {peer} and {blurs}."
            )
        self.mode, self.embed, self.goodness, self.threshold = mode, embed, goodness, threshold
        self.temperature, self.norm, self.negatives, self.peer = temperature, norm, negatives, peer
        self.prediction, self.layers, self.blurs = prediction, layers, blurs
        self.train_blocks = train_blocks

    # -- construction ---------------------------------------------------------------------------

    def input_shape(self, shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
        appended = self.mode == "supervised" and self.embed == "append"
        return (math.prod(shape) + outputs,) if appended else shape

    def build(self, network, input_shape, outputs: int) -> None:
        seed = derive(fresh() if self.seed is None else self.seed, "ff")
        shape = tuple(input_shape[1:])
        if self.mode == "unsupervised":
            self.hybrids = Hybrids(self.blurs, derive(seed, "hybrids"))
            self.hybrids.build(input_shape)
        else:
            self.embedding = LabelEmbedding(shape, outputs, self.embed)
            self.embedding.build()
            self._check_width(network, shape, outputs)
        self.draws = keras.random.SeedGenerator(derive(seed, "wrong labels"))
        self.widths = [math.prod(hidden[1:]) for hidden in network.hidden_shapes]
        self.activities = [
            self.add_weight(
                name=f"mean_activity_{index + 1}",
                shape=hidden[1:],
                initializer=keras.initializers.Constant(0.5),
                trainable=False,
                dtype="float32",
            )
            for index, hidden in enumerate(network.hidden_shapes)
        ]
        self.classifier = keras.layers.Dense(outputs, kernel_initializer="zeros", dtype="float32")
        self.classifier.build((None, sum(self.widths[self._first :])))
        blocks = [v for block in network.blocks for v in block.trainable_variables]
        still = [*network.head.trainable_variables, *([] if self.train_blocks else blocks)]
        self._still = frozenset(map(id, still))

    def _check_width(self, network, shape, outputs: int) -> None:
        wanted = math.prod(self.input_shape(shape, outputs))
        kernel = next(v for v in network.blocks[0].trainable_variables if v.name == "kernel")
        if self.embed == "append" and kernel.shape[0] != wanted:
            raise UserError(
                f"With appended labels the network takes {wanted} inputs, and this one takes "
                f"{kernel.shape[0]}: build it for rule.input_shape(shape, outputs)."
            )

    @property
    def _first(self) -> int:
        """The first layer that the prediction counts."""
        skips = self.layers == "skip-first" or (self.layers == "auto" and len(self.widths) > 2)
        return int(skips and len(self.widths) > 1)

    def trained_with(self, network, index: int) -> list:
        if index == len(network.blocks):
            return self.classifier.trainable_variables
        return super().trained_with(network, index)

    def lr_multiplier(self, variable) -> float:
        return 0.0 if id(variable) in self._still else 1.0

    # -- the formulas ---------------------------------------------------------------------------

    def normalise(self, h):
        """Every example by its root mean square, or by its length; stopped, float32."""
        h = ops.cast(ops.stop_gradient(h), "float32")
        axes = tuple(range(1, len(h.shape)))
        total = ops.mean if self.norm == "rms" else ops.sum
        return h / (ops.sqrt(total(ops.square(h), axis=axes, keepdims=True)) + 1e-8)

    def goodness_of(self, h):
        """g (N,) of activities (N, …)."""
        total = ops.sum if self.goodness == "sum" else ops.mean
        return total(ops.square(ops.cast(h, "float32")), axis=tuple(range(1, len(h.shape))))

    def separation(self, h, index: int, batch: Batch):
        """The loss of the positives (the first half of h) and the negatives, a scalar."""
        unit = self.widths[index] if self.goodness == "sum" else 1.0
        threshold = unit if self.threshold is None else self.threshold
        positive, negative = ops.split((self.goodness_of(h) - threshold) / self.temperature, 2)
        return (batch.mean(ops.softplus(-positive)) + batch.mean(ops.softplus(negative))) / 2

    def equalisation(self, z, h, index: int, batch: Batch):
        """The peer term of the positives' pre-activations z, and the running means' update from h."""
        m = self.activities[index]
        if batch.mode(index):
            m.assign(0.9 * m + 0.1 * ops.mean(ops.stop_gradient(ops.cast(h, "float32")), axis=0))
        push = ops.stop_gradient(ops.mean(m) - m)
        axes = tuple(range(1, len(z.shape)))
        return -self.peer * batch.mean(ops.sum(push * ops.cast(z, "float32"), axis=axes))

    def wrong_labels(self, logits, labels):
        """One wrong label per example, one-hot: by the classifier's probabilities, or uniformly."""
        logits = ops.stop_gradient(logits) if self.negatives == "hard" else ops.zeros_like(labels)
        drawn = keras.random.categorical(logits - 1e6 * labels, 1, seed=self.draws)
        return ops.one_hot(drawn[:, 0], labels.shape[1], dtype="float32")

    def classify(self, activations: list):
        """The classifier's logits (N, K)."""
        counted = [self.normalise(h) for h in activations[self._first :]]
        flat = [ops.reshape(h, (-1, math.prod(h.shape[1:]))) for h in counted]
        return self.classifier(ops.concatenate(flat, axis=1))

    # -- training and prediction ----------------------------------------------------------------

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        labels = batch.targets(self.classifier.units)
        logits = self.classify(self._pass(network, self._neutral(batch.x)))
        if self.mode == "unsupervised":
            pair = [batch.x, self.hybrids(batch.x)]
        else:
            if self.embedding.uses_prototypes and batch.training:
                self.embedding.observe(batch.x, labels)
            wrong = self.wrong_labels(logits, labels)
            pair = [self.embedding(batch.x, labels), self.embedding(batch.x, wrong)]
        h, surrogates = ops.concatenate(pair), []
        for index, block in enumerate(network.blocks):
            z, h = pre_activation(block, self.normalise(h), training=batch.mode(index))
            loss = self.separation(h, index, batch)
            if self.peer:
                positives = ops.split(z, 2)[0], ops.split(h, 2)[0]
                loss = loss + self.equalisation(*positives, index, batch)
            surrogates.append(loss)
        unused = zero(network.head.trainable_variables)
        return [*surrogates, batch.task_loss(logits) + unused], logits

    def _neutral(self, x):
        if self.mode == "unsupervised":
            return x
        classes = self.classifier.units
        return self.embedding(x, ops.full((ops.shape(x)[0], classes), 1 / classes))

    def _pass(self, network, x) -> list:
        """The activations in inference mode."""
        activations = []
        for block in network.blocks:
            x = block(self.normalise(x), training=False)
            activations.append(x)
        return activations

    def predict(self, network, x):
        if self.mode == "unsupervised" or self.prediction == "softmax":
            return self.classify(self._pass(network, self._neutral(x)))
        classes, count = self.classifier.units, ops.shape(x)[0]
        labels = ops.repeat(ops.eye(classes), count, axis=0)
        every = ops.tile(x, [classes, *[1] * (len(x.shape) - 1)])
        activations = self._pass(network, self.embedding(every, labels))
        total = sum(self.goodness_of(h) for h in activations[self._first :])
        return ops.transpose(ops.reshape(total, (classes, -1)))

    def assess(self, network, x):
        logits = self.classify(self._pass(network, self._neutral(x)))
        return logits, self.predict(network, x)

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return (
                "Forward-Forward cannot reconstruct: it tells examples apart, and its classifier needs "
                "labels; use bp, dfa or mse."
            )
        return super().refusal(problem_type, activation, fw_init)
