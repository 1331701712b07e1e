"""lw: layer-wise training with auxiliary heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras import ops

from bpfree.errors import UserError
from bpfree.hsic import nhsic
from bpfree.layers.views import TwoViews
from bpfree.precision import full
from bpfree.rules.local import in_turn
from bpfree.rules.local_heads import LocalHeads
from bpfree.rules.local_losses import cce, contrastive, similarity
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh

LOSSES = ("cross_entropy", "similarity", "predsim", "supcon")
TARGETS = ("centred", "binary")
NHSIC = (None, "global", "local")


class LayerWise(LocalHeads):
    """Layer-wise training: every block has a trained auxiliary head and a local loss of its output.

        cross_entropy  1/N Σ_n w_n CE(softmax(head(h_n)), y_n)
        similarity     1/N² Σ_ij w_i w_j (S(head(h))_ij − T_ij)²
        predsim        (1 − β) cross_entropy + β similarity, with a head each
        supcon         1/2N Σ_i w_i contrastive_i, of two augmented views of the batch
        nhsic          … − λ nHSIC(head(h), x or the block's input), which rewards keeping information

    Gradients stop at every block's input; heads learn from their own block's loss alone. Dropout
    stands at a block's input here, so no local loss is taken after it. The nHSIC term counts every
    example alike, whatever its weight.

    Args:
        features: see `LocalHeads`.
        loss: `cross_entropy`, `similarity`, `predsim` or `supcon`.
        head: of the cross entropy, of `supcon`, or of `similarity` alone: `linear mlp conv conv2
            identity`; `auto` is linear, and for similarity of feature maps conv.
        beta: β in [0, 1].
        target: T of the similarity loss, `centred` (as published) or `binary`, see `similarity`.
        temperature, base_temperature: of `supcon`, > 0.
        nhsic: what the nHSIC term refers to: none (no such term), `global` (the input) or `local` (the
            block's input).
        nhsic_weight: λ, 0 without the term and positive with it.

    Raises:
        UserError: for an unknown name, a number out of range, a convolutional head on vectors or for
            class scores, or views of anything but images.

    Source: Nøkland & Eidnes 2019, https://arxiv.org/abs/1901.06656, equations 1 to 5; supcon and nHSIC as
    in Sakamoto & Sato 2024, https://arxiv.org/abs/2402.09050.
    """

    name = "lw"

    def __init__(
        self,
        features: int = 2048,
        loss: str = "cross_entropy",
        head: str = "auto",
        beta: float = 0.99,
        target: str = "centred",
        temperature: float = 0.1,
        base_temperature: float = 0.07,
        nhsic: str | None = None,
        nhsic_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(features, **kwargs)
        _check("loss", loss, LOSSES)
        _check("target", target, TARGETS)
        nhsic = None if nhsic == "none" else nhsic
        _check("nhsic", nhsic, NHSIC)
        if not 0 <= beta <= 1:
            raise UserError(f"beta of 'lw' lies in [0, 1], received {beta}.")
        if not temperature > 0 or not base_temperature > 0 or not nhsic_weight >= 0:
            raise UserError(
                "Rule 'lw' needs temperature > 0, base_temperature > 0 and nhsic_weight ≥ 0, received "
                f"{temperature}, {base_temperature} and {nhsic_weight}."
            )
        if (nhsic is None) != (nhsic_weight == 0):
            raise UserError(
                "The nHSIC term of 'lw' needs both nhsic (global or local) and nhsic_weight > 0, received "
                f"{nhsic} and {nhsic_weight}."
            )
        if head in ("conv", "conv2") and loss != "similarity":
            raise UserError(
                f"A {head} head puts out feature maps and the loss {loss} needs vectors: use a linear "
                "or mlp head."
            )
        self.loss = loss
        self.head = head
        self.beta = beta
        self.target = target
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.nhsic = nhsic
        self.nhsic_weight = nhsic_weight

    def build(self, network, input_shape, outputs: int) -> None:
        classes = outputs if self.loss in ("cross_entropy", "predsim") else None
        self.heads = self.make_heads(network, self._kind, classes, "head")
        self.similarity_heads = []
        if self.loss == "predsim":
            self.similarity_heads = self.make_heads(network, _matching, None, "similarity", False)
        if self.loss == "supcon":
            self.views = TwoViews(derive(fresh() if self.seed is None else self.seed, "views"))
            self.views.build(input_shape)

    def _kind(self, shape) -> str:
        if self.head != "auto":
            return self.head
        return _matching(shape) if self.loss == "similarity" else "linear"

    def trained_with(self, network, index: int) -> list:
        further = self.similarity_heads[index : index + 1]
        own = [variable for head in further for variable in head.trainable_variables]
        return [*super().trained_with(network, index), *own]

    def surrogate(self, trace: Trace, index: int):
        batch, h, targets = trace.batch, trace.activations[index], trace.targets
        output = full(self.heads[index](h))
        if self.loss == "supcon":
            temperatures = self.temperature, self.base_temperature
            local = contrastive(output, targets, batch.shares, *temperatures)
        elif self.loss == "similarity":
            local = similarity(output, targets, batch.shares, self.target == "centred")
        else:
            local = cce(output, targets)
        if self.loss == "predsim":
            matched = full(self.similarity_heads[index](h))
            similar = similarity(matched, targets, batch.shares, self.target == "centred")
            local = (1 - self.beta) * local + self.beta * similar
        loss = batch.mean(local)
        if self.nhsic is None:
            return loss
        reference = trace.x if self.nhsic == "global" else trace.inputs[index]
        return loss - self.nhsic_weight * nhsic(ops.stop_gradient(reference), output)

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        if self.loss != "supcon":
            return super().lesson(network, batch)
        count = ops.shape(batch.x)[0]
        views = replace(
            batch,
            x=self.views(batch.x),
            y=ops.concatenate([batch.y, batch.y]),
            weights=ops.concatenate([batch.weights, batch.weights]),
        )
        surrogates, _, outputs = in_turn(self, network, views, self._learn)
        # The head, and so the task loss, knows the first view alone.
        outputs = outputs[:count]
        return [*surrogates, batch.task_loss(outputs)], outputs

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        if problem_type == "reconstruction":
            return (
                "Layer-wise training cannot reconstruct: its local losses compare classes; use mse."
            )
        return super().refusal(problem_type, activation, fw_init)


def _matching(shape) -> str:
    return "conv" if len(shape) == 4 else "linear"


def _check(option: str, value, allowed) -> None:
    if value not in allowed:
        raise UserError(
            f"{option} of 'lw' is one of {', '.join(map(str, allowed))}, received {value!r}."
        )
