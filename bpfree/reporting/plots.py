"""Figures of histories and results, for papers: no state of pyplot is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting import style
from bpfree.reporting.courses import (
    EXECUTION,
    best_per_rate,
    by_cost,
    course,
    groups,
    joint_courses,
    numeric,
    problem,
)
from bpfree.reporting.frames import require
from bpfree.reporting.metrics import label
from bpfree.reporting.ranking import completed
from bpfree.tuning.objective import direction
from bpfree.tuning.statistics import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MOST_INSIDE = 5  # legend entries that fit among curves
_SPREADS = ("interval", "std", "range")
_PANELS_IN_A_ROW = 3
_LIGHTEST = 0.3  # share of a colour in the first epoch; the last one has all of it
_PROBE = "linear_probe"


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
    frame = numeric(frame, metric)
    ax = _axes(ax)
    for name, group, look in groups(frame, metric, columns):
        executions = len(group[EXECUTION].drop_duplicates())
        curve = course(group, metric, spread)
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
    ax.set(xlabel="epoch", ylabel=label(metric, problem(frame)))
    ax.margins(x=0.01)
    return _finish(ax, columns)


def _bound(ax: Axes, values: pd.Series) -> None:
    """Keeps the view where values are: an interval of few executions reaches far beyond."""
    low, high = ax.get_ylim()
    if values.min() >= 0 > low:
        ax.set_ylim(bottom=0)
    if math.isfinite(values.max()):
        ax.set_ylim(top=min(high, values.max() + 0.05 * abs(values.max())))


def plot_learning_rates(
    frame: pd.DataFrame,
    metric: str = "val_error",
    by: str | Sequence[str] = "algorithm",
    ax: Axes | None = None,
) -> Figure:
    """A metric against the learning rate, one curve per group, its best point marked by a star.

    Where several trials share group and learning rate, the one with the best mean stands for them.
    Bars are 95 % Student t intervals over executions. A trial of which an execution failed or diverged
    to NaN is left out.

    Args:
        frame: from `results`, or a part of it; trials that are not completed are left out.
        metric: a column.
        by: the column or columns whose values make a group.
        ax: where to draw; a figure of its own otherwise.

    Raises:
        UserError: no such column, or no value to draw.
    """
    from matplotlib.ticker import NullLocator

    columns = _columns(by)
    require(frame, ["lr", "state", "finished", metric, *columns])
    frame = numeric(completed(frame), metric, whole_trials=True)
    sign = -1 if direction(metric) == "max" else 1
    ax = _axes(ax)
    for name, group, look in groups(frame, metric, columns):
        points = best_per_rate(group, metric, sign)
        n = " to ".join(map(str, sorted({points["n"].min(), points["n"].max()})))
        bars = {"yerr": points["half_width"], "capsize": 2, "elinewidth": 1, "markersize": 4}
        ax.errorbar(points.index, points["mean"], **bars, **look, label=f"{name} (n={n})")
        best = points.loc[[(sign * points["mean"]).idxmin()]]
        star = {"marker": "*", "markersize": 10, "markeredgecolor": "white", "markeredgewidth": 0.5}
        ax.plot(best.index, best["mean"], color=look["color"], linestyle="none", zorder=3, **star)
    ax.set(xscale="log", xlabel=label("lr"), ylabel=label(metric, problem(frame)))
    ax.xaxis.set_minor_locator(NullLocator())
    return _finish(ax, columns)


def plot_costs(
    frame: pd.DataFrame,
    cost: str = "train_flops",
    metric: str = "val_error",
    by: str | Sequence[str] = "algorithm",
    ax: Axes | None = None,
) -> Figure:
    """A metric against what the training cost: a faint point per trial, a line along each group's front.

    On the front are the trials of which no other one of the group is as good for as little. A trial of
    which an execution failed or diverged to NaN is left out.

    Args:
        frame: from `results`, or a part of it; trials that are not completed are left out.
        cost: a column, such as `train_flops`, `seconds`, `energy` or `peak_device_memory`.
        metric: a column.
        by: the column or columns whose values make a group.
        ax: where to draw; a figure of its own otherwise.

    Raises:
        UserError: no such column, or no value to draw: the cost was not measured.
    """
    columns = _columns(by)
    require(frame, ["state", "finished", cost, metric, *columns])
    frame = numeric(completed(frame), metric, whole_trials=True)
    if not frame[cost].count():
        raise UserError(f"{cost} was not measured in these trainings: choose another cost.")
    sign = -1 if direction(metric) == "max" else 1
    ax = _axes(ax)
    for name, group, look in groups(frame.dropna(subset=cost), metric, columns):
        points = by_cost(group, cost, metric, sign)
        mark = look["marker"] or "o"
        cloud = {"linestyle": "none", "markersize": 3, "alpha": 0.35, "markeredgewidth": 0}
        ax.plot(points["cost"], points["mean"], color=look["color"], marker=mark, **cloud)
        front = points[points["front"]]
        line = {**look, "marker": mark, "markersize": 4}
        ax.plot(front["cost"], front["mean"], **line, label=name)
    if frame[cost].min() > 0:
        ax.set_xscale("log")
    ax.set(xlabel=label(cost), ylabel=label(metric, problem(frame)))
    return _finish(ax, columns)


def plot_information_plane(
    frame: pd.DataFrame,
    by: str | Sequence[str] = "algorithm",
    blocks: Sequence[int] | None = None,
) -> Figure:
    """What each block keeps of the labels, nHSIC(Y; Z), against what it keeps of the inputs, nHSIC(X; Z).

    One panel per block; in it one course per group, a mean over its executions: from the first epoch
    (light, hollow marker) to the last that all of them have reached (dark, filled marker). Epochs are
    shaded by their logarithm, since most happens in the first. For runs with `--tracker nhsic`.

    Args:
        frame: from `histories`, or a part of it: all its executions enter the means.
        by: the column or columns whose values make a group.
        blocks: the numbers of the blocks to show, from 1; all that were measured otherwise.

    Raises:
        UserError: no such column or block, or no value to draw.
    """
    from matplotlib.colors import LogNorm

    columns = _columns(by)
    require(frame, ["epoch", *columns])
    courses = {
        block: list(joint_courses(frame, [f"nhsic_{view}/block_{block}" for view in "xy"], columns))
        for block in _measured_blocks(frame, "nhsic", "nhsic_x", blocks)
    }
    epochs = [epoch for found in courses.values() for *_, c in found for epoch in c.index]
    shade = LogNorm(min(epochs), max(epochs))
    figure, panels = _panels(len(courses))
    handles = {}
    for ax, (block, found) in zip(panels, courses.items(), strict=True):
        ax.set_title(f"block {block}", fontsize="medium")
        for name, look, means in found:
            handles[name] = _draw_course(ax, means, look, shade)
        ax.autoscale_view()
    figure.supxlabel("nHSIC(X; Z)", fontsize="medium")
    figure.supylabel("nHSIC(Y; Z)", fontsize="medium")
    _shading_bar(figure, panels, shade)
    _legend_beside(figure, handles, columns)
    return figure


def _draw_course(ax: Axes, course: pd.DataFrame, look: dict[str, Any], shade: Normalize) -> Line2D:
    """Draws a course, darkening with its epochs, and returns its entry in a legend."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    points = course.to_numpy()
    colors = _shades(look["color"])(shade(course.index.to_numpy(float)))
    segments = np.stack([points[:-1], points[1:]], axis=1)
    ax.add_collection(
        LineCollection(segments, colors=colors[1:], linestyles=look["linestyle"], linewidths=1.5)
    )
    ends = {"marker": look["marker"] or "o", "markersize": 4.5, "linestyle": "none"}
    ax.plot(*points[0], color=colors[0], markerfacecolor="white", markeredgewidth=1.2, **ends)
    ax.plot(*points[-1], color=colors[-1], zorder=3, **ends)
    return Line2D([], [], **{**look, "marker": ends["marker"], "markersize": 4.5})


