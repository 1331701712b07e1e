"""What the page says about an experiment: words and tables, without a word of HTML."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from bokeh.palettes import Cividis256

from bpfree.reporting import comparison, frames, ranking, style
from bpfree.reporting.courses import text
from bpfree.reporting.metrics import label
from bpfree.reporting.page import charts
from bpfree.tuning.records import Experiment, Trial
from bpfree.tuning.statistics import Summary, summary

BY = "algorithm"
MOST_TRIALS = 1000  # rows of the table of all trials
MOST_FAILURES = 50
MOST_TRACEBACK = 6000  # characters, the last ones
_METRICS = ("error", "loss", "accuracy")
_NOTHING = "–"


@dataclass
class Cell:
    """What a table shows, by what it is sorted, and a remark in small print."""

    text: str
    key: float | str = ""
    note: str = ""
    swatch: dict[str, str] | None = None
    color: str | None = None
    ink: str | None = None


@dataclass
class Table:
    """Heads and rows of cells; `numbers` are the columns set flush right."""

    heads: list[str]
    rows: list[list[Cell]]
    numbers: set[int] = field(default_factory=set)


@dataclass
class Group:
    """Charts under one heading; an empty group has a note that says why."""

    title: str
    charts: list[charts.Chart]
    note: str = ""
    folded: bool = False

    @property
    def legend(self) -> dict[str, dict[str, str]]:
        """The look of every curve that one of the charts has."""
        return {name: charts.swatch(look) for chart in self.charts for name, look in chart.curves}


class Project:
    """All that the page says about one project, read once.

    Args:
        experiment: opened read-only.
    """

    def __init__(self, experiment: Experiment):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._read(experiment)
        self.spoilt = list(dict.fromkeys(str(warning.message) for warning in caught))

    def _read(self, experiment: Experiment) -> None:
        self.path = experiment.path.resolve()
        self.name = self.path.name
        self.record = experiment.record()
        self.trials = experiment.trials()
        frame = frames.results(self.path)
        if BY not in frame:
            frame[BY] = None
        frame[BY] = frame[BY].map(lambda rule: "unknown" if rule is None or rule != rule else rule)
        self.frame = frame
        self.done = ranking.completed(frame)
        self.varying = [name for name in ranking.varying(experiment) if name in frame]
        self.objective = ranking.objective(self.record)
        self.maximised = ranking.is_maximised(self.record)
        self.problem = str(self.configuration.get("problem_type", "classification"))
        self.board = ranking.rank(frame, self.record, self.varying)
        self.metric = comparison.headline(self.board, self.objective)
        self.compared = (
            comparison.compare(self.done, self.board, self.metric, self.maximised)
            if len(self.board)
            else pd.DataFrame()
        )
        self.histories = self._histories()

    @property
    def configuration(self) -> Mapping[str, Any]:
        return self.record.get("configuration", {})

    # -- what is drawn ----------------------------------------------------------------------------

    def _histories(self) -> pd.DataFrame:
        """Of each rule's best trial; of a rule without one, the first trial with an epoch."""
        shown = dict(zip(self.board.get(BY, ()), self.board.get("trial", ()), strict=True))
        for row in self.frame[self.frame["epochs"] > 0].itertuples():
            if row.state == "running":
                shown.setdefault(getattr(row, BY), row.trial)
        self.provisional = [rule for rule in shown if rule not in set(self.board.get(BY, ()))]
        frame = frames.histories(self.path, trials=set(shown.values()))
        rules = {trial: rule for rule, trial in shown.items()}
        return frame.assign(**{BY: frame["trial"].map(rules)})

    def groups(self) -> Iterator[Group]:
        """All charts, under their headings."""
        yield self._curves()
        yield self._rates()
        yield from self._trackers()

    def _curves(self) -> Group:
        found = []
        for base in _METRICS[:2]:
            names = (f"val_{base}", base)
            drawn = [(self.label(name), charts.curves(self.histories, name, BY)) for name in names]
            drawn = [(title, curves) for title, curves in drawn if curves]
            if drawn:
                found += charts.histories(drawn, logarithmic=True)
        note = (
            "Mean and 95 % t interval over the executions of each rule's best trial; faint where some of them "
            "have ended."
        )
        if self.provisional:
            rules = comparison.listed(list(map(str, self.provisional)))
            note += (
                f" Of {rules} no trial is completed: one that is running or was cut short is shown."
            )
        return Group("Learning curves", found, note if found else "No epoch is recorded yet.")

    def _rates(self) -> Group:
        title = f"{self.label(self.objective).capitalize()} against learning rate"
        if "lr" not in self.done or not pd.to_numeric(self.done["score"], errors="coerce").count():
            return Group(title, [], "No trial with a learning rate is completed yet.")
        tried = sorted({float(rate) for rate in self._values("lr") if rate > 0})
        if len(tried) < 2:
            return Group(title, [], f"The learning rate was not swept: it is {text(tried[0])}.")
        sign = -1 if self.maximised else 1
        chart = charts.rates(self.done, "score", BY, sign, tried)
        return Group(
            title,
            [chart],
            "Each rule by its own row: the best trial at each rate, over all else that was swept, with its 95 % "
            "t interval; a star marks the rate it was given. Rates at which every trial diverged have no point.",
        )

    def _trackers(self) -> Iterator[Group]:
        names = [name for name in map(str, self.histories.columns) if "/" in name]
        by_tracker: dict[str, list[str]] = {}
        for name in names:
            by_tracker.setdefault(name.split("/")[0], []).append(name)
        yield self._alignment(by_tracker.pop("bp_cosine", []))
        yield self._information(by_tracker.pop("nhsic_x", []), by_tracker.pop("nhsic_y", []))
        for tracker, columns in by_tracker.items():
            if found := self._panels(columns):
                yield Group(self.label(tracker).capitalize(), found, folded=True)

    def _alignment(self, columns: Sequence[str]) -> Group:
        title, found = "Alignment with backpropagation", self._panels(columns)
        note = (
            "Cosine between a rule's weight update and BP's on the same weights and batch, per block and epoch: "
            "1 is BP's direction, 0 unrelated."
        )
        missing = "Not measured: the tracker did not run (--tracker bp_cosine)."
        return Group(title, found, note if found else missing)

    def _information(self, inputs: Sequence[str], labels: Sequence[str]) -> Group:
        there = {name.split("/", 1)[1] for name in labels}
        blocks = [block for name in inputs if (block := name.split("/", 1)[1]) in there]
        blocks = [b for b in blocks if self.histories[f"nhsic_x/{b}"].notna().any()]
        found = list(charts.information(self.histories, blocks, BY))
        note = (
            "What a block keeps of the labels, nHSIC(Y; Z), against what it keeps of the inputs, nHSIC(X; Z): "
            "from the first epoch (hollow) to the last."
        )
        missing = "Not measured: the tracker did not run (--tracker nhsic)."
        return Group("Information plane", found, note if found else missing)

    def _panels(self, columns: Sequence[str]) -> list[charts.Chart]:
        drawn = [
            (name.split("/", 1)[1].replace("_", " "), charts.curves(self.histories, name, BY))
            for name in columns
        ]
        drawn = [(title, curves) for title, curves in drawn if curves]
        return charts.histories(drawn) if drawn else []

    # -- what is said -----------------------------------------------------------------------------

    def label(self, name: str) -> str:
        return label(name, self.problem)

    @property
    def compared_on(self) -> str:
        """The headline metric in words."""
        return self.label(self.objective if self.metric == "score" else self.metric)

    @property
    def tested(self) -> bool:
        return self.metric != "score"

    @property
    def verdict(self) -> str:
        return comparison.verdict(self.board, self.compared)

    @property
    def best(self) -> str:
        """The leader's figures, and those of the next."""
        shown = [
            f"{row[BY]} {self.headline(row[BY])}" for row in self.board.head(2).to_dict("records")
        ]
        return f"{self.compared_on.capitalize()}: {', next '.join(shown)}" if shown else ""

    def headline(self, rule: str | None = None) -> Summary | None:
        """The headline metric of a rule's chosen trial, of the leader's by default."""
        rows = self.board if rule is None else self.board[self.board[BY] == rule]
        if not len(rows):
            return None
        return comparison.of_trial(self.done, rows["trial"].iloc[0], self.metric)

    def caveats(self) -> list[str]:
        """What must be known to believe the verdict."""
        return [sentence for sentence in self._caveats() if sentence]

    def _caveats(self) -> Iterator[str]:
        if not len(self.board):
            return
        if len(self.compared):
            many = len(self.compared)
            yield (
                f"Compared on {self.compared_on}, by the paired 95 % t interval of the differences over shared "
                f"seeds{f', corrected by Holm for {many} comparisons' if many > 1 else ''}."
            )
        if self.tested:
            yield (
                f"Hyperparameters were chosen on {self.label(self.objective)}; the test set was used once, for the "
                "chosen trials only."
            )
        elif self.objective.startswith("val_"):
            yield (
                "The test set is not used yet: these are the validation values that chose the hyperparameters, so "
                "they flatter every rule."
            )
        else:
            yield "Chosen and compared on training data, which says nothing about generalisation."
        fewest = int(self.board["n"].min())
        if fewest < 5:
            yield f"Only {fewest} execution{'s' * (fewest > 1)} per trial: report at least 5 fresh seeds in a paper."
        overlapping = [str(r) for r in self.board[BY].iloc[1:] if self._overlaps(r)]
        if overlapping:
            leader = self.board[BY].iloc[0]
            many = len(overlapping) > 1
            yield (
                f"The interval{'s' * many} of {comparison.listed(overlapping)} overlap{'s' * (not many)} that of "
                f"{leader}; which differences are real is for the paired comparison to say."
            )
        yield from self.edges().values()

    def _overlaps(self, rule: str) -> bool | None:
        return comparison.overlap(self.headline(), self.headline(rule))

    def edges(self) -> dict[str, str]:
        """By rule, that its best learning rate lies at the border of those tried."""
        found = {}
        for row in self.board.to_dict("records"):
            rate = self.done.loc[self.done["trial"] == row["trial"]].iloc[0].get("lr")
            side = comparison.edge(rate, self._values("lr"))
            if side:
                rule, way = row[BY], "higher" if side == "highest" else "lower"
                found[rule] = (
                    f"The best learning rate of {rule}, {text(rate)}, is the {side} tried: it may do better with "
                    f"{way} ones."
                )
        return found

    def _values(self, name: str) -> list[Any]:
        """The values of a hyperparameter that the grid has, or else those that trials had."""
        choices = self.configuration.get("choices")
        given = choices.get(name) if isinstance(choices, Mapping) else None
        there = [trial.hyperparameters.get(name) for trial in self.trials]
        values = [*(given if isinstance(given, list) else []), *there]
        return [v for v in values if isinstance(v, (int, float)) and v == v]

    def counts(self) -> list[tuple[str, str]]:
        """How far the sweep is, as pairs of number and word."""
        states = [trial.state for trial in self.trials]
        total = self.record.get("trials")
        of = f" of {total}" if isinstance(total, int) and total != len(states) else ""
        finished = int(self.frame["finished"].sum()) if len(self.frame) else 0
        pairs = [(f"{states.count('completed')}{of or f' of {len(states)}'}", "trials completed")]
        pairs += [(str(finished), "trainings finished")]
        pairs += [(str(n), state) for state in ("running", "failed") if (n := states.count(state))]
        return pairs

    def missing(self) -> list[str]:
        """What the page cannot show, and why."""
        return [*self.spoilt, *self._missing()]

    def _missing(self) -> Iterator[str]:
        if not self.record:
            yield "experiment.json is missing: configuration, versions, command and commit are unknown."
        elif not self.configuration:
            yield "experiment.json holds no configuration."
        if not self.trials:
            yield "There is no trial yet."
        lost = [trial.id for trial in self.trials if not trial.hyperparameters]
        if lost:
            yield f"The hyperparameters of {comparison.listed(lost[:5])} are lost: trial.json is missing or spoilt."
        for trial in [trial for trial in self.trials if trial.state == "running"][:5]:
            rows = self.frame[self.frame["trial"] == trial.id]
            yield (
                f"Trial {trial.id} is running or was cut short: {int(rows['finished'].sum())} trainings are finished, "
                f"{int(rows['epochs'].sum())} epochs recorded. The command that began the sweep goes on from there."
            )
        if len(self.board) and not self.tested:
            yield "The test set is not used yet: tune.py does that when the sweep ends."

    # -- tables -----------------------------------------------------------------------------------

    def chosen(self) -> Table:
        """The leaderboard: each rule's best trial."""
        tested = [f"test_{name}" for name in _METRICS if f"test_{name}" in self.board]
        names = [name for name in self.varying if name != BY]
        heads = [
            "",
            "rule",
            self.label(self.objective),
            *map(self.label, tested),
            "n",
            *map(label, names),
        ]
        edges, leader = self.edges(), self.headline()
        rows = []
        for place, row in enumerate(self.board.to_dict("records"), 1):
            rule = row[BY]
            cells = [Cell(str(place), place), _rule(rule)]
            cells.append(_measured(comparison.of_trial(self.done, row["trial"], "score")))
            for metric in tested:
                cell = _measured(comparison.of_trial(self.done, row["trial"], metric))
                cells.append(cell)
            headline = cells[-len(tested) + tested.index(self.metric)] if self.tested else cells[2]
            if place > 1 and comparison.overlap(leader, self.headline(rule)):
                headline.note = "overlaps the first's"
            cells.append(Cell(str(row["n"]), row["n"]))
            cells += [_plain(row.get(name)) for name in names]
            if rule in edges and "lr" in names:
                cells[len(heads) - len(names) + names.index("lr")].note = "edge of the grid"
            rows.append(cells)
        return Table(heads, rows, {0, *range(2, 4 + len(tested))})

    def comparisons(self) -> Table | None:
        """The leader against each other rule."""
        if not len(self.compared):
            return None
        leader = self.board[BY].iloc[0]
        words = {
            "real": f"real: {leader} is better",
            "reversed": f"real: {leader} is worse",
            "undecided": "undecided",
        }
        rows = []
        for row in self.compared.to_dict("records"):
            spread = Summary(row["difference"], float("nan"), row["interval"], row["n"])
            note = "too few seeds" if row["n"] < 2 else ""
            if row["n"] >= 2 and row["p"] != row["p"]:
                note = "no spread to judge by"
            elif row["lead"] == "undecided" and abs(row["difference"]) > row["interval"]:
                note = "not after the correction"
            rows.append(
                [
                    _rule(row[BY]),
                    _measured(spread, signed=True),
                    Cell(_p(row["p"]), row["p"]),
                    Cell(str(row["n"]), row["n"]),
                    Cell(words[row["lead"]], row["lead"], note),
                ]
            )
        heads = [
            f"against {leader}",
            f"difference in {self.compared_on}",
            "p (Holm)",
            "seeds",
            "lead",
        ]
        return Table(heads, rows, {1, 2, 3})

    def heat_maps(self) -> Iterator[tuple[str, Table]]:
        """The best score of each rule with each value of what was swept: architectures first."""
        order = {"arch": 0, "activation": 1}
        names = [name for name in self.varying if name not in (BY, "lr")]
        for name in sorted(names, key=lambda name: order.get(name, 2)):
            if len(self.done) and self.done[name].nunique(dropna=False) > 1:
                yield label(name), self._heat_map(name)

    def _heat_map(self, name: str) -> Table:
        sign = -1 if self.maximised else 1
        values = style.in_order([(v,) for v in self.done[name].unique()])
        best = {
            (rule, value): summary(ranking.best_trial(rows, sign)["score"])
            for (rule, value), rows in self.done.groupby([BY, name], dropna=False)
        }
        means = sorted(s.mean for s in best.values() if s.mean == s.mean)
        rows = []
        for (rule,) in style.in_order([(rule,) for rule in self.done[BY].unique()]):
            found = [best.get((rule, value)) for (value,) in values]
            rows.append([_rule(rule), *(_shaded(s, means, self.maximised) for s in found)])
        return Table(
            ["rule", *(text(value) for (value,) in values)], rows, set(range(1, 1 + len(values)))
        )

    def all_trials(self) -> tuple[Table, int]:
        """Every trial, the best first, and how many are left out."""
        sign = -1 if self.maximised else 1
        names = [name for name in self.varying if name != BY]
        by_trial = {trial: rows for trial, rows in self.frame.groupby("trial", sort=False)}

        def place(trial: Trial) -> tuple:
            good = trial.state == "completed" and _is_number(trial.score)
            return (not good, sign * trial.score if good else 0.0, trial.index)

        rows = []
        for trial in sorted(self.trials, key=place)[:MOST_TRIALS]:
            found = by_trial.get(trial.id)
            rule = (
                found[BY].iloc[0] if found is not None else trial.hyperparameters.get(BY, "unknown")
            )
            scores = found.loc[found["finished"], "score"] if found is not None else ()
            rows.append(
                [
                    Cell(str(trial.index), trial.index),
                    _rule(rule),
                    *(_plain(trial.hyperparameters.get(name)) for name in names),
                    _measured(summary(scores)),
                    Cell(str(len(scores)), len(scores)),
                    Cell(str(trial.state), str(trial.state)),
                ]
            )
        heads = ["trial", "rule", *map(label, names), self.label(self.objective), "n", "state"]
        numbers = {0, len(names) + 2, len(names) + 3}
        return Table(heads, rows, numbers), max(0, len(self.trials) - MOST_TRIALS)

    def failures(self) -> tuple[list[tuple[str, str, str, str]], int]:
        """Trial, hyperparameters, reason and traceback of failed trials, and how many are left out."""
        failed = [trial for trial in self.trials if trial.state == "failed"]
        found = []
        for trial in failed[:MOST_FAILURES]:
            values = [f"{name} {text(trial.hyperparameters.get(name))}" for name in self.varying]
            traceback = str(trial.failure or "").strip()
            reason = (traceback.splitlines() or ["no reason was recorded"])[-1]
            found.append((trial.id, ", ".join(values), reason, traceback[-MOST_TRACEBACK:]))
        return found, len(failed) - len(found)

    def facts(self) -> list[tuple[str, str]]:
        """How to do it again."""
        record, facts = self.record, []
        command = record.get("command")
        if isinstance(command, list):
            facts.append(("command", f"python {shlex.join(map(str, command))}"))
        facts += [
            (name, str(record[name])) for name in ("commit", "created", "host") if record.get(name)
        ]
        seeds = sorted(set(self.frame["seed"].dropna().astype(int))) if "seed" in self.frame else []
        if seeds:
            facts.append(("seeds", ", ".join(map(str, seeds))))
        versions = record.get("versions")
        named = dict(versions) if isinstance(versions, Mapping) else {}
        named = {"python": record.get("python"), **named}
        there = [f"{name} {version}" for name, version in named.items() if version]
        if there:
            facts.append(("versions", ", ".join(there)))
        return facts

    def settings(self) -> list[tuple[str, str]]:
        """The whole configuration."""
        hidden = ("space", "choices")
        pairs = [(name, value) for name, value in self.configuration.items() if name not in hidden]
        choices = self.configuration.get("choices")
        if isinstance(choices, Mapping):
            pairs += list(choices.items())
        return [(str(name), _written(value)) for name, value in pairs]


