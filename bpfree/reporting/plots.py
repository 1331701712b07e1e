"""Figures of histories and results, for papers: no state of pyplot is touched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting import style
from bpfree.reporting.frames import require
from bpfree.reporting.metrics import label
from bpfree.tuning.objective import direction
from bpfree.tuning.statistics import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EXECUTION = ["project", "trial", "execution"]
_MOST_INSIDE = 5  # legend entries that fit among curves
_SPREADS = ("interval", "std", "range")


def plot_histories(
    frame: pd.DataFrame,
    metric: str = "val_error",
    by: str | Sequence[str] = "algorithm",
    ax: Axes | None = None,
    spread: str = "interval",
) -> Figure:
    """The mean course of a metric over epochs, one curve per group, with its spread as a band.

    A curve is faint from where some of its executions have no value any more (stopped early,
    diverged): what is left of them is not the same mean.

    Args:
        frame: from `histories`, or a part of it: all its executions enter the means.
        metric: a column.
        by: the column or columns whose values make a group.
        ax: where to draw; a figure of its own otherwise.
        spread: "interval" (95 % Student t, over executions), "std" or "range" (lowest to highest).

    Raises:
        UserError: no such column or spread, or no value to draw.
    """
    from matplotlib.ticker import MaxNLocator

    if spread not in _SPREADS:
        raise UserError(f"Unknown spread {spread!r}: choose one of {', '.join(_SPREADS)}.")
    columns = _columns(by)
    require(frame, ["epoch", metric, *columns])
    frame = _numeric(frame, metric)
    ax = _axes(ax)
    for name, group, look in _groups(frame, metric, columns):
        executions = len(group[_EXECUTION].drop_duplicates())
        curve = _course(group, metric, spread)
        shared = curve["mean"].where(curve["n"] == executions)
        line = {**look, "markevery": max(1, len(curve) // 8), "markersize": 4}
        if len(curve) == 1:
            line["marker"] = look["marker"] or "o"
        if shared.isna().any():
            ax.plot(curve.index, curve["mean"], **{**line, "alpha": 0.4, "marker": None})
        ax.plot(curve.index, shared, **line, label=f"{name} (n={executions})")
        band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
        ax.fill_between(curve.index, curve["low"], curve["high"], **band)
    _bound(ax, frame[metric])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=label(metric, _problem(frame)))
    ax.margins(x=0.01)
    return _finish(ax, columns)


def _bound(ax: Axes, values: pd.Series) -> None:
    """Keeps the view where values are: an interval of few executions reaches far beyond."""
    low, high = ax.get_ylim()
    if values.min() >= 0 > low:
        ax.set_ylim(bottom=0)
    if math.isfinite(values.max()):
        ax.set_ylim(top=min(high, values.max() + 0.05 * abs(values.max())))


def _problem(frame: pd.DataFrame) -> str:
    """The problem that all rows share, which decides the unit of an error."""
    problems = set(frame["problem_type"]) if "problem_type" in frame else set()
    return "reconstruction" if problems == {"reconstruction"} else "classification"


def plot_learning_rates(
    frame: pd.DataFrame,
    metric: str = "val_error",
    by: str | Sequence[str] = "algorithm",
    ax: Axes | None = None,
) -> Figure:
    """A metric against the learning rate, one curve per group, its best point marked by a star.

    Where several trials share group and learning rate, the one with the best mean stands for them.
    Bars are 95 % Student t intervals over executions. A trial of which an execution diverged to NaN
    is left out.

    Args:
        frame: from `results`, or a part of it; unfinished executions are left out.
        metric: a column.
        by: the column or columns whose values make a group.
        ax: where to draw; a figure of its own otherwise.

    Raises:
        UserError: no such column, or no value to draw.
    """
    from matplotlib.ticker import NullLocator

    columns = _columns(by)
    require(frame, ["lr", "finished", metric, *columns])
    frame = _numeric(frame[frame["finished"]], metric, whole_trials=True)
    sign = -1 if direction(metric) == "max" else 1
    ax = _axes(ax)
    for name, group, look in _groups(frame, metric, columns):
        points = _best_per_rate(group, metric, sign)
        n = " to ".join(map(str, sorted({points["n"].min(), points["n"].max()})))
        bars = {"yerr": points["half_width"], "capsize": 2, "elinewidth": 1, "markersize": 4}
        ax.errorbar(points.index, points["mean"], **bars, **look, label=f"{name} (n={n})")
        best = points.loc[[(sign * points["mean"]).idxmin()]]
        star = {"marker": "*", "markersize": 10, "markeredgecolor": "white", "markeredgewidth": 0.5}
        ax.plot(best.index, best["mean"], color=look["color"], linestyle="none", zorder=3, **star)
    ax.set(xscale="log", xlabel=label("lr"), ylabel=label(metric, _problem(frame)))
    ax.xaxis.set_minor_locator(NullLocator())
    return _finish(ax, columns)


def _columns(by: str | Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _numeric(frame: pd.DataFrame, metric: str, whole_trials: bool = False) -> pd.DataFrame:
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


def _groups(
    frame: pd.DataFrame, metric: str, columns: list[str]
) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows and look of each group that holds a number."""
    groups = dict(list(frame.groupby(columns, dropna=False)))
    order = style.in_order([values for values in groups if groups[values][metric].count()])
    for values, look in zip(order, style.looks(order, columns), strict=True):
        yield ", ".join(map(_value, values)), groups[values], look


def _value(value: Any) -> str:
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _course(group: pd.DataFrame, metric: str, spread: str) -> pd.DataFrame:
    """Mean, ends of the band and number of values at each epoch that has one."""
    rows = {}
    for epoch, values in group.dropna(subset=metric).groupby("epoch")[metric]:
        s = summary(values)
        width = s.half_width if spread == "interval" else s.std
        low, high = s.mean - width, s.mean + width
        if spread == "range":
            low, high = values.min(), values.max()
        rows[epoch] = {"mean": s.mean, "low": low, "high": high, "n": s.n}
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def _best_per_rate(group: pd.DataFrame, metric: str, sign: int) -> pd.DataFrame:
    """Summary of the best trial at each learning rate; NaN where all have diverged."""
    points = {}
    for rate, executions in group.groupby("lr"):
        trials = executions.groupby(["project", "trial"])[metric]
        summaries = [summary(values) for _, values in trials]
        points[rate] = min(summaries, key=lambda s: math.inf if s.mean != s.mean else sign * s.mean)
    return pd.DataFrame(points.values(), index=list(points))


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5.5, 3.4), dpi=150, layout="constrained").add_subplot()
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def _finish(ax: Axes, columns: list[str]) -> Figure:
    legend = {"title": ", ".join(map(label, columns)), "frameon": False, "alignment": "left"}
    if len(ax.get_legend_handles_labels()[0]) > _MOST_INSIDE:
        legend |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(**legend)
    return ax.figure
