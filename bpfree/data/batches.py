"""Seeded batches: which examples are trained on when is a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from bpfree.data.preprocessing import Augmenter, Scaler
from bpfree.errors import UserError
from bpfree.seeds import derive

PROBLEM_TYPES = ("classification", "reconstruction")


class Batches(keras.utils.PyDataset):
    """The batches of one epoch after another, the same on every backend and after a resume.

    Epoch e takes the examples in the order of NumPy's
    `default_rng(derive(seed, "batch order", e)).permutation(n)`. Train with
    `learner.fit(**feed(batches), ...)`: there Keras itself tells the epoch. Given to `fit` alone
    (with `shuffle=False`), the epoch advances after each completed pass.

    Args:
        x: examples (n, ...), uint8 or what the scaler is for.
        y: integer labels (n,); not read in reconstruction.
        batch_size: examples per batch, at least 1; more than n becomes n.
        scale: the scaler, see `bpfree.data.preprocessing.scaler`.
        problem_type: `classification` (targets are the labels, int32) or `reconstruction` (targets
            are the scaled and augmented examples, flattened to (N, D)).
        shuffle: whether the order changes with each epoch.
        seed: the run's seed, any integer.
        epoch: the epoch to begin with, from 0.
        augment: random transformations, see `bpfree.data.preprocessing.augmenter`; None for none.
        drop_remainder: for training: every batch has `batch_size` examples, and those that are left
            over wait for another epoch's order. Otherwise nothing is dropped and the examples are
            shared out over ceil(n / batch_size) batches as evenly as possible, so that the compiler
            meets two sizes at most.

    Raises:
        UserError: there are no examples, x and y differ in length, or an argument is out of range.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        *,
        scale: Scaler,
        problem_type: str = "classification",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: Augmenter | None = None,
        drop_remainder: bool = False,
    ):
        super().__init__()  # one worker and no processes: a batch takes about 0.1 ms
        _check(x, y, batch_size, problem_type, augment)
        self.x, self.y = x, None if y is None else np.asarray(y, np.int32)
        self.scale, self.augment, self.problem_type = scale, augment, problem_type
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch
        self.bounds = _bounds(len(x), batch_size, drop_remainder)
        self._cached: tuple[int, np.ndarray] | None = None
        self._pass: str | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def begin(self, epoch: int) -> None:
        """Passes that start from now on are of this epoch."""
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """The permutation (n,) of epoch `epoch`; batch i is `order[bounds[i]:bounds[i + 1]]`."""
        if not self.shuffle:
            return np.arange(len(self.x))
        return np.random.default_rng(derive(self.seed, "batch order", epoch)).permutation(
            len(self.x)
        )

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of the current epoch: float32 examples and their targets."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        if index == len(self) - 1 and self._pass == "begun":
            self._pass = "complete"
        epoch = self.epoch
        rows = self._current_order(epoch)[self.bounds[index] : self.bounds[index + 1]]
        x = self.scale(self.x[rows])
        if self.augment is not None:
            x = self.augment(x, epoch, index)
        if self.problem_type == "reconstruction":
            return x, x.reshape(len(x), -1)
        return x, self.y[rows]

    def _current_order(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, self.order(epoch)
        return self._cached[1]

    def on_epoch_begin(self) -> None:
        self._pass = "begun"

    def on_epoch_end(self) -> None:
        # Keras also calls this before the first epoch, after having drawn a batch or two to build
        # the model; only a pass whose last batch was drawn counts.
        self.epoch += self._pass == "complete"
        self._pass = None


class _Epoch(keras.callbacks.Callback):
    """Tells the batches which epoch begins."""

    def __init__(self, begin: Callable[[int], None]):
        super().__init__()
        self.begin = begin

    def on_epoch_begin(self, epoch, logs=None):
        self.begin(epoch)


def feed(batches: Batches, callbacks: Sequence[keras.callbacks.Callback] = ()) -> dict:
    """The arguments `x`, `shuffle` and `callbacks` of `fit` that train on these batches.

    `learner.fit(**feed(batches, callbacks), epochs=9, initial_epoch=4)` trains on epochs 4 … 8 of
    the batches, whatever `batches.epoch` was. Keras's hooks in a PyDataset are not exact enough: on
    JAX a one-batch epoch is drawn whole just to build the model and then looks like a finished one,
    and a stopped epoch may have been prefetched to its end. A callback is told the epoch.

    Args:
        batches: the training examples.
        callbacks: the other callbacks, called after the one that sets the epoch.
    """
    x, begin = _fastest(batches)
    return {"x": x, "shuffle": False, "callbacks": [_Epoch(begin), *callbacks]}


def stream(batches: Batches):
    """The same batches in the form that the backend reads fastest, for `evaluate` and the like.

    On TensorFlow a `tf.data.Dataset` that gathers and scales outside Python (a PyDataset,
    read alone, takes about 0.4 ms a batch more there),
    except under augmentation; on other backends the batches themselves.

    Args:
        batches: the examples, in the order of the epoch `batches.epoch`.
    """
    return _fastest(batches)[0]


def _fastest(batches: Batches) -> tuple[Any, Callable[[int], None]]:
    """The form that the backend reads fastest, and what tells it the epoch."""
    if keras.backend.backend() != "tensorflow" or batches.augment is not None:
        return batches, batches.begin
    from bpfree.data.tf_stream import Pipeline

    pipeline = Pipeline(batches)
    return pipeline.dataset, pipeline.begin


def _bounds(n: int, batch_size: int, drop_remainder: bool) -> np.ndarray:
    """Where each batch begins in the order, and where the last one ends."""
    batch_size = min(batch_size, n)
    if drop_remainder:
        return np.arange(n // batch_size + 1) * batch_size
    count = math.ceil(n / batch_size)
    small, larger = divmod(n, count)
    return np.cumsum([0] + [small + 1] * larger + [small] * (count - larger))


def _check(x, y, batch_size, problem_type, augment) -> None:
    if problem_type not in PROBLEM_TYPES:
        raise UserError(f"Unknown problem_type {problem_type!r}: use {' or '.join(PROBLEM_TYPES)}.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1.")
    if not len(x):
        raise UserError("There are no examples to make batches of: give at least one.")
    if problem_type == "classification" and (y is None or len(x) != len(y)):
        raise UserError(
            f"There are {len(x)} examples and {0 if y is None else len(y)} labels: give one each."
        )
    if augment is not None and x.ndim != 4:
        raise UserError(
            f"Cannot augment shape {x.shape[1:]}: give images (height, width, channels)."
        )
