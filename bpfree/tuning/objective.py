"""Objectives: which way is better."""

from __future__ import annotations

from bpfree.errors import UserError

_HIGHER_IS_BETTER = ("accuracy", "acc", "auc", "precision", "recall", "f1", "cosine")
_METRICS = {
    "classification": ("loss", "error", "accuracy"),
    "reconstruction": ("loss", "error"),
}


def direction(name: str) -> str:
    """`"max"` for a metric that grows as training succeeds, by its name, else `"min"`."""
    parts = name.replace("/", "_").split("_")
    return "max" if any(part in _HIGHER_IS_BETTER for part in parts) else "min"


def check(objective: str, problem_type: str, validation: float) -> None:
    """Raises a UserError unless runs of the command line log a metric of that name.

    Args:
        objective: e.g. `val_error`.
        problem_type: `classification` or `reconstruction`.
        validation: the fraction held out; 0 means that no `val_*` is logged.
    """
    names = [prefix + metric for prefix in ("", "val_") for metric in _METRICS[problem_type]]
    if objective not in names:
        raise UserError(
            f"Unknown objective {objective!r} for {problem_type}: choose one of {', '.join(names)}."
        )
    if objective.startswith("val_") and not validation:
        raise UserError(
            f"The objective {objective!r} needs validation data, and validation is 0: hold out a "
            f"fraction, e.g. 0.1, or choose {objective.removeprefix('val_')!r}."
        )
