"""Means and spreads of groups of executions: what every figure draws, on paper and on the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting import style
from bpfree.tuning.statistics import summary

EXECUTION = ["project", "trial", "execution"]


def numeric(frame: pd.DataFrame, metric: str, whole_trials: bool = False) -> pd.DataFrame:
    """The projects that measure it, with NaN for what is no finite number, or its whole trial."""
    values = pd.to_numeric(frame[metric], errors="coerce").astype(float)
    finite = np.isfinite(values)
    if whole_trials:
        finite = finite.groupby([frame["project"], frame["trial"]]).transform("all")
    frame = frame.assign(**{metric: values.where(finite)})
    frame = frame[frame.groupby("project")[metric].transform("count") > 0]
    if frame.empty:
        raise UserError(f"Column {metric!r} holds no number yet: choose another one or wait.")
    return frame


def groups(
    frame: pd.DataFrame, metric: str, columns: list[str]
) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows and look of each group that holds a number."""
    rows = dict(list(frame.groupby(columns, dropna=False)))
    order = style.in_order([values for values in rows if rows[values][metric].count()])
    for values, look in zip(order, style.looks(order, columns), strict=True):
        yield ", ".join(map(text, values)), rows[values], look


def text(value: Any) -> str:
    """A value of a column for a reader; "none" for a missing one."""
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def course(group: pd.DataFrame, metric: str, spread: str = "interval") -> pd.DataFrame:
    """`mean`, ends `low` and `high` of the band, and number `n` of values at each epoch that has one."""
    epochs = group.dropna(subset=metric).groupby("epoch")[metric]
    found = epochs.agg(["mean", "std", "count", "min", "max"]).rename(columns={"count": "n"})
    width = found["std"]
    if spread == "interval":  # that of `summary`, of all epochs at once
        from scipy.special import stdtrit

        width = stdtrit((found["n"] - 1).clip(lower=1), 0.975) * width / np.sqrt(found["n"])
    ends = (found["mean"] - width, found["mean"] + width)
    if spread == "range":
        ends = (found["min"], found["max"])
    return found[["mean"]].assign(low=ends[0], high=ends[1], n=found["n"]).rename_axis(None)


def joint_courses(
    frame: pd.DataFrame, axes: list[str], columns: list[str]
) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Name, look and mean course of each group, over the epochs that all its executions have."""
    for axis in axes:
        frame = numeric(frame, axis)
    for name, group, look in groups(frame, axes[0], columns):
        group = group.dropna(subset=axes)
        executions = len(group[EXECUTION].drop_duplicates())
        epochs = group.groupby("epoch")[axes]
        yield f"{name} (n={executions})", look, epochs.mean()[epochs.size() == executions]


def best_per_rate(group: pd.DataFrame, metric: str, sign: int) -> pd.DataFrame:
    """Summary of the best trial at each learning rate; NaN where all have diverged."""
    points = {}
    for rate, executions in group.groupby("lr"):
        trials = executions.groupby(["project", "trial"])[metric]
        summaries = [summary(values) for _, values in trials]
        points[rate] = min(summaries, key=lambda s: math.inf if s.mean != s.mean else sign * s.mean)
    return pd.DataFrame(points.values(), index=list(points))


def by_cost(group: pd.DataFrame, cost: str, metric: str, sign: int) -> pd.DataFrame:
    """Each trial's mean `cost`, `mean` and number `n`, the cheapest first; `front`: whether nothing that
    costs as little is as good.
    """
    trials = group.dropna(subset=[cost, metric]).groupby(["project", "trial"])
    points = trials.agg(cost=(cost, "mean"), mean=(metric, "mean"), n=(metric, "count"))
    points = points.assign(loss=sign * points["mean"]).sort_values(["cost", "loss"])
    best_before = points["loss"].cummin().shift(fill_value=math.inf)
    return points.assign(front=points["loss"] < best_before).drop(columns="loss")


def problem(frame: pd.DataFrame) -> str:
    """The problem that all rows share, which decides the unit of an error."""
    problems = set(frame["problem_type"]) if "problem_type" in frame else set()
    return "reconstruction" if problems == {"reconstruction"} else "classification"
