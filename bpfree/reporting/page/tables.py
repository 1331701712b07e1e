"""The page's tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bokeh.palettes import Cividis256

from bpfree.errors import UserError
from bpfree.reporting import comparison, frames, pareto, ranking, style
from bpfree.reporting.courses import text
from bpfree.reporting.metrics import label, scaled
from bpfree.reporting.page.charts import swatch
from bpfree.reporting.page.project import BY, Project
from bpfree.tuning.failures import plain, reason
from bpfree.tuning.records import Trial
from bpfree.tuning.statistics import Summary, summary

MOST_TRIALS = 1000
MOST_FAILURES = 50
_MOST_TRACEBACK = 6000  # characters, the last ones
_TESTED = ("test_error", "test_loss", "test_accuracy")
_NOTHING = "–"
_COSTS = {
    "seconds": ("time", "s"),
    "train_flops": ("FLOPs", ""),
    "peak_host_memory": ("peak host memory", "B"),
    "peak_device_memory": ("peak device memory", "B"),
    "energy": ("energy", "J"),
    "idle_power": ("idle power", "W"),
}


@dataclass
class Cell:
    """What a table shows, the number it is sorted by if there is one, and a remark."""

    text: str
    key: float | None = None
    note: str = ""
    swatch: dict[str, Any] | None = None
    color: str | None = None  # of the ground
    ink: str | None = None


@dataclass
class Table:
    """Heads and rows of cells; `numbers` are the columns set flush right."""

    heads: list[str]
    rows: list[list[Cell]]
    numbers: set[int] = field(default_factory=set)


def chosen(project: Project) -> Table:
    """The leaderboard: each rule's best trial, what rules are compared on in front."""
    metrics = ["score", *(name for name in _TESTED if name in project.board)]
    if "test_error" in metrics:  # which says the same
        metrics = [name for name in metrics if name != "test_accuracy" or name == project.metric]
    metrics.sort(key=lambda name: name != project.metric)
    names = [name for name in project.varying if name != BY]
    rows = [
        _chosen(project, place, row, metrics, names)
        for place, row in enumerate(project.board.to_dict("records"), 1)
    ]
    titles = (project.label(project.objective if m == "score" else m) for m in metrics)
    heads = ["", "rule", *titles, "n", *map(label, names)]
    return Table(heads, rows, {0, *range(2, 3 + len(metrics))})


def _chosen(
    project: Project, place: int, row: Mapping[str, Any], shown: list[str], names: list[str]
) -> list[Cell]:
    rule = row[BY]
    metrics = {
        metric: _measured(comparison.of_trial(project.done, row["trial"], metric))
        for metric in shown
    }
    if rule in project.overlapping:
        metrics[project.metric].note = "overlaps the first's"
    values = {name: _plain(row.get(name)) for name in names}
    if rule in project.edges:
        values["lr"].note = "edge of the grid"
    n = Cell(str(row["n"]), row["n"])
    return [Cell(str(place), place), _rule(rule), *metrics.values(), n, *values.values()]


def comparisons(project: Project) -> Table | None:
    """The leader against each other rule; None without another."""
    if not len(project.compared):
        return None
    words = {
        "real": f"real: {project.leader} is better",
        "reversed": f"real: {project.leader} is worse",
        "undecided": "undecided",
    }
    rows = []
    for row in project.compared.to_dict("records"):
        difference = Summary(row["difference"], math.nan, row["interval"], row["n"])
        lead = Cell(words[row["lead"]], note=_reason(row))
        seeds, p = Cell(str(row["n"]), row["n"]), Cell(_p(row["p"]), row["p"])
        rows.append([_rule(row[BY]), lead, _measured(difference, signed=True), p, seeds])
    heads = [f"against {project.leader}", "lead", f"difference in {project.compared_on}"]
    return Table([*heads, "p (Holm)", "seeds"], rows, {2, 3, 4})


