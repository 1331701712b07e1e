"""The page's figures, as Bokeh draws them in the browser.

No text of the experiment is drawn but as the name of a curve, which Bokeh escapes: headings are HTML, and an
axis label may be mathematics to Bokeh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from bokeh.embed import json_item
from bokeh.models import BasicTicker, FixedTicker, HoverTool, Range1d
from bokeh.plotting import figure

from bpfree.reporting import courses, style

MOST_POINTS = 150  # of a curve: more than a phone has pixels for
_HEIGHT = 300
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}
_GLYPHS = {None: "circle", "o": "circle", "^": "triangle", "s": "square"}


@dataclass
class Chart:
    """A figure and the words around it.

    Attributes:
        title: of the figure.
        item: what `Bokeh.embed.embed_item` takes.
        curves: name and look of each curve, for a legend.
        note: what a reader must know about it.
    """

    title: str
    item: dict[str, Any]
    curves: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    note: str = ""


@dataclass
class Curve:
    """A group's mean at places on the x axis, with its spread, and how it looks."""

    name: str
    points: pd.DataFrame  # index x; columns mean, low, high, n
    look: dict[str, Any]


def curves(frame: pd.DataFrame, metric: str, by: str) -> list[Curve]:
    """The mean course of a metric over epochs, per group, thinned out to what can be seen."""
    if metric not in frame or not pd.to_numeric(frame[metric], errors="coerce").notna().any():
        return []
    frame = courses.numeric(frame, metric)
    found = courses.groups(frame, metric, [by])
    return [
        Curve(name, _thinned(courses.course(group, metric)), look) for name, group, look in found
    ]


def histories(
    panels: Sequence[tuple[str, list[Curve]]], unit: str = "", logarithmic: bool = False
) -> list[Chart]:
    """Curves over epochs in panels that share the y axis; it is logarithmic where every mean is positive.

    Args:
        panels: title and curves of each.
        unit: of the values, for the tooltip.
        logarithmic: whether it may be.
    """
    means = pd.concat([curve.points["mean"] for _, drawn in panels for curve in drawn])
    logarithmic = logarithmic and means.min() > 0 and means.max() > 4 * means.min()
    low, high = means.min(), means.max()
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low / 1.15, high * 1.15) if logarithmic else (low - margin, high + margin)
    if low >= 0 and not logarithmic:
        ends = (0.0, ends[1])
    charts = []
    for title, drawn in panels:
        plot = _figure(ends, "log" if logarithmic else "linear")
        plot.xaxis.axis_label = "epoch"
        plot.xaxis.ticker = BasicTicker(min_interval=1)
        tips = [("", "$name"), ("epoch", "@x"), ("mean", f"@mean{{0.[0000]}}{unit}")]
        tips += [("95 % interval", "@low{0.[0000]} to @high{0.[0000]}"), ("n", "@n")]
        _add_curves(plot, drawn, ends)
        _hover(plot, tips, line_policy="nearest", mode="mouse")
        charts.append(Chart(title, _item(plot), [(c.name, c.look) for c in drawn]))
    return charts


def rates(frame: pd.DataFrame, metric: str, by: str, sign: int, tried: Sequence[float]) -> Chart:
    """A metric against the learning rate: the best trial at each rate, its best one as a star.

    Args:
        frame: rows of `results` of completed trials.
        metric: a column.
        by: the column of what competes.
        sign: 1 where less of the metric is better, else -1.
        tried: every learning rate of the grid.
    """
    frame = courses.numeric(frame, metric, whole_trials=True)
    found = [
        Curve(name, _with_ends(courses.best_per_rate(group, metric, sign)), look)
        for name, group, look in courses.groups(frame, metric, [by])
    ]
    means = pd.concat([curve.points["mean"] for curve in found]).dropna()
    log = means.min() > 0 and means.max() > 5 * means.min()
    margin = 0.08 * (means.max() - means.min()) or 0.05 * abs(means.max()) or 1.0
    ends = (
        (means.min() / 1.3, means.max() * 1.3)
        if log
        else (means.min() - margin, means.max() + margin)
    )
    plot = _figure(ends, "log" if log else "linear", "log")
    plot.x_range = Range1d(min(tried) / 1.8, max(tried) * 1.8)
    plot.xaxis.axis_label = "learning rate"
    plot.xaxis.ticker = FixedTicker(ticks=sorted(tried))
    plot.xaxis.major_label_overrides = {rate: f"{rate:g}" for rate in tried}
    aside = np.linspace(-0.035, 0.035, len(found)) if len(found) > 1 else [0.0]
    for shift, curve in zip(aside, found, strict=True):
        points = curve.points.assign(rate=curve.points.index)
        points.index = points.index * 10**shift  # else bars hide each other
        bars = points.dropna(subset=["low"]).reset_index(names="x")
        bars = bars.assign(low=bars["low"].clip(*ends), high=bars["high"].clip(*ends))
        ink = _ink(curve.look)
        plot.segment("x", "low", "x", "high", source=_source(bars), name=curve.name, **ink)
        _add_line(plot, curve.name, points, curve.look)
        _add_markers(plot, curve.name, points, curve.look, size=6)
        best = points.loc[[(sign * points["mean"]).idxmin()]]
        _scatter(plot, curve.name, best, curve.look, marker="star", size=17)
    tips = [("", "$name"), ("learning rate", "@rate{%g}"), ("mean", "@mean{0.[0000]}")]
    tips += [("95 % interval", "@low{0.[0000]} to @high{0.[0000]}"), ("n", "@n")]
    _hover(plot, tips, formatters={"@rate": "printf"}, kind="Scatter")
    return Chart("", _item(plot), [(c.name, c.look) for c in found])


