"""The search space: what a sweep varies unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DECADES = (1e-4, 1e-3, 1e-2, 1e-1)

SWEPT: dict[str, tuple] = {
    "algorithm": ("bp", "dfa", "drtp", "cce"),
    "arch": ("500", "500x5", "500-1000-500", "1000", "1000-1000", "1000-500-1000"),
    "activation": ("tanh", "relu", "swish", "lrelu"),
    "batch_norm": (False, True),
    "bw_init": ("ortho", "lecun"),
}
"""Hyperparameters swept by default, the slowest first."""

FIXED: dict[str, Any] = {
    "fw_init": "orthogonal",
    "use_bias": True,
    "optimizer": "adam",
    "lr_schedule": "constant",
    "weight_decay": 0.0,
    "batch_size": 64,
    "scaler": "standard",
    "schedule": "simultaneous",
    "epochs_per_block": 0,
}
"""Hyperparameters fixed by default, which may be swept over given values."""

DROPOUT_RATES = (0.0, 0.1, 0.3, 0.5)

NAMES = (*SWEPT, *FIXED, "reg_rate", "lr")
"""All hyperparameters in the grid's order. The last varies fastest; learners that differ in the last
two share a compiled program."""


def choices(
    given: Mapping[str, Sequence], problem_type: str, objective: str
) -> dict[str, tuple[Any, ...]]:
    """The values of every hyperparameter: those given, else its default range or value.

    Args:
        given: values by name; a name left out has its default.
        problem_type: reconstruction sweeps `mse` as well.
        objective: dropout (`reg_rate`) is swept for `val_*` objectives only, since it raises any
            training error.
    """
    ranges = {**SWEPT, **{name: (value,) for name, value in FIXED.items()}}
    if problem_type == "reconstruction":
        ranges["algorithm"] = (*ranges["algorithm"], "mse")
    ranges["lr"] = DECADES
    ranges["reg_rate"] = DROPOUT_RATES if objective.startswith("val_") else DROPOUT_RATES[:1]
    return {name: tuple(given.get(name) or ranges[name]) for name in NAMES}


def single(given: Mapping[str, Sequence]) -> dict[str, tuple[Any, ...]]:
    """The same with one value each, for a single run: the one given, else the first."""
    ranges = {**choices(given, "classification", "loss"), "lr": given.get("lr") or (1e-3,)}
    return {name: tuple(values[:1]) for name, values in ranges.items()}
