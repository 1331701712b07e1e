"""shallow: only the head learns, the control."""

from bpfree.rules.rule import Rule, zero
from bpfree.rules.trace import Trace


class Shallow(Rule):
    """Only the head learns, from the task loss; the blocks keep their random weights.

    A rule that trains its blocks must do better than this. Batch statistics are still collected;
    neither weight decay nor an optimizer's memory moves a block.

    Source: the control of Launay, Poli & Krzakala 2019, https://arxiv.org/abs/1906.04554, section 3.
    """

    name = "shallow"

    def build(self, network, input_shape, outputs: int) -> None:
        self._learning = frozenset(map(id, network.head.trainable_variables))

    def surrogates(self, trace: Trace) -> list:
        return [zero(block.trainable_variables) for block in trace.blocks]

    def lr_multiplier(self, variable) -> float:
        return 1.0 if id(variable) in self._learning else 0.0
