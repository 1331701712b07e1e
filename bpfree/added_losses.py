"""What layers add to the loss while they run: activity regularisers, and Keras's `add_loss`."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from bpfree.autodiff import isolated
from bpfree.network import BlockNetwork, within
from bpfree.precision import full


def added(network: BlockNetwork, x, training: Sequence[bool], cut: bool):
    """The sum of what layers add to the loss in a forward pass of its own, which changes no variable.

    Of its own, because a rule may run a layer once, several times or inside a derivative. The dropout
    masks are those of the pass that comes next.

    Args:
        network: built.
        x: what the network is given (N, …).
        training: the mode of each block and of the head.
        cut: whether gradients stop between blocks.

    Returns:
        A float32 scalar; 0 if nothing is added.
    """
    with isolated(network.variables, collect_losses=True) as scope:
        network.trace(x, training, cut)
    return sum((full(loss) for loss in scope.losses), ops.zeros(()))


def adds(network: BlockNetwork, shape: Sequence[int]) -> bool:
    """Whether a layer adds to the loss: tried on an example of zeros, unless all are known not to."""
    if all(map(_known_to_add_nothing, within(network))):
        return False
    x = ops.zeros((1, *shape))
    with isolated(network.variables, collect_losses=True) as scope:
        network.trace(x, training=True)
    return bool(scope.losses)


def _known_to_add_nothing(layer: keras.layers.Layer) -> bool:
    ours = type(layer).__module__.partition(".")[0] in ("keras", "bpfree")
    return ours and getattr(layer, "activity_regularizer", None) is None
