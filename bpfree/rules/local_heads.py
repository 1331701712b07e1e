"""LocalHeads: the base of rules whose blocks learn with trained auxiliary heads of their own."""

from __future__ import annotations

from typing import Any

from bpfree.errors import UserError
from bpfree.layers.heads import head
from bpfree.precision import full
from bpfree.rules.local import LocalRule, in_turn
from bpfree.rules.rule import zero
from bpfree.rules.trace import Batch, Trace
from bpfree.seeds import derive, fresh


class LocalHeads(LocalRule):
    """Owns one trained head per block; a head learns from its block's loss along with the block.

    Gradients stop at every block's input, and no head is used beyond its block.

    Args:
        features: feature maps are averaged down to at most so many values in front of a head, ≥ 1;
            see `bpfree.layers.heads.pooling`.

    Raises:
        UserError: for fewer than one feature.
    """

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

    def local_loss(self, trace: Trace, scores):
        """The scalar of a block, from its head's scores (N, D)."""
        raise NotImplementedError

    def combine(self, scores: list):
        """The prediction (N, D), from the scores of all heads."""
        raise NotImplementedError

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        surrogates, scores, _ = in_turn(self, network, batch, self._learn)
        unused = zero(network.head.trainable_variables)
        return [*surrogates, unused], self.combine(scores)

    def surrogate(self, trace: Trace, index: int):
        return self._learn(trace, index)[0]

    def _learn(self, trace: Trace, index: int):
        scores = self.score(self.seen(trace.activations[index]), index)
        return self.local_loss(trace, scores), scores

    def seen(self, h):
        """An activation as its head sees it in training."""
        return h

    def score(self, h, index: int):
        """A head's output, float32 (N, D)."""
        return full(self.heads[index](h))

    def scores(self, activations: list) -> list:
        """Every head's output, float32 (N, D)."""
        return [self.score(h, index) for index, h in enumerate(activations)]

    def predict(self, network, x):
        return self.combine(self.scores(self.activations(network, x)))

    def lr_multiplier(self, variable) -> float:
        return 0.0 if id(variable) in self._unused else 1.0