def _reason(row: Mapping[str, Any]) -> str:
    """Why a comparison is undecided where its interval does not show it."""
    if row["lead"] != "undecided":
        return ""
    if row["n"] < 2:
        return "too few seeds in common"
    if row["p"] != row["p"]:
        return "no spread to judge by"
    return "not after the correction" if abs(row["difference"]) > row["interval"] else ""


def front(project: Project) -> tuple[str, Table | None] | None:
    """What is to be said of the Pareto front, and its trials; None where there is one objective."""
    if len(project.objectives) < 2:
        return None
    aims = [_COSTS[n][0] if n in _COSTS else project.label(n) for n in project.objectives]
    names = [name for name in project.varying if name != BY]
    try:
        found = pareto.front(project.done, project.record, names)
    except UserError as error:
        return str(error), None
    rows = [
        [
            _rule(row[BY]),
            Cell(row["trial"]),
            *(_plain(row[name]) for name in names),
            *(_aim(project, row["trial"], name) for name in project.objectives),
        ]
        for row in found.to_dict("records")
    ]
    heads = ["rule", "trial", *map(label, names), *aims]
    numbers = set(range(len(heads) - len(aims), len(heads)))
    return f"{pareto.sentence(aims)}.", Table(heads, rows, numbers)


def _aim(project: Project, trial: str, name: str) -> Cell:
    """What a trial has of an objective."""
    if name in _COSTS:
        return _cost(project, trial, name)
    column = "score" if name == project.objective else name
    return _measured(comparison.of_trial(project.done, trial, column))


def costs(project: Project) -> Table:
    """What a training of each rule's best trial cost."""
    rows = [
        [_rule(row[BY]), *(_cost(project, row["trial"], column) for column in _COSTS)]
        for row in project.board.to_dict("records")
    ]
    return Table(["rule", *(name for name, _ in _COSTS.values())], rows, {*range(1, 7)})


def _cost(project: Project, trial: str, column: str) -> Cell:
    values = project.done.loc[project.done["trial"] == trial, column].dropna()
    if not len(values):
        return Cell("not measured")
    return Cell(scaled(values.mean(), _COSTS[column][1]), values.mean())


def heat_maps(project: Project) -> Iterator[tuple[str, Table]]:
    """The best score of each rule with each value of what was swept, architectures first."""
    names = [name for name in project.varying if name not in (BY, "lr")]
    for name in sorted(names, key=lambda name: name != "arch"):
        if project.done[name].nunique(dropna=False) > 1:
            yield label(name), _heat_map(project, name)


def _heat_map(project: Project, name: str) -> Table:
    sign = -1 if project.maximised else 1
    values = style.in_order([(value,) for value in project.done[name].unique()])
    best = {
        key: summary(ranking.best_trial(rows, sign)["score"])
        for key, rows in project.done.groupby([BY, name], dropna=False)
    }
    means = sorted((s.mean for s in best.values() if math.isfinite(s.mean)), key=lambda m: sign * m)
    rows = [
        [_rule(rule), *(_shaded(best.get((rule, value)), means) for (value,) in values)]
        for (rule,) in style.in_order([(rule,) for rule in project.done[BY].unique()])
    ]
    heads = ["rule", *(text(value) for (value,) in values)]
    return Table(heads, rows, set(range(1, len(heads))))


def trials(project: Project) -> tuple[Table, int]:
    """Every trial, the best first, and how many are left out."""
    sign = -1 if project.maximised else 1
    names = [name for name in project.varying if name != BY]
    finished = project.frame[project.frame["finished"].astype(bool)]
    scores = dict(list(finished.groupby("trial")["score"]))

    def place(trial: Trial) -> tuple:
        scored = trial.state == "completed" and _is_number(trial.score)
        return (not scored, sign * trial.score if scored else 0.0, trial.index)

    rows = []
    for trial in sorted(project.trials, key=place)[:MOST_TRIALS]:
        values, found = trial.hyperparameters, scores.get(trial.id, ())
        rows.append(
            [
                Cell(str(trial.index), trial.index),
                _rule(values.get(BY, "unknown")),
                *(_plain(values.get(name)) for name in names),
                _measured(summary(found)),
                Cell(str(len(found)), len(found)),
                Cell(str(trial.state) if values else "unknown"),
            ]
        )
    heads = ["trial", "rule", *map(label, names), project.label(project.objective), "n", "state"]
    numbers = {0, len(names) + 2, len(names) + 3}
    return Table(heads, rows, numbers), max(0, len(project.trials) - MOST_TRIALS)


