"""Trackers: Keras callbacks that measure every block on a fixed probe batch, once an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from bpfree.errors import UserError
from bpfree.network import kernels

BATCH_SIZE = 128  # examples at a time through the network, and in a kernel matrix


class Tracker(keras.callbacks.Callback):
    """Adds `<name>/block_1`, …, `<name>/head` to an epoch's logs, and so to its history.

    Works for every rule, BP included, on whatever `Learner` it is given to `fit` with; callbacks
    that record the logs must come after it. Costs nothing inside the training step.

    Args:
        x: inputs of the probe batch.
        y: their targets.

    Attributes:
        held_out: whether the probe batch must be examples that the learner is not trained on.
        reads_weights: whether an epoch's end needs the model; a callback that has this attribute does
            its work there alone, and may be lent one model for the weights of many.
    """

    name = ""
    held_out = False
    reads_weights = True

    def __init__(self, x, y):
        super().__init__()
        self.x = x
        self.y = y

    def on_epoch_end(self, epoch, logs=None):
        # One access to `self.model` an epoch: on JAX it copies the training state back.
        logs.update(self.columns(self.model))

    def columns(self, learner) -> dict[str, float]:
        """The measured values by the names of their columns."""
        return {f"{self.name}/{place}": value for place, value in self.measure(learner)}

    def measure(self, learner) -> Iterator[tuple[str, float]]:
        """Yields a place, `block_1` … or `head`, and its value."""
        raise NotImplementedError

    def gradients(self, learner, rule=None) -> dict[int, np.ndarray]:
        """The gradients on the probe batch by variable; every rule sees the same dropout masks."""
        found = learner.gradients(self.x, self.y, rule=rule, seed=0)
        arrays = [keras.ops.convert_to_numpy(gradient) for gradient in found]
        return {id(v): a for v, a in zip(learner.trainable_variables, arrays, strict=True)}


class BPCosine(Tracker):
    """cos(g, g_BP) of each part's kernel gradients: 1 where the rule goes BP's way, for BP always.

    Both are gradients on the same weights and batch, regularisers included, flattened over all
    kernels of the part; 0 where either is zero. Not measured where the rule appends labels to the
    inputs, on which there is no backpropagation to compare with.
    """

    name = "bp_cosine"

    def measure(self, learner):
        shape = tuple(self.x.shape[1:])
        if learner.rule.input_shape(shape, learner.network.outputs) != shape:
            return
        ours, reference = self.gradients(learner), self.gradients(learner, "bp")
        for place, layer in parts(learner.network):
            yield place, cosine(flat(layer, ours), flat(layer, reference))


class Gradients(Tracker):
    """The norm of each part's kernel gradients under the rule, and of its biases': `…/bias`."""

    name = "gradients"

    def measure(self, learner):
        yield from _norms(learner, self.gradients(learner))


class Weights(Tracker):
    """The Frobenius norm of each part's kernels, and that of its biases: `…/bias`."""

    name = "weights"

    def measure(self, learner):
        values = {id(v): keras.ops.convert_to_numpy(v) for v in learner.trainable_variables}
        yield from _norms(learner, values)


class LocalLoss(Tracker):
    """Each block's surrogate, a mean over the probe batch, and the head's task loss.

    For local losses it is the loss that the block minimises; for DFA and DRTP the inner product of
    the signal with the projected activation; BP and `shallow` have none, and show 0.
    """

    name = "local_loss"

    def measure(self, learner):
        values = learner.surrogates(self.x, self.y)
        for (place, _), value in zip(parts(learner.network), values, strict=True):
            yield place, float(value)


