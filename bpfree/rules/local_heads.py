"""LocalHeads: the base of rules whose blocks learn with trained auxiliary heads of their own."""

from __future__ import annotations

from typing import Any

from keras import ops

from bpfree.errors import UserError
from bpfree.layers.heads import head
from bpfree.rules.rule import Rule, zero
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh


class LocalHeads(Rule):
    """Owns one trained head per block; a head learns from its block's loss along with the block.

    Gradients stop at every block's input, and no head is used beyond its block.

    Args:
        features: feature maps are averaged down to at most so many values in front of a head, ≥ 1;
            see `bpfree.layers.heads.pooling`.

    Raises:
        UserError: for fewer than one feature.
    """

    local = True

    def __init__(self, features: int = 2048, **kwargs):
        super().__init__(**kwargs)
        if not features >= 1:
            raise UserError(f"features of {self.name!r} is at least 1, received {features}.")
        self.features = features

    def make_heads(self, network, kinds, outputs: int | None, role: str, use_bias: bool = True):
        """One head per block, of the kind that `kinds(shape)` says for its activation's shape."""
        seed = fresh() if self.seed is None else self.seed
        return [
            head(
                *(kinds(shape), shape, outputs, self.features),
                seed=derive(seed, role, index),
                use_bias=use_bias,
                name=f"{role}_{index + 1}",
            )
            for index, shape in enumerate(network.hidden_shapes)
        ]


class HeadPrediction(LocalHeads):
    """Predicts by the auxiliary heads alone: the network's own head neither learns nor is asked."""

    def build(self, network, input_shape, outputs: int) -> None:
        self._unused = frozenset(map(id, network.head.trainable_variables))

    def parts(self, network) -> int:
        return len(network.blocks)

    def losses_of(self, trace: Trace, scores: list) -> list:
        """One scalar per block, from its head's scores (N, D)."""
        raise NotImplementedError

    def combine(self, scores: list):
        """The prediction (N, D), from the scores of all heads."""
        raise NotImplementedError

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        trace = self.trace(network, batch)
        scores = self.scores(self.seen(trace))
        unused = zero(network.head.trainable_variables)
        return [*self.losses_of(trace, scores), unused], self.combine(scores)

    def seen(self, trace: Trace) -> list:
        """The activations as the heads see them."""
        return trace.activations

    def scores(self, activations: list) -> list:
        """Every head's output, float32 (N, D)."""
        return [
            ops.cast(head(h), "float32") for head, h in zip(self.heads, activations, strict=True)
        ]

    def predict(self, network, x):
        return self.combine(self.scores(self.activations(network, x)))

    def lr_multiplier(self, variable) -> float:
        return 0.0 if id(variable) in self._unused else 1.0
