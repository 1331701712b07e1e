"""The page's figures, as Bokeh draws them in the browser.

No text of the experiment is drawn but as the name of a curve, which Bokeh escapes: headings are HTML, and an
axis label may be mathematics to Bokeh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    Glyph,
    HoverTool,
    Line,
    Range1d,
    Scatter,
    Segment,
    VArea,
)
from bokeh.plotting import figure

from bpfree.reporting import courses, style
from bpfree.reporting.metrics import label, scaled

MOST_POINTS = 150  # of a curve: more than a phone has pixels for
_HEIGHT = 300
_WIDE_RANGE = 5  # from the least mean to the largest: a logarithmic axis shows more
_ASIDE = 0.035  # decades by which the outermost of several points at one learning rate is moved
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}
_BORDERS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"}
_GLYPHS = {None: "circle", "o": "circle", "^": "triangle", "s": "square"}
_SIGNS = {None: "", "o": "●", "^": "▲", "s": "■"}
_NAME, _MEAN = ("", "$name"), ("mean", "@mean{0.[0000]}")
_SPREAD = [("95 % interval", "@low{0.[0000]} to @high{0.[0000]}"), ("n", "@n")]


class Curve(NamedTuple):
    """A group's mean at places on the x axis, with its spread, and how it looks."""

    name: str
    points: pd.DataFrame  # index x; columns mean, low, high, n
    look: dict[str, Any]


@dataclass
class Chart:
    """A figure and what stands beside it.

    Attributes:
        title: of the figure.
        item: what `Bokeh.embed.embed_item` takes.
        looks: of its curves by name, for a legend.
    """

    title: str
    item: dict[str, Any]
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)


def curves(frame: pd.DataFrame, metric: str, by: str) -> list[Curve]:
    """The mean course of a metric over epochs, per group, thinned out to what can be seen."""
    values = pd.to_numeric(frame[metric], errors="coerce") if metric in frame else pd.Series()
    if not np.isfinite(values.astype(float)).any():
        return []
    frame = courses.numeric(frame, metric)
    return [
        Curve(name, _thinned(courses.course(group, metric)), look)
        for name, group, look in courses.groups(frame, metric, [by])
    ]


def histories(
    panels: Sequence[tuple[str, list[Curve]]], logarithmic: bool = False
) -> Iterator[Chart]:
    """Curves over epochs, in panels that share the y axis.

    Args:
        panels: title and curves of each.
        logarithmic: whether the axis may be, where every mean is positive.
    """
    means = pd.concat([curve.points["mean"] for _, drawn in panels for curve in drawn])
    scale, ends = _extent(means, logarithmic)
    for title, drawn in panels:
        plot = _figure(y_axis_type=scale, y_range=Range1d(*ends))
        plot.xaxis.axis_label = "epoch"
        plot.xaxis.ticker = BasicTicker(min_interval=1)
        for curve in drawn:
            _add_band(plot, curve, ends)
        for curve in drawn:
            _add_course(plot, curve)
        _hover(plot, [_NAME, ("epoch", "@x"), _MEAN, *_SPREAD], line_policy="nearest")
        yield _chart(title, plot, drawn)


def rates(frame: pd.DataFrame, metric: str, by: str, sign: int, tried: Sequence[float]) -> Chart:
    """A metric against the learning rate: the best trial at each rate, and the best rate as a star.

    Args:
        frame: rows of `results` of completed trials.
        metric: a column.
        by: the column of what competes.
        sign: 1 where less of the metric is better, else -1.
        tried: every learning rate of the grid.
    """
    frame = courses.numeric(frame, metric, whole_trials=True)
    found = [
        Curve(name, courses.best_per_rate(group, metric, sign), look)
        for name, group, look in courses.groups(frame, metric, [by])
    ]
    means = pd.concat([curve.points["mean"] for curve in found])
    scale, ends = _extent(means, logarithmic=True)
    across = Range1d(min(tried) / 1.8, max(tried) * 1.8)
    plot = _figure(y_axis_type=scale, y_range=Range1d(*ends), x_axis_type="log", x_range=across)
    _fix_ticks(plot.xaxis[0], sorted(tried))
    shifts = np.linspace(-_ASIDE, _ASIDE, len(found)) if len(found) > 1 else [0.0]
    for shift, curve in zip(shifts, found, strict=True):
        _add_rates(plot, curve, shift, ends, sign)
    tips = [_NAME, ("learning rate", "@rate{%g}"), _MEAN, *_SPREAD]
    _hover(plot, tips, Scatter, formatters={"@rate": "printf"})
    return _chart("", plot, found)


