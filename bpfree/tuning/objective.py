"""Objectives: what a search is for, which way is better, and what a trial has of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bpfree.errors import UserError
from bpfree.tuning.records import Trial

COSTS = ("seconds", "train_flops", "energy", "peak_host_memory", "peak_device_memory")
"""What may be an objective beside a metric: a training's costs, see `bpfree.costs`."""

_HIGHER_IS_BETTER = ("accuracy", "acc", "auc", "precision", "recall", "f1", "cosine")
_METRICS = {
    "classification": ("loss", "error", "accuracy"),
    "reconstruction": ("loss", "error"),
}


def direction(name: str) -> str:
    """`"max"` for a metric that grows as training succeeds, by its name, else `"min"`."""
    parts = name.replace("/", "_").split("_")
    return "max" if any(part in _HIGHER_IS_BETTER for part in parts) else "min"


def check(names: Sequence[str], problem_type: str, validation: float) -> None:
    """Raises a UserError unless runs of the command line have these objectives.

    Args:
        names: e.g. `val_error`, and others beside it.
        problem_type: `classification` or `reconstruction`.
        validation: the fraction held out; 0 means that no `val_*` is logged.
    """
    check_order(names)
    metrics = [prefix + metric for prefix in ("", "val_") for metric in _METRICS[problem_type]]
    for place, name in enumerate(names):
        known = (*metrics, *COSTS) if place else metrics
        if name not in known:
            raise UserError(
                f"Unknown objective {name!r} for {problem_type}: choose one of {', '.join(known)}."
            )
        if name.startswith("val_") and not validation:
            raise UserError(
                f"The objective {name!r} needs validation data, and validation is 0: hold out a "
                f"fraction, e.g. 0.1, or choose {name.removeprefix('val_')!r}."
            )


def check_order(names: Sequence[str]) -> None:
    """Raises a UserError where one is named twice, or a cost comes first."""
    if names[0] in COSTS:
        raise UserError(
            f"The first objective scores epochs and trials, which {names[0]!r} cannot: name a metric "
            "first, e.g. 'val_error', and the cost after it."
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"The objective {name!r} is named twice: name each once.")


def measured(trial: Trial, names: Collection[str]) -> dict[str, float]:
    """What a completed trial has of metrics and costs: the mean over its executions.

    What an execution lacks, or has not as a finite number, the trial has not.

    Args:
        trial: on record.
        names: metrics, of which the value at the epoch that an execution is scored by counts, or `COSTS`.
    """
    if not names or trial.state != "completed":
        return {}
    results = [execution.result() or {} for execution in trial.executions()]
    found = {name: [_value(result, name) for result in results] for name in names}
    return {name: fmean(values) for name, values in found.items() if values and _finite(values)}


def _value(result: Mapping[str, Any], name: str) -> Any:
    return (result if name in COSTS else result.get("metrics", {})).get(name)


def _finite(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