class WeightAlignment(Tracker):
    """cos(K_l, F_{l−1} F_lᵀ) of the blocks from the second on, cos(K, F_L) of the head; under feedback
    alignment cos(K, B) of each part, over all its kernels that have a B; under PEPITA
    cos(K_1 … K_head, F), of the `network`.

    Else only for rules with feedback matrices and networks of Dense blocks; the first block has no such
    relation. Source: Refinetti et al. 2021, https://arxiv.org/abs/2011.12428, section 3.
    """

    name = "weight_alignment"

    def measure(self, learner):
        if hasattr(learner.rule, "pairs"):
            yield from _with_partners(learner)
            return
        if hasattr(learner.rule, "alignment"):
            for place, *sides in learner.rule.alignment(learner.network):
                yield place, cosine(*(keras.ops.convert_to_numpy(side).ravel() for side in sides))
            return
        feedback = [keras.ops.convert_to_numpy(f) for f in getattr(learner.rule, "feedback", [])]
        if not feedback:
            return
        expected = [f @ g.T for f, g in zip(feedback[:-1], feedback[1:], strict=True)]
        for (place, layer), wanted in zip(
            list(parts(learner.network))[1:], [*expected, feedback[-1]], strict=True
        ):
            values = {id(v): keras.ops.convert_to_numpy(v) for v in kernels(layer)}
            kernel = flat(layer, values)
            if kernel.size == wanted.size:
                yield place, cosine(kernel, wanted.ravel())


class InverseResidual(Tracker):
    """How far the kept or iterated inverse of each layer was off at the last training step, relatively.

    Only for rules that invert weights (`tp itp gait`), of the layers from the second on; see
    `bpfree.inverses`.
    """

    name = "inverse_residual"

    def measure(self, learner):
        places = [place for place, _ in parts(learner.network)][1:]
        for place, inverse in zip(places, getattr(learner.rule, "inverses", ()), strict=False):
            yield place, float(keras.ops.convert_to_numpy(inverse.residual))


def _with_partners(learner) -> Iterator[tuple[str, float]]:
    pairs = {id(kernel): (kernel, B) for kernel, B in learner.rule.pairs(learner.network)}
    for place, layer in parts(learner.network):
        found = [pairs[id(v)] for v in layer.trainable_variables if id(v) in pairs]
        if found:
            sides = (map(keras.ops.convert_to_numpy, side) for side in zip(*found, strict=True))
            yield place, cosine(*(np.concatenate([a.ravel() for a in side]) for side in sides))


def get(name: str, x, y) -> Tracker:
    """The tracker of that name on a probe batch.

    Raises:
        UserError: if there is none.
    """
    return find(name)(x, y)


def find(name: str) -> type[Tracker]:
    """The class of trackers of that name.

    Raises:
        UserError: if there is none.
    """
    known = {tracker.name: tracker for tracker in Tracker.__subclasses__()}
    if name not in known:
        raise UserError(f"Unknown tracker {name!r}: choose one of {', '.join(sorted(known))}.")
    return known[name]


def parts(network) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The blocks as `block_1`, …, and the head."""
    for index, block in enumerate(network.blocks):
        yield f"block_{index + 1}", block
    yield "head", network.head


def batches(n: int) -> Iterator[slice]:
    """The rows of one batch of n examples after another."""
    return (slice(start, start + BATCH_SIZE) for start in range(0, n, BATCH_SIZE))


def activations(learner, x) -> Iterator[list]:
    """Every block's activations in inference mode, of one batch of x after another."""
    return (learner.rule.activations(learner.network, x[rows]) for rows in batches(len(x)))


def flat(layer, values: dict[int, np.ndarray]) -> np.ndarray:
    """The values of all kernels of a layer, as one vector."""
    return np.concatenate([values[id(v)].ravel() for v in kernels(layer)] or [np.zeros(0)])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two vectors, computed in float64; 0 where either is zero."""
    a, b = a.astype("float64"), b.astype("float64")
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _norms(learner, values: dict[int, np.ndarray]) -> Iterator[tuple[str, float]]:
    for place, layer in parts(learner.network):
        yield place, float(np.linalg.norm(flat(layer, values)))
        biases = [values[id(v)].ravel() for v in layer.trainable_variables if v.name == "bias"]
        if biases:
            yield f"{place}/bias", float(np.linalg.norm(np.concatenate(biases)))
