"""What a source delivers (`Raw`) and what a user gets (`Dataset`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """Examples and their labels.

    Args:
        x: examples (N, ...).
        y: integer labels (N,), from 0.
    """

    x: np.ndarray
    y: np.ndarray

    def take(self, rows: np.ndarray) -> Pair:
        """The given rows of both."""
        return Pair(self.x[rows], self.y[rows])


@dataclass(frozen=True, eq=False)
class Raw:
    """A whole set as its source delivers it; a split that the source does not have is None.

    Args:
        train: training examples.
        test: test examples.
        val: validation examples.
        classes: number of classes.
    """

    train: Pair
    classes: int
    test: Pair | None = None
    val: Pair | None = None

    def __post_init__(self):
        # Sources are cached and their arrays may be handed out uncopied.
        for pair in filter(None, (self.train, self.test, self.val)):
            pair.x.setflags(write=False)
            pair.y.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its three disjoint splits.

    Args:
        name: the name it was loaded by.
        classes: number of classes.
        x_train: training examples: uint8 images (N, H, W, C), or an npz file's own array of rank 2
            or more.
        y_train: their labels, integers (N,) in 0 … classes - 1.
        x_val: validation examples, a part of the training data; length 0 when none was asked for.
        y_val: their labels.
        x_test: test examples, always the whole test split.
        y_test: their labels.
    """

    name: str
    classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, e.g. (28, 28, 1)."""
        return self.x_train.shape[1:]
