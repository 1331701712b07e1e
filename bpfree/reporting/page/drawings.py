"""The page's figures, section by section; one that cannot be drawn says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bpfree.reporting.comparison import listed
from bpfree.reporting.courses import text
from bpfree.reporting.page import charts
from bpfree.reporting.page.project import BY, Project


@dataclass
class Group:
    """Charts under one heading, with a note; `folded` ones open at a click."""

    title: str
    charts: list[charts.Chart]
    note: str = ""
    folded: bool = False

    @property
    def legend(self) -> dict[str, dict[str, Any]]:
        """The swatch of every curve that one of the charts has."""
        looks = {name: look for chart in self.charts for name, look in chart.looks.items()}
        return {name: charts.swatch(look) for name, look in looks.items()}


def groups(project: Project) -> Iterator[Group]:
    """All figures."""
    yield _curves(project)
    yield _rates(project)
    columns: dict[str, list[str]] = {}
    for name in map(str, project.histories.columns):
        if "/" in name:
            columns.setdefault(name.partition("/")[0], []).append(name)
    yield _alignment(project, columns.pop("bp_cosine", []))
    yield _information(project, columns.pop("nhsic_x", []), columns.pop("nhsic_y", []))
    for tracker, names in columns.items():
        if found := _panels(project, names):
            yield Group(project.label(tracker).capitalize(), found, folded=True)


def _curves(project: Project) -> Group:
    found = []
    for metric in ("error", "loss"):
        panels = [
            (project.label(name), charts.curves(project.histories, name, BY))
            for name in (f"val_{metric}", metric)
        ]
        if panels := [(title, drawn) for title, drawn in panels if drawn]:
            found += charts.histories(panels, logarithmic=True)
    note = (
        "Mean and 95 % t interval over the executions of each rule's best trial; faint where some "
        "of them have ended. An interval is cut where it leaves the axis, which is logarithmic where "
        "means range widely and are never 0."
    )
    if project.provisional:
        rules = listed(list(map(str, project.provisional)))
        note += f" Of {rules} no trial is completed: one that runs or was cut short is shown."
    return Group("Learning curves", found, note if found else "No epoch is recorded yet.")


def _rates(project: Project) -> Group:
    title = f"{project.label(project.objective).capitalize()} against learning rate"
    tried = sorted({float(rate) for rate in project.values("lr") if rate > 0})
    scores = pd.to_numeric(project.done["score"], errors="coerce")
    if len(tried) == 1:
        return Group(title, [], f"The learning rate was not swept: it is {text(tried[0])}.")
    if "lr" not in project.done or not scores.count():
        return Group(title, [], "No trial with a learning rate is completed yet.")
    sign = -1 if project.maximised else 1
    note = (
        "The best trial of each rule at each rate, over all else that was swept, with its 95 % t "
        "interval; a star marks the rule's best rate. A rate at which every trial diverged has no "
        "point."
    )
    return Group(title, [charts.rates(project.done, "score", BY, sign, tried)], note)


def costs(project: Project) -> Group:
    """What a training costs against how good it is."""
    scores = pd.to_numeric(project.done["score"], errors="coerce")
    measured = [c for c in ("train_flops", "seconds", "energy") if project.done[c].count()]
    title = f"{project.label(project.objective).capitalize()} against cost"
    if not scores.count() or not measured:
        return Group(title, [], "Not measured.")
    sign = -1 if project.maximised else 1
    note = (
        "A point per completed trial, mean over its executions. Large ones are a rule's best for "
        "what they cost: none of its other trials is as good and as cheap. A line joins them."
    )
    return Group(title, [charts.costs(project.done, c, "score", BY, sign) for c in measured], note)


def _alignment(project: Project, columns: Sequence[str]) -> Group:
    found = _panels(project, columns)
    note = (
        "Cosine between a rule's gradient and that of BP on the same weights and batch, per block "
        "and epoch: 1 is BP's direction, 0 unrelated."
    )
    missing = "Not recorded; --tracker bp_cosine records it."
    return Group("Alignment with backpropagation", found, note if found else missing)


def _information(project: Project, inputs: Sequence[str], labels: Sequence[str]) -> Group:
    blocks = [name.partition("/")[2] for name in inputs]
    blocks = [
        block
        for block in blocks
        if f"nhsic_y/{block}" in labels
        and project.histories[f"nhsic_x/{block}"].notna().any()
        and project.histories[f"nhsic_y/{block}"].notna().any()
    ]
    found = list(charts.information(project.histories, blocks, BY))
    note = (
        "What a block keeps of the labels, nHSIC(Y; Z), against what it keeps of the inputs, "
        "nHSIC(X; Z): from the first epoch (hollow) to the last."
    )
    missing = "Not recorded; --tracker nhsic records it."
    return Group("Information plane", found, note if found else missing)


def _panels(project: Project, columns: Sequence[str]) -> list[charts.Chart]:
    """What one tracker measured, place by place."""
    panels = [
        (name.partition("/")[2].replace("_", " "), charts.curves(project.histories, name, BY))
        for name in columns
    ]
    panels = [(title, drawn) for title, drawn in panels if drawn]
    return list(charts.histories(panels)) if panels else []
