"""The information plane's coordinates: how much of inputs and labels each block's activations keep."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np
from keras import ops

from bpfree import hsic
from bpfree.analysis.trackers import BATCH_SIZE, Tracker, activations, batches

_LARGEST = 100.0  # root mean square above which float32 cannot resolve close examples' distances


class NHSIC(Tracker):
    """nHSIC(X; H_l) and nHSIC(Y; H_l): `nhsic_x/block_1`, `nhsic_y/block_1`, …

    X are the inputs, Y the one-hot labels, H_l the block's activations in inference mode, flattened;
    the value is the mean of `bpfree.hsic.nhsic` over batches of 128 examples, and examples that fill no
    batch are left out. With fewer than 128 they are one batch, whose values are smaller. NaN where an
    activation is not finite, or an example is farther than 100 (root mean square) from the mean.

    Args:
        x: held-out inputs (n, …).
        y: one-hot labels (n, K), or integers (n,) of which the largest is K − 1.
    """

    name = "nhsic"
    held_out = True

    def __init__(self, x, y):
        whole = len(x) // BATCH_SIZE * BATCH_SIZE or len(x)
        super().__init__(np.asarray(x)[:whole], _one_hot(y)[:whole])

    def columns(self, learner) -> dict[str, float]:
        values = defaultdict(list)
        for views, blocks in zip(self._views, activations(learner, self.x), strict=True):
            for index, activation in enumerate(blocks, 1):
                own = _view(activation)
                for name, view in views.items():
                    values[f"nhsic_{name}/block_{index}"].append(np.sum(view * own))
        return {column: float(np.mean(found)) for column, found in values.items()}

    @cached_property
    def _views(self) -> list[dict[str, np.ndarray]]:
        """The R of inputs and labels, batch after batch; they are those of every epoch."""
        return [
            {"x": _view(self.x[rows]), "y": _view(self.y[rows])} for rows in batches(len(self.x))
        ]


def _one_hot(y) -> np.ndarray:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y
    labels = y.reshape(-1).astype("int64")
    return np.eye(labels.max() + 1)[labels]


def _view(x) -> np.ndarray:
    """R_X, or NaN where float32 cannot tell it."""
    x = ops.reshape(ops.cast(x, "float32"), (len(x), -1))
    squares = ops.mean(ops.square(x - ops.mean(x, axis=0)), axis=1)
    if not ops.all(squares <= _LARGEST**2):
        return np.full((len(x), len(x)), np.nan)
    return ops.convert_to_numpy(hsic.view(x))