def information(frame: pd.DataFrame, blocks: Sequence[str], by: str) -> Iterator[Chart]:
    """nHSIC(Y; Z) against nHSIC(X; Z), a panel per block, from the first epoch (hollow) to the last."""
    for block in blocks:
        axes = [f"nhsic_{view}/{block}" for view in "xy"]
        plot = _figure(None)
        plot.xaxis.axis_label, plot.yaxis.axis_label = "nHSIC(X; Z)", "nHSIC(Y; Z)"
        legend = []
        for name, look, course in courses.joint_courses(frame, axes, [by]):
            if course.empty:
                continue
            points = _thinned(course).set_axis(["x", "y"], axis=1).reset_index()
            name = name.rpartition(" (n=")[0]
            plot.line("x", "y", source=_source(points), name=name, line_width=2, **_ink(look))
            _scatter(plot, name, points.iloc[[0]], look, "x", "y", hollow=True, size=8)
            _scatter(plot, name, points.iloc[[-1]], look, "x", "y", size=8)
            legend.append((name, look))
        tips = [("", "$name"), ("epoch", "@epoch"), ("X; Z", "@x{0.000}"), ("Y; Z", "@y{0.000}")]
        _hover(plot, tips)
        yield Chart(block.replace("_", " "), _item(plot), legend)


def _figure(ends: tuple[float, float] | None, scale: str = "linear", x_scale: str = "linear"):
    options = {"y_range": Range1d(*ends)} if ends else {}
    plot = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        y_axis_type=scale,
        x_axis_type=x_scale,
        tools="xbox_zoom,reset,save",
        active_drag=None,
        active_scroll=None,
        toolbar_location="above",
        **options,
    )
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


def _add_curves(plot, drawn: Sequence[Curve], ends: tuple[float, float]) -> None:
    """Bands, kept where the view is, below lines."""
    for curve in drawn:
        band = curve.points.dropna(subset=["low", "high"]).clip(*ends)
        if len(band) > 1:
            source = _source(band[["low", "high"]].reset_index(names="x"))
            color = curve.look["color"]
            options = {"fill_color": color, "fill_alpha": 0.16, "name": curve.name}
            plot.varea("x", "low", "high", source=source, **options)
    for curve in drawn:
        whole = curve.points["n"] == curve.points["n"].max()
        if not whole.all():  # what is left of its executions is not the same mean
            _add_line(plot, curve.name, curve.points, curve.look, alpha=0.35)
        _add_line(plot, curve.name, curve.points[whole], curve.look)
        if curve.look["marker"] or len(curve.points) == 1:
            step = max(1, len(curve.points) // 8)
            _add_markers(plot, curve.name, curve.points.iloc[::step], curve.look, size=6)


def _add_line(plot, name: str, points: pd.DataFrame, look: dict[str, Any], alpha=1.0) -> None:
    options = {"name": name, "line_width": 2, "line_alpha": alpha, **_ink(look)}
    plot.line("x", "mean", source=_source(points.reset_index(names="x")), **options)


def _add_markers(plot, name: str, points: pd.DataFrame, look: dict[str, Any], size: int) -> None:
    _scatter(plot, name, points.reset_index(names="x"), look, size=size)


def _scatter(plot, name, points, look, x="x", y="mean", hollow=False, size=8, marker=None) -> None:
    if x not in points:
        points = points.reset_index(names="x")
    options = {"line_color": look["color"], "fill_color": None if hollow else look["color"]}
    marker = marker or _GLYPHS[look["marker"]]
    plot.scatter(x, y, source=_source(points), name=name, marker=marker, size=size, **options)


def _hover(plot, tooltips, kind: str = "Line", **options) -> None:
    drawn = [renderer for renderer in plot.renderers if type(renderer.glyph).__name__ == kind]
    plot.add_tools(HoverTool(tooltips=tooltips, renderers=drawn, visible=False, **options))


def _tag_ink(plot) -> None:
    """Marks what is drawn in black, which the page turns white in the dark."""
    for renderer in plot.renderers:
        colors = {renderer.glyph.line_color if hasattr(renderer.glyph, "line_color") else None}
        colors.add(getattr(renderer.glyph, "fill_color", None))
        if style.BLACK in colors:
            renderer.glyph.tags = ["ink"]


def _item(plot) -> dict[str, Any]:
    _tag_ink(plot)
    return json_item(plot)


def _ink(look: dict[str, Any]) -> dict[str, Any]:
    return {"line_color": look["color"], "line_dash": _DASHES[look["linestyle"]]}


def _source(points: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns as arrays, of which half the usual precision is drawn."""
    return {
        str(name): values.to_numpy(np.int32 if values.dtype.kind == "i" else np.float32)
        for name, values in points.items()
    }


def _thinned(points: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_POINTS` rows, evenly spread, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    return points.iloc[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]


def _with_ends(points: pd.DataFrame) -> pd.DataFrame:
    low, high = points["mean"] - points["half_width"], points["mean"] + points["half_width"]
    return points.assign(low=low, high=high)


def swatch(look: dict[str, Any]) -> dict[str, str]:
    """How a legend in HTML shows a look."""
    marker = {None: "", "o": "●", "^": "▲", "s": "■"}[look["marker"]]
    dash = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"}[look["linestyle"]]
    return {
        "color": look["color"],
        "ink": look["color"] == style.BLACK,
        "dash": dash,
        "marker": marker,
    }