def _shades(color: str):
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    light = 1 - _LIGHTEST * (1 - np.array(to_rgb(color)))
    return LinearSegmentedColormap.from_list(color, [tuple(light), color])


def _shading_bar(figure: Figure, panels: list[Axes], shade: Normalize) -> None:
    """A bar that says which shade is which epoch, in grey for all colours."""
    from matplotlib.cm import ScalarMappable

    ticks = sorted({round(epoch) for epoch in np.geomspace(shade.vmin, shade.vmax, 4)})
    bar = figure.colorbar(ScalarMappable(shade, _shades(style.BLACK)), ax=panels, label="epoch")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_ticks(ticks, map(str, ticks))
    bar.ax.yaxis.set_ticks([], minor=True)


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels with axes in common."""
    from matplotlib.figure import Figure

    down = math.ceil(n / _PANELS_IN_A_ROW)
    across = math.ceil(n / down)
    size = (2.0 * across + 2.0, 1.9 * down + 0.6)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in grid[n:]:
        ax.remove()
    for ax in grid[:n]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelbottom=ax in grid[max(0, n - across) : n])
    return figure, list(grid[:n])


def plot_alignment(
    frame: pd.DataFrame,
    metric: str = "bp_cosine",
    by: str | Sequence[str] = "algorithm",
    spread: str = "interval",
) -> Figure:
    """The cosine between what a rule does and what it might, layer by layer, over epochs.

    One panel per block, and one of the head; in it one curve per group, as in `plot_histories`.
    `bp_cosine` is that of a rule's gradients with backpropagation's, `weight_alignment` that of the
    forward kernels with what the feedback asks of them. For runs with the tracker of that name.

    Args:
        frame: from `histories`, or a part of it: all its executions enter the means.
        metric: `bp_cosine`, `weight_alignment`, or whatever else has columns like `bp_cosine/block_1`.
        by: the column or columns whose values make a group.
        spread: "interval" (95 % Student t, over executions), "std" or "range" (lowest to highest).

    Raises:
        UserError: no such column or spread, or no value to draw.
    """
    places = [f"{metric}/block_{block}" for block in _blocks(frame, metric)]
    head = f"{metric}/head"
    places += [head] if head in frame and frame[head].count() else []
    if not places:
        raise _untracked(metric, metric)
    figure, panels = _panels(len(places))
    handles = {}
    for ax, place in zip(panels, places, strict=True):
        plot_histories(frame, place, by, ax, spread)
        ax.get_legend().remove()
        ax.axhline(0, color=style.GREY, linewidth=0.8, zorder=0)
        ax.set_title(place.partition("/")[2].replace("_", " "), fontsize="medium")
        ax.set(xlabel="", ylabel="")
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    low, high = (end(ax.dataLim.intervaly[n] for ax in panels) for n, end in enumerate((min, max)))
    margin = 0.05 * (max(high, 0) - min(low, 0))
    bottom, top = _held(frame[places])
    panels[0].set_ylim(max(bottom, min(low, 0) - margin), min(top, max(high, 0) + margin))
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel(label(metric), fontsize="medium")
    _legend_beside(figure, handles, _columns(by))
    return figure


def _held(values: pd.DataFrame) -> tuple[float, float]:
    """The ends that a view has at most: those of cosines, else those of the values, and 0."""
    values = values.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    values = values[np.isfinite(values)]
    if (abs(values) <= 1.05).all():
        return -1.05, 1.05
    return 1.05 * min(values.min(), 0), 1.05 * max(values.max(), 0)


def plot_probes(
    frame: pd.DataFrame,
    by: str | Sequence[str] = "algorithm",
    epoch: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The error of a linear probe of each block against the block's depth, one curve per group.

    Bars are 95 % Student t intervals over executions. For runs with `--tracker linear_probe`; one
    block's course over epochs is `plot_histories(frame, "linear_probe/block_1")`.

    Args:
        frame: from `histories`, or a part of it: all its executions enter the means.
        by: the column or columns whose values make a group.
        epoch: from 1; the last one of each execution otherwise.
        ax: where to draw; a figure of its own otherwise.

    Raises:
        UserError: no such column or epoch, or no value to draw.
    """
    columns = _columns(by)
    require(frame, ["epoch", *columns])
    blocks = _measured_blocks(frame, _PROBE, _PROBE)
    chosen = frame.groupby(EXECUTION)["epoch"].transform("max") if epoch is None else epoch
    frame = frame[frame["epoch"] == chosen]
    require(frame, [])
    by_depth = [
        frame.assign(block=block, **{_PROBE: frame[f"{_PROBE}/block_{block}"]}) for block in blocks
    ]
    frame = numeric(pd.concat(by_depth), _PROBE).dropna(subset=_PROBE)
    ax = _axes(ax)
    drawn = list(groups(frame, _PROBE, columns))
    aside = np.linspace(-0.1, 0.1, len(drawn)) if len(drawn) > 1 else [0.0]
    for shift, (name, group, look) in zip(aside, drawn, strict=True):
        means = {block: summary(values) for block, values in group.groupby("block")[_PROBE]}
        points = pd.DataFrame(means.values(), index=list(means))
        points.index += shift  # else bars hide each other
        n = " to ".join(map(str, sorted({points["n"].min(), points["n"].max()})))
        bars = {"yerr": points["half_width"], "capsize": 2, "elinewidth": 1, "markersize": 4}
        line = {**look, "marker": look["marker"] or "o"}
        ax.errorbar(points.index, points["mean"], **bars, **line, label=f"{name} (n={n})")
    ax.set(xlabel="block", ylabel="error of a linear probe (%)", xticks=blocks)
    ax.set_ylim(bottom=0)
    _bound(ax, frame[_PROBE])
    return _finish(ax, columns, most_inside=0)


