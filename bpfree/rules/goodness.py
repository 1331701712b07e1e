"""GoodnessRule: the base of rules whose blocks tell positive examples from negative ones."""

from __future__ import annotations

import math

import keras
from keras import ops

from bpfree.autodiff import isolated
from bpfree.errors import UserError
from bpfree.precision import full, width
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch
from bpfree.seeds import derive, fresh

CHOICES = {
    "goodness": ("sum", "mean"),
    "norm": ("rms", "l2"),
    "negatives": ("hard", "uniform"),
    "prediction": ("goodness", "softmax"),
    "layers": ("auto", "all", "skip-first"),
    "training_metrics": ("prediction", "classifier"),
}


class GoodnessRule(Rule):
    """The formulas that all forms of Forward-Forward share.

        g = Σ_i h_i² or its mean
        separation    ½ mean_pos softplus((θ − g)/T) + ½ mean_neg softplus((g − θ)/T)
        equalisation  −λ mean_pos Σ_i sg(m̄ − m_i) z_i

    with weighted means over the batch. The second, the peer term, equalises the units' mean activities m
    (running, over positives, m ← 0.9 m + 0.1 batch mean, from ½), and reaches the pre-activations z past
    the activation. A linear classifier learns from the task loss, on normalised activities that know no
    label; its outputs are what the logged loss is of. The network's own head is not used. Gradients stop at
    every block's input and at the classifier's.

    Args:
        goodness: `sum` or `mean` of squares.
        threshold: θ; None is 1 per unit, so the block's width for the sum: more than a bounded
            activation can reach, so prefer relu.
        temperature: T > 0.
        norm: examples are divided by the root of their mean square (`rms`), or by their length (`l2`).
        negatives: wrong labels drawn by the classifier's probabilities (`hard`) or `uniform`ly.
        peer: λ ≥ 0.
        prediction: the label with the most `goodness`, summed over layers; or the classifier's
            (`softmax`), one pass.
        layers: which ones the goodness and the classifier count: `all`, `skip-first`, or `auto`: without
            the first where there are three or more.
        training_metrics: metrics logged in training are the rule's own `prediction`'s, from K more passes
            without gradients, or, for nothing, the `classifier`'s.
        train_blocks: false leaves the blocks random, the control.

    Raises:
        UserError: for an unknown name, or a number out of range.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, sections 2 and 3; peer term and hard negatives as
    in the author's published MATLAB code.
    """

    stochastic = True

    def __init__(
        self,
        goodness: str = "sum",
        threshold: float | None = None,
        temperature: float = 1.0,
        norm: str = "rms",
        negatives: str = "hard",
        peer: float = 0.03,
        prediction: str = "goodness",
        layers: str = "auto",
        training_metrics: str = "prediction",
        train_blocks: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        named = (goodness, norm, negatives, prediction, layers, training_metrics)
        for (option, allowed), value in zip(CHOICES.items(), named, strict=True):
            self.check_choice(option, value, allowed)
        if not (threshold is None or isinstance(threshold, (int, float))):
            raise UserError(f"threshold of {self.name!r} is a number, received {threshold!r}.")
        if not temperature > 0 or not peer >= 0:
            raise UserError(
                f"Rule {self.name!r} needs temperature > 0 and peer ≥ 0, received {temperature} and "
                f"{peer}."
            )
        self.goodness, self.threshold, self.temperature = goodness, threshold, temperature
        self.norm, self.negatives, self.peer = norm, negatives, peer
        self.prediction, self.layers, self.train_blocks = prediction, layers, train_blocks
        self.training_metrics = training_metrics

    def check_choice(self, option: str, value, allowed) -> None:
        """Raises a UserError unless the option's value is among those allowed."""
        if value not in allowed:
            choices = ", ".join(allowed)
            raise UserError(f"{option} of {self.name!r} is one of {choices}, received {value!r}.")

    # -- construction ---------------------------------------------------------------------------

    def build(self, network, input_shape, outputs: int) -> None:
        self.draws = keras.random.SeedGenerator(self.derived("wrong labels"))
        self.widths = [math.prod(shape[1:]) for shape in network.hidden_shapes]
        self.activities = [
            self.add_weight(
                name=f"mean_activity_{index + 1}",
                shape=shape[1:],
                initializer=keras.initializers.Constant(0.5),
                trainable=False,
                dtype=width(),
            )
            for index, shape in enumerate(network.hidden_shapes)
        ]
        self.classifier = keras.layers.Dense(outputs, kernel_initializer="zeros", dtype=width())
        self.classifier.build((None, sum(self.widths[self.lowest :])))
        blocks = [v for block in network.blocks for v in block.trainable_variables]
        still = [*network.head.trainable_variables, *([] if self.train_blocks else blocks)]
        self._still = frozenset(map(id, still))

    def derived(self, *path: str | int) -> int:
        """The seed of one of the rule's random choices."""
        if self.seed is None:
            self.seed = fresh()
        return derive(derive(self.seed, self.name), *path)

    @property
    def lowest(self) -> int:
        """The first layer that the prediction counts, from 0."""
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
        h = full(ops.stop_gradient(h))
        axes = tuple(range(1, len(h.shape)))
        total = ops.mean if self.norm == "rms" else ops.sum
        return h / (ops.sqrt(total(ops.square(h), axis=axes, keepdims=True)) + 1e-8)

    def goodness_of(self, h):
        """g (N,) of activities (N, …)."""
        total = ops.sum if self.goodness == "sum" else ops.mean
        return total(ops.square(full(h)), axis=tuple(range(1, len(h.shape))))

    def separation(self, h, index: int, batch: Batch):
        """The loss of the positives (the first half of h) and the negatives, a scalar."""
        unit = self.widths[index] if self.goodness == "sum" else 1.0
        threshold = unit if self.threshold is None else self.threshold
        positive, negative = ops.split((self.goodness_of(h) - threshold) / self.temperature, 2)
        return (batch.mean(ops.softplus(-positive)) + batch.mean(ops.softplus(negative))) / 2

    def equalisation(self, z, h, index: int, batch: Batch):
        """The peer term of the pre-activations z (positives, negatives), and the update of m from h."""
        z, h = (full(ops.split(part, 2)[0]) for part in (z, h))
        m = self.activities[index]
        if batch.mode(index):
            m.assign(0.9 * m + 0.1 * batch.average(ops.stop_gradient(h)))
        push = ops.stop_gradient(ops.mean(m) - m)
        return -self.peer * batch.mean(ops.sum(push * z, axis=tuple(range(1, len(z.shape)))))

    def surrogate(self, z, h, index: int, batch: Batch):
        """What block `index` learns from: both terms."""
        loss = self.separation(h, index, batch)
        return loss + self.equalisation(z, h, index, batch) if self.peer else loss

    def wrong_labels(self, logits, labels):
        """One wrong label per example, one-hot: by the classifier's probabilities, or uniformly."""
        logits = ops.stop_gradient(logits) if self.negatives == "hard" else ops.zeros_like(labels)
        drawn = keras.random.categorical(logits - 1e6 * labels, 1, seed=self.draws)
        return ops.one_hot(drawn[:, 0], labels.shape[1], dtype=width())

    def classify(self, activations: list):
        """The classifier's logits (N, K)."""
        counted = [self.normalise(h) for h in activations[self.lowest :]]
        flat = [ops.reshape(h, (-1, math.prod(h.shape[1:]))) for h in counted]
        return self.classifier(ops.concatenate(flat, axis=1))

    def total_goodness(self, activations: list):
        """The goodness of all layers that count, (N,)."""
        return sum(self.goodness_of(h) for h in activations[self.lowest :])

    # -- prediction -----------------------------------------------------------------------------

    def goodness_by_label(self, network, x):
        """The goodness (N, K) of every input with every label."""
        raise NotImplementedError

    def predict(self, network, x):
        return self.assess(network, x)[1]

    def assess(self, network, x):
        logits = self.classify(self.activations(network, x))
        by_classifier = self.prediction == "softmax"
        return logits, logits if by_classifier else self.goodness_by_label(network, x)

    def training_scores(self, network, x, outputs):
        if self.prediction == "softmax" or self.training_metrics == "classifier":
            return outputs
        with isolated([*self.variables, *network.variables]):
            return ops.stop_gradient(self.goodness_by_label(network, x))

    def every_label(self, x):
        """Inputs (K·N, …) and one-hot labels (K·N, K): all inputs with the first label, the second, …"""
        classes, count = self.classifier.units, ops.shape(x)[0]
        labels = ops.repeat(ops.eye(classes), count, axis=0)
        return ops.tile(x, [classes, *[1] * (len(x.shape) - 1)]), labels

    def by_label(self, goodness):
        """Goodness (K·N,) of `every_label` as (N, K)."""
        return ops.transpose(ops.reshape(goodness, (self.classifier.units, -1)))

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return (
                "Forward-Forward cannot reconstruct: it tells examples apart, and its classifier needs "
                "labels; use bp, dfa or mse."
            )
        return super().refusal(problem_type, activation, fw_init)