def costs(frame: pd.DataFrame, cost: str, metric: str, by: str, sign: int) -> Chart:
    """A metric against what the training cost: a point per trial, a line along each rule's front.

    Args:
        frame: rows of `results` of completed trials, of which some have measured the cost.
        cost: a column.
        metric: a column.
        by: the column of what competes.
        sign: 1 where less of the metric is better, else -1.
    """
    frame = courses.numeric(frame, metric, whole_trials=True).dropna(subset=cost)
    found = [
        Curve(name, courses.by_cost(group, cost, metric, sign).set_index("cost"), look)
        for name, group, look in courses.groups(frame, metric, [by])
    ]
    points = pd.concat([curve.points for curve in found])
    across, reach = _extent(points.index.to_series(), logarithmic=True)
    scale, ends = _extent(points["mean"], logarithmic=True)
    plot = _figure(
        x_axis_type=across, x_range=Range1d(*reach), y_axis_type=scale, y_range=Range1d(*ends)
    )
    if across == "linear":
        _round_ticks(plot.xaxis[0], reach[1])
    for curve in found:
        front = curve.points["front"]
        shown = curve.points[["mean", "n"]]
        _add(plot, curve, shown[~front], _marks(curve, size=4, fill_alpha=0.4, line_alpha=0.4))
        _add(plot, curve, shown[front], _line(curve))
        _add(plot, curve, shown[front], _marks(curve, size=7))
    tips = [_NAME, (label(cost), "@x{%.3g}"), _MEAN, ("n", "@n")]
    _hover(plot, tips, Scatter, formatters={"@x": "printf"})
    return _chart(f"against {label(cost)}", plot, found)


def information(frame: pd.DataFrame, blocks: Sequence[str], by: str) -> Iterator[Chart]:
    """nHSIC(Y; Z) against nHSIC(X; Z), a panel per block: from the first epoch (hollow) to the last."""
    for block in blocks:
        plot, drawn = _figure(), []
        plot.xaxis.axis_label, plot.yaxis.axis_label = "nHSIC(X; Z)", "nHSIC(Y; Z)"
        axes = [f"nhsic_{view}/{block}" for view in "xy"]
        for name, look, course in courses.joint_courses(frame, axes, [by]):
            if len(course):
                points = _thinned(course).set_axis(["x", "y"], axis=1).reset_index().set_index("x")
                drawn.append(Curve(name.rpartition(" (n=")[0], points, look))
                _add_path(plot, drawn[-1])
        tips = [_NAME, ("epoch", "@epoch"), ("X; Z", "@x{0.000}"), ("Y; Z", "@y{0.000}")]
        _hover(plot, tips)
        if drawn:
            yield _chart(block.replace("_", " "), plot, drawn)


def swatch(look: dict[str, Any]) -> dict[str, Any]:
    """How a legend in HTML shows a look; `ink` is black, and white in the dark."""
    color = look["color"]
    dash = _BORDERS[look.get("linestyle", "-")]
    return {
        "color": color,
        "ink": color == style.BLACK,
        "dash": dash,
        "sign": _SIGNS[look["marker"]],
    }


# -- parts of a figure ------------------------------------------------------------------------


def _figure(**options):
    plot = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        tools="xbox_zoom,reset,save",
        active_drag=None,  # a finger that drags scrolls the page
        active_scroll=None,
        toolbar_location="above",
        toolbar_inner=True,
        **options,
    )
    if options.get("y_axis_type") == "log":
        _plain_ticks(plot.yaxis[0], plot.y_range.start, plot.y_range.end)
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.xgrid.visible = False
    for axis in plot.axis:
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    return plot


def _extent(means: pd.Series, logarithmic: bool) -> tuple[str, tuple[float, float]]:
    """Scale and ends of an axis for means; intervals of few executions reach far beyond them."""
    low, high = float(means.min()), float(means.max())
    if logarithmic and low > 0 and high > _WIDE_RANGE * low:
        return "log", (low / 1.25, high * 1.25)
    bottom = min(low, 0.0)
    margin = 0.06 * (high - bottom) or 1.0
    return "linear", (bottom - margin * (low < 0), high + margin)


def _add_band(plot, curve: Curve, ends: tuple[float, float]) -> None:
    band = curve.points.dropna(subset=["low", "high"])[["low", "high"]].clip(*ends)
    if len(band) > 1:
        _add(plot, curve, band, VArea(x="x", y1="low", y2="high", fill_alpha=0.16))


