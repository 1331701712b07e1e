"""LocalRule: the base of rules whose blocks learn one after the other within a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from bpfree import autodiff
from bpfree.precision import full, width
from bpfree.rules.rule import Rule
from bpfree.rules.trace import Batch, Trace


class LocalRule(Rule):
    """Says what a block learns from the pass up to it, so that a block's activations can be forgotten
    before the next block begins: the memory of a step does not grow with depth, see `taught`."""

    local = True

    def surrogate(self, trace: Trace, index: int):
        """The scalar of block `index`, from a trace that ends with this block: it has no outputs yet."""
        raise NotImplementedError(f"{type(self).__name__} defines no surrogate.")

    def surrogates(self, trace: Trace) -> list:
        return [self.surrogate(trace, index) for index in range(len(trace.blocks))]

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        surrogates, _, outputs = in_turn(self, network, batch, self._learn)
        return [*surrogates, batch.task_loss(outputs)], outputs

    def _learn(self, trace: Trace, index: int):
        return self.surrogate(trace, index), ()


def in_turn(rule: Rule, network, batch: Batch, learn: Callable) -> tuple[list, list, Any]:
    """A forward pass, cut between blocks, in which a block has learned before the next one begins.

    Args:
        rule: whose variables learn along with the blocks.
        learn: a function `(trace, index) -> (surrogate, kept)` of a trace that ends with block `index`.

    Returns:
        The surrogates and what was kept, stopped, each a list with one entry per block; and the outputs.
    """
    x, activations, surrogates, kept = batch.x, [], [], []
    given = batch.tensors
    for index, block in enumerate(network.blocks):

        def step(x=x, given=given, index=index, block=block):
            h = block(x, training=batch.mode(index))
            trace = Trace(network, replace(batch, **given), [*activations, h], None)
            surrogate, keep = learn(trace, index)
            # From the batch itself: a chain of waiting would keep every block's gradients.
            return surrogate, keep, (h, batch.tensors)

        surrogate, keep, (x, given) = taught(rule, network, batch, index, step)
        activations.append(x)
        surrogates.append(surrogate)
        kept.append(keep)
    outputs = network.head(x, training=batch.mode(len(network.blocks)))
    return surrogates, kept, ops.cast(outputs, keras.config.floatx())


def taught(rule: Rule, network, batch: Batch, index: int, step: Callable) -> tuple[Any, Any, Any]:
    """One block's lesson, learned to its end before anything that is passed on can be used.

        g = ∂ step().surrogate / ∂ W        surrogate's gradient: g, passed on: sg(h) + 0, once g is there

    Left to itself a compiler runs the forward pass of many blocks first and keeps what their gradients
    need. Here the gradient is taken at once, and the next block's input depends on it.

    Args:
        index: the block's; its variables are those of `Rule.trained_with`. A frozen block only runs.
        step: a function `() -> (surrogate, kept, passed)` of a scalar and two structures of tensors, the
            second of which goes on to later blocks.

    Returns:
        The same three, but that a surrogate has its gradient already, and the others are stopped.
    """
    if batch.stage not in (None, index):
        surrogate, kept, passed = step()
        return surrogate, _stopped(kept), _stopped(passed)
    variables = rule.trained_with(network, index)
    state = everything_but(variables, network, rule)
    # In half precision the gradient of a sum keeps small signals that that of a mean would lose.
    count = ops.cast(ops.shape(batch.x)[0], width())

    def learned():
        surrogate, *rest = step()
        return surrogate, rest

    found = autodiff.gradients_here(learned, variables, state, count)
    surrogate, (kept, passed), gradients = found
    gradients = list(map(ops.stop_gradient, gradients))
    surrogate = ops.stop_gradient(surrogate) + autodiff.attached(variables, gradients)
    return surrogate, _stopped(kept), after(gradients, _stopped(passed))


def _stopped(structure):
    return keras.tree.map_structure(ops.stop_gradient, structure)


def everything_but(variables: Sequence, network, rule: Rule) -> list:
    """The network's and the rule's other variables."""
    own = set(map(id, variables))
    return [v for v in (*network.variables, *rule.variables) if id(v) not in own]


def after(gradients: Sequence, structure):
    """The structure's values, which wait for the gradients."""
    # No number is above infinity, NaN neither, so this is 0; a compiler does not know it.
    entries = [ops.reshape(gradient, (-1,))[0] for gradient in gradients]
    nothing = sum(full(entry > float("inf")) for entry in entries)
    return keras.tree.map_structure(lambda value: value + ops.cast(nothing, value.dtype), structure)
