"""Linear probes: what a linear classifier could read from each block."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from keras import ops

from bpfree.analysis.trackers import Tracker, activations
from bpfree.errors import UserError

_MOST_FEATURES = 4096


def linear_probe(train, train_labels, test, test_labels) -> float:
    """The error (%) on `test` of a logistic regression fitted to `train`.

    Features are standardised by the training part's mean and deviation; the regression is
    scikit-learn's multinomial one with its default penalty, C = 1.

    Args:
        train: activations (n, …), see `pooled`.
        train_labels: integers (n,), of at least two classes.
        test: other examples' activations (m, …).
        test_labels: integers (m,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # a requirement of scikit-learn's

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    train, test = (pooled(part).astype("float64") for part in (train, test))
    # More threads wait for each other on matrices of this size, above all where cores are shared.
    with threadpool_limits(1):
        probe.fit(train, train_labels)
        return 100 * (1 - probe.score(test, test_labels))


def pooled(activation) -> np.ndarray:
    """An activation as (n, d) in float32, flattened.

    Of (n, …, C), neighbouring positions are averaged, two along each axis, as often as it takes to
    leave d ≤ 4096 or one position.
    """
    activation = ops.convert_to_tensor(activation, dtype="float32")
    while math.prod(activation.shape[1:]) > _MOST_FEATURES and _has_positions(activation):
        activation = ops.average_pool(
            activation, 2, strides=2, padding="same", data_format="channels_last"
        )
    return ops.convert_to_numpy(activation).reshape(len(activation), -1)


def _has_positions(activation) -> bool:
    return any(size > 1 for size in activation.shape[1:-1])


class LinearProbe(Tracker):
    """The error (%) of a linear probe of each block's activations, in inference mode.

    Every second example of each class trains the probe, the others measure it: see `linear_probe`.
    NaN where an activation is not finite.

    Args:
        x: held-out inputs (n, …).
        y: labels: integers (n,) or one-hot (n, K).

    Raises:
        UserError: the half that trains holds fewer than two classes.
    """

    name = "linear_probe"
    held_out = True

    def __init__(self, x, y):
        y = np.asarray(y)
        labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
        by_class = np.argsort(labels, kind="stable")
        self._train, self._test = by_class[::2], by_class[1::2]
        classes = len(np.unique(labels[self._train]))
        if classes < 2:
            raise UserError(
                f"A linear probe needs examples of at least 2 classes to train on, received {classes} "
                f"in {len(labels)} held-out examples: hold out more."
            )
        super().__init__(np.asarray(x), labels)

    def measure(self, learner) -> Iterator[tuple[str, float]]:
        found = [list(map(pooled, blocks)) for blocks in activations(learner, self.x)]
        for index, block in enumerate(zip(*found, strict=True), 1):
            yield f"block_{index}", self._error(np.concatenate(block))

    def _error(self, features: np.ndarray) -> float:
        if not np.isfinite(features).all():
            return math.nan
        train, test = self._train, self._test
        return linear_probe(features[train], self.y[train], features[test], self.y[test])
