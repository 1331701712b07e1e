"""ff: Forward-Forward."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from bpfree.autodiff import isolated
from bpfree.errors import UserError
from bpfree.layers.hybrids import Hybrids
from bpfree.layers.label_embedding import LabelEmbedding
from bpfree.network import kernels, pre_activation
from bpfree.rules.goodness import GoodnessRule
from bpfree.rules.rule import zero
from bpfree.rules.trace import Batch

MODES = ("supervised", "unsupervised")


class ForwardForward(GoodnessRule):
    """Forward-Forward: every block tells positive examples from negative ones by its activity.

        u_l = normalise(sg h_{l−1}),  h_l = f(z_l) = block_l(u_l)
        surrogate_l   separation(h_l) + equalisation(z_l, h_l),  see `GoodnessRule`

    Supervised, a positive is an image with its label in it and a negative the same image with a wrong
    one; unsupervised, a real image and a hybrid of two. The classifier learns on a pass with a neutral
    label (1/K each) in inference mode. Unsupervised only the classifier predicts.

    Args:
        mode: `supervised` or `unsupervised`; the recurrent form is the rule `ff_recurrent`.
        embed: how a label is put into an image: `top-left append subtract mixture 2channel`, see
            `LabelEmbedding`; with `append` the network takes K inputs more, flattened, and with
            `2channel` twice the channels.
        prototype: what stands for a class in the last three: `average` or `fixed-example`.
        blurs: of the hybrids' masks, see `Hybrids`.
        **kwargs: see `GoodnessRule`.

    Raises:
        UserError: for an unknown name, a number out of range, or inputs that do not fit.

    Source: Hinton 2022, https://arxiv.org/abs/2212.13345, sections 2 and 3.
    """

    name = "ff"
    local = True

    def __init__(
        self,
        mode: str = "supervised",
        embed: str = "top-left",
        prototype: str = "average",
        blurs: int = 6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode == "recurrent":
            raise UserError("Recurrent Forward-Forward is a rule of its own: write ff_recurrent.")
        self.check_choice("mode", mode, MODES)
        if blurs < 0:
            raise UserError(f"Rule 'ff' needs blurs ≥ 0, received {blurs}.")
        self.mode, self.embed, self.prototype, self.blurs = mode, embed, prototype, blurs

    def input_shape(self, shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
        if self.mode == "unsupervised":
            return shape
        return self._embedding(shape, outputs).output_shape

    def build(self, network, input_shape, outputs: int) -> None:
        super().build(network, input_shape, outputs)
        if self.mode == "unsupervised":
            self.hybrids = Hybrids(self.blurs, self.derived("hybrids"))
            self.hybrids.build(input_shape)
        else:
            self.embedding = self._embedding(input_shape[1:], outputs)
            self.embedding.build()
            _check_inputs(network, self.embedding)

    def _embedding(self, shape, outputs: int) -> LabelEmbedding:
        return LabelEmbedding(shape, outputs, self.embed, prototype=self.prototype)

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        logits = self.classify(self.activations(network, batch.x))
        h, surrogates = ops.concatenate(self.pair(batch, logits)), []
        for index, block in enumerate(network.blocks):
            z, h = pre_activation(block, self.normalise(h), training=batch.mode(index))
            surrogates.append(self.surrogate(z, h, index, batch))
        unused = zero(network.head.trainable_variables)
        return [*surrogates, batch.task_loss(logits) + unused], logits

    def pair(self, batch: Batch, logits) -> list:
        """Positives and negatives, as the first block is given them."""
        if self.mode == "unsupervised":
            return [batch.x, self.hybrids(batch.x)]
        labels = batch.targets(self.classifier.units)
        if batch.training:
            self.embedding.observe(batch.x, labels * batch.weights[:, None])
        wrong = self.wrong_labels(logits, labels)
        return [self.embedding(batch.x, labels), self.embedding(batch.x, wrong)]

    def samples(self, network, x, y) -> dict[str, Any]:
        """What a step on this batch would learn from: `positives`, and `negatives` or `hybrids`.

        Changes no state. `bpfree.reporting.plot_samples` shows them.

        Args:
            network: the network that the rule is built on.
            x: inputs (N, …).
            y: labels (N,) or one-hot (N, K).
        """
        x = ops.cast(x, "float32")
        batch = Batch(x, y, ops.ones((len(x),)), lambda outputs, weights: 0.0)
        with isolated([*self.variables, *network.variables]):
            pair = self.pair(batch, self.classify(self.activations(network, x)))
        second = "hybrids" if self.mode == "unsupervised" else "negatives"
        return dict(zip(("positives", second), map(ops.convert_to_numpy, pair), strict=True))

    def activations(self, network, x) -> list:
        return self._activations(network, self._neutral(x))

    def _neutral(self, x):
        if self.mode == "unsupervised":
            return x
        classes = self.classifier.units
        return self.embedding(x, ops.full((ops.shape(x)[0], classes), 1 / classes))

    def _activations(self, network, x) -> list:
        found = []
        for block in network.blocks:
            x = block(self.normalise(x), training=False)
            found.append(x)
        return found

    def goodness_by_label(self, network, x):
        if self.mode == "unsupervised":
            return self.classify(self.activations(network, x))
        marked = self.embedding(*self.every_label(x))
        return self.by_label(self.total_goodness(self._activations(network, marked)))


def _check_inputs(network, embedding: LabelEmbedding) -> None:
    kernel = kernels(network.blocks[0])[0]
    given, wanted = kernel.shape[-2], embedding.output_shape
    if embedding.enlarges and given not in (math.prod(wanted), wanted[-1]):
        raise UserError(
            f"With labels embedded by {embedding.method} (appended) the network takes inputs {wanted}, "
            f"and this one's first kernel takes {given}: build it for rule.input_shape(shape, outputs)."
        )