def _rule(rule: Any) -> Cell:
    look = {"linestyle": "-", **style.rule_look(str(rule))}
    return Cell(str(rule), str(rule), swatch=charts.swatch(look))


def _measured(s: Summary, signed: bool = False) -> Cell:
    """Mean ± interval; the number of values has a column of its own."""
    if not s.n:
        return Cell(_NOTHING)
    shown = str(s).rpartition(" (n=")[0]
    return Cell(f"+{shown}" if signed and s.mean > 0 else shown, s.mean)


def _shaded(s: Summary | None, means: Sequence[float], maximised: bool) -> Cell:
    """A cell of a heat map: light is good, by rank, since one diverged trial dwarfs all differences."""
    if s is None or s.mean != s.mean:
        return Cell(_NOTHING if s is None else "diverged")
    place = means.index(s.mean) / max(1, len(means) - 1)
    level = round((place if maximised else 1 - place) * 255)
    return Cell(
        str(s).rpartition(" (n=")[0],
        s.mean,
        color=Cividis256[level],
        ink="#000" if level > 125 else "#fff",
    )


def _plain(value: Any) -> Cell:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    shown = _NOTHING if value is None or value != value else text(value)
    return Cell(shown, value if number and value == value else shown)


def _p(value: float) -> str:
    return _NOTHING if value != value else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_written(item)}" for name, item in value.items())
    return ", ".join(map(_written, value)) if isinstance(value, (list, tuple)) else text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def view(project: Project) -> dict[str, Any]:
    """What the template shows of a project."""
    groups = list(project.groups())
    return {
        "name": project.name,
        "path": str(project.path),
        "objective": project.label(project.objective),
        "verdict": project.verdict,
        "best": project.best,
        "counts": project.counts(),
        "caveats": project.caveats(),
        "missing": project.missing(),
        "chosen": project.chosen(),
        "comparisons": project.comparisons(),
        "groups": groups,
        "heat_maps": list(project.heat_maps()),
        "trials": project.all_trials(),
        "failures": project.failures(),
        "facts": project.facts(),
        "settings": project.settings(),
    }


def side_by_side(projects: Sequence[Project]) -> Table:
    """The headline metric of each rule in each project."""
    rules = {rule for project in projects for rule in project.board.get(BY, ())}
    rows = []
    for (rule,) in style.in_order([(rule,) for rule in rules]):
        found = [project.headline(rule) for project in projects]
        rows.append([_rule(rule), *(Cell(_NOTHING) if s is None else _measured(s) for s in found)])
    heads = ["rule", *(f"{project.name}: {project.compared_on}" for project in projects)]
    return Table(heads, rows, set(range(1, len(heads))))