def _measured_blocks(
    frame: pd.DataFrame, tracker: str, name: str, wanted: Sequence[int] | None = None
) -> list[int]:
    """The numbers of the blocks for which `name/block_<number>` holds values."""
    found = _blocks(frame, name)
    if not found:
        raise _untracked(tracker, name)
    for block in wanted or ():
        if block not in found:
            there = ", ".join(map(str, found))
            raise UserError(f"There is no block {block!r} with values: choose among {there}.")
    return list(wanted or found)


def _blocks(frame: pd.DataFrame, name: str) -> list[int]:
    matches = (re.fullmatch(rf"{name}/block_(\d+)", str(column)) for column in frame)
    return sorted(int(match[1]) for match in matches if match and frame[match[0]].count())


def _untracked(tracker: str, name: str) -> UserError:
    return UserError(f"The frame holds no {name}/block_1: train with --tracker {tracker}.")


def _columns(by: str | Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5.5, 3.4), dpi=150, layout="constrained").add_subplot()
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def _finish(ax: Axes, columns: list[str], most_inside: int = _MOST_INSIDE) -> Figure:
    legend = _legend_look(columns)
    if len(ax.get_legend_handles_labels()[0]) > most_inside:
        legend |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(**legend)
    return ax.figure


def _legend_beside(figure: Figure, handles: dict[str, Line2D], columns: list[str]) -> None:
    """One legend for all panels, by name."""
    look = _legend_look(columns)
    figure.legend(handles.values(), handles, loc="outside right upper", **look)


def _legend_look(columns: list[str]) -> dict[str, Any]:
    return {"title": ", ".join(map(label, columns)), "frameon": False, "alignment": "left"}
