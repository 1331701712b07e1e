"""Where half precision ends: losses and errors are computed in float32, or in float64 where asked for."""

from __future__ import annotations

import keras
from keras import ops


def width() -> str:
    """The type of losses, errors and rules' own weights: float64 if floatx or the policy is, else float32."""
    asked_for = keras.config.floatx(), keras.config.dtype_policy().compute_dtype
    return "float64" if "float64" in asked_for else "float32"


def full(x):
    """The tensor in float64 if that is what it has, else in `width()`."""
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, width())