def failures(project: Project) -> tuple[list[tuple[str, str, str, str]], int]:
    """Trial, hyperparameters, reason and traceback of failed trials, and how many are left out."""
    failed = [trial for trial in project.trials if trial.state == "failed"]
    found = []
    for trial in failed[:MOST_FAILURES]:
        values = [f"{name} {text(trial.hyperparameters.get(name))}" for name in project.varying]
        traceback = plain(trial.failure)
        why = reason(traceback) or "no reason was recorded"
        found.append((trial.id, ", ".join(values), why, traceback[-_MOST_TRACEBACK:]))
    return found, len(failed) - len(found)


def side_by_side(projects: Sequence[Project]) -> Table:
    """What rules are compared on, of each rule in each project."""
    rules = {rule for project in projects for rule in project.headline}
    rows = [
        [_rule(rule), *(_measured(project.headline.get(rule)) for project in projects)]
        for (rule,) in style.in_order([(rule,) for rule in rules])
    ]
    heads = ["rule", *(f"{project.name}: {project.compared_on}" for project in projects)]
    return Table(heads, rows, set(range(1, len(heads))))


def facts(project: Project) -> list[tuple[str, str]]:
    """How to do it again."""
    record, found = project.record, []
    command = record.get("command")
    known = isinstance(command, list)
    found.append(
        ("command", f"python {shlex.join(map(str, command))}" if known else "not recorded")
    )
    names = ("commit", "created", "host")
    found += [(name, str(record[name])) for name in names if record.get(name)]
    seeds = sorted(set(project.frame["seed"].dropna())) if "seed" in project.frame else []
    if seeds:
        found.append(("seeds", ", ".join(map(str, seeds))))
    versions = {"python": record.get("python"), **frames.mapping(record.get("versions"))}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    if there:
        found.append(("versions", ", ".join(there)))
    return [*found, ("files", str(project.path))]


def settings(project: Project) -> list[tuple[str, str]]:
    """The whole configuration; `space` says in Keras Tuner's words what `choices` says."""
    pairs = dict(project.configuration)
    pairs.pop("space", None)
    pairs |= frames.mapping(pairs.pop("choices", None))
    return [(str(name), _written(value)) for name, value in pairs.items()]


def _rule(rule: Any) -> Cell:
    return Cell(str(rule), swatch=swatch(style.rule_look(str(rule))))


def _measured(s: Summary | None, signed: bool = False) -> Cell:
    """Mean ± interval; the number of values has a column of its own."""
    if s is None or not s.n:
        return Cell(_NOTHING)
    shown = str(s).rpartition(" (n=")[0]
    return Cell(f"+{shown}" if signed and s.mean > 0 else shown, s.mean)


def _shaded(s: Summary | None, means: Sequence[float]) -> Cell:
    """Light is good, by rank among means from the best: one that failed to learn dwarfs all others."""
    if s is None:
        return Cell(_NOTHING)
    if not math.isfinite(s.mean):
        return Cell("diverged")
    level = round(255 * (1 - means.index(s.mean) / max(1, len(means) - 1)))
    ground = {"color": Cividis256[level], "ink": "#000" if level > 125 else "#fff"}
    return Cell(str(s).rpartition(" (n=")[0], s.mean, **ground)


def _plain(value: Any) -> Cell:
    shown = _NOTHING if value is None or value != value else text(value)
    return Cell(shown, value if _is_number(value) else None)


def _p(value: float) -> str:
    if value != value:
        return _NOTHING
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_written(item)}" for name, item in value.items())
    return ", ".join(map(_written, value)) if isinstance(value, (list, tuple)) else text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