def _add_course(plot, curve: Curve) -> None:
    whole = curve.points["n"] == curve.points["n"].max()
    if not whole.all():  # what is left of its executions is not the same mean
        _add(plot, curve, curve.points, _line(curve, line_alpha=0.35))
    _add(plot, curve, curve.points[whole], _line(curve))
    if curve.look["marker"] or len(curve.points) == 1:
        some = curve.points.iloc[:: max(1, len(curve.points) // 8)]
        _add(plot, curve, some, _marks(curve))


def _add_rates(plot, curve: Curve, shift: float, ends: tuple[float, float], sign: int) -> None:
    points = curve.points.assign(rate=curve.points.index)
    points.index = points.index * 10**shift  # else bars hide each other
    points["low"] = points["mean"] - points["half_width"]
    points["high"] = points["mean"] + points["half_width"]
    bars = points.dropna(subset=["low"])[["low", "high"]].clip(*ends)
    _add(plot, curve, bars, Segment(x0="x", x1="x", y0="low", y1="high"))
    _add(plot, curve, points, _line(curve))
    _add(plot, curve, points, _marks(curve))
    best = points.loc[[(sign * points["mean"]).idxmin()]]
    _add(plot, curve, best, _marks(curve, marker="star", size=17))


def _add_path(plot, curve: Curve) -> None:
    _add(plot, curve, curve.points, _line(curve, y="y"))
    _add(plot, curve, curve.points.iloc[[0]], _marks(curve, y="y", size=8), hollow=True)
    _add(plot, curve, curve.points.iloc[[-1]], _marks(curve, y="y", size=8))


def _line(curve: Curve, y: str = "mean", **options) -> Line:
    dash = _DASHES[curve.look["linestyle"]]
    return Line(x="x", y=y, line_width=2, line_dash=dash, **options)


def _marks(
    curve: Curve, y: str = "mean", size: int = 6, marker: str | None = None, **options
) -> Scatter:
    marker = marker or _GLYPHS[curve.look["marker"]]
    return Scatter(x="x", y=y, size=size, marker=marker, **options)


def _add(plot, curve: Curve, points: pd.DataFrame, glyph: Glyph, hollow: bool = False) -> None:
    """Adds a glyph in the curve's colour and under its name, by which the page shows and hides it.

    `plot.line` and its like make four more glyphs each, for selections that there are not.
    """
    color = curve.look["color"]
    if hasattr(glyph, "line_color"):
        glyph.line_color = color
    if hasattr(glyph, "fill_color"):
        glyph.fill_color = None if hollow else color
    if color == style.BLACK:
        glyph.tags = ["ink"]  # white in the dark
    plot.add_glyph(_source(points.reset_index(names="x")), glyph, name=curve.name)


def _source(points: pd.DataFrame) -> ColumnDataSource:
    """Columns as arrays; half the usual precision is more than can be seen."""
    columns = {
        str(name): values.to_numpy(np.int32 if values.dtype.kind == "i" else np.float32)
        for name, values in points.items()
    }
    return ColumnDataSource(columns)


def _hover(plot, tooltips: list[tuple[str, str]], kind: type[Glyph] = Line, **options) -> None:
    drawn = [renderer for renderer in plot.renderers if isinstance(renderer.glyph, kind)]
    plot.add_tools(HoverTool(tooltips=tooltips, renderers=drawn, visible=False, **options))


def _plain_ticks(axis, low: float, high: float) -> None:
    """Numbers along a logarithmic axis: 1, 2 and 5 of each decade, or only 1 where decades are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
    _fix_ticks(axis, [tick for tick in ticks if low <= tick <= high])


def _round_ticks(axis, high: float) -> None:
    """Three to five round numbers from 0 on along a linear axis, with a prefix of the SI."""
    decade = 10.0 ** math.floor(math.log10(high))
    step = decade * (0.5 if high < 2 * decade else 1 if high < 5 * decade else 2)
    _fix_ticks(axis, [step * count for count in range(int(high / step) + 1)], scaled)


def _fix_ticks(axis, ticks: Sequence[float], text: Callable[[float], str] = "{:g}".format) -> None:
    axis.ticker = FixedTicker(ticks=list(ticks))
    axis.major_label_overrides = {tick: text(tick) for tick in ticks}


def _chart(title: str, plot, drawn: Sequence[Curve]) -> Chart:
    return Chart(title, json_item(plot), {curve.name: curve.look for curve in drawn})


def _thinned(points: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_POINTS` rows, evenly spread, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    return points.iloc[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]
