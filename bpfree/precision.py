"""Where half precision ends: losses and errors are computed in float32, or in float64 where asked for."""

from __future__ import annotations

import keras
from keras import ops


def full(x):
    """The tensor in float32, or in float64 if that is what it has."""
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")
