"""A project as the page sees it: its records read once, the chosen trials, and how they compare."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from bpfree.reporting import comparison, frames, ranking
from bpfree.reporting.metrics import label
from bpfree.tuning.records import Experiment
from bpfree.tuning.statistics import Summary

BY = "algorithm"


class Project:
    """One project's records.

    Args:
        experiment: opened read-only.

    Attributes:
        record: `experiment.json`, {} where it is missing.
        trials: as recorded.
        frame: its rows of `results`; a rule that was not recorded is "unknown".
        done: those of completed trials.
        varying: the hyperparameters that were swept.
        objective: what the sweep selects on.
        maximised: whether more of it is better.
        objectives: all that it is for, with their directions, that one first.
        board: the leaderboard, without rows while no trial is completed.
        metric: what rules are compared on: the objective on the test set, or `score` before that.
        compared: the leader against each other rule, see `comparison.compare`.
        histories: epochs of each rule's best trial; where it has none yet, of its first one with an epoch.
        provisional: the rules of which such a trial is shown.
        spoilt: what was said about files that could not be read.
    """

    def __init__(self, experiment: Experiment):
        self.path = experiment.path.resolve()
        self.name = self.path.name
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._read(experiment)
        self.spoilt = list(dict.fromkeys(str(warning.message) for warning in caught))

    def _read(self, experiment: Experiment) -> None:
        self.record = experiment.record()
        self.trials = experiment.trials()
        frame = frames.results(self.path)
        rules = frame[BY] if BY in frame else pd.Series(None, frame.index, dtype=object)
        self.frame = frame.assign(**{BY: rules.astype(object).where(rules.notna(), "unknown")})
        self.done = ranking.completed(self.frame)
        self.varying = [name for name in ranking.varying(experiment) if name in frame]
        self.objective = ranking.objective(self.record)
        self.maximised = ranking.is_maximised(self.record)
        self.objectives = ranking.objectives(self.record)
        self.board = ranking.rank(self.frame, self.record, self.varying)
        self.metric, self.compared = "score", pd.DataFrame()
        if len(self.board):
            self.metric = comparison.headline(self.board, self.objective)
            self.compared = comparison.compare(self.done, self.board, self.metric, self.maximised)
        self._read_histories()

    def _read_histories(self) -> None:
        shown = {row[BY]: row["trial"] for row in self.board.to_dict("records")}
        begun = self.frame[(self.frame["state"] == "running") & (self.frame["epochs"] > 0)]
        self.provisional = [rule for rule in begun[BY].unique() if rule not in shown]
        for row in begun.to_dict("records"):
            shown.setdefault(row[BY], row["trial"])
        histories = frames.histories(self.path, trials=set(shown.values()))
        rules = {trial: rule for rule, trial in shown.items()}
        self.histories = histories.assign(**{BY: histories["trial"].map(rules)})

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What decides the results."""
        return frames.mapping(self.record.get("configuration"))

    @property
    def is_known(self) -> bool:
        """Whether it is recorded what the sweep selects on."""
        return self.objective != ranking.UNKNOWN

    @property
    def tested(self) -> bool:
        """Whether the test set was used."""
        return self.metric != "score"

    @property
    def leader(self) -> Any:
        """The rule that comes first; None while no trial is completed."""
        return self.board[BY].iloc[0] if len(self.board) else None

    def label(self, name: str) -> str:
        """A column's name in words."""
        return label(name, str(self.configuration.get("problem_type", "classification")))

    @property
    def compared_on(self) -> str:
        """What rules are compared on, in words."""
        return self.label(self.metric if self.tested else self.objective)

    @cached_property
    def headline(self) -> dict[Any, Summary]:
        """Of each rule's chosen trial, what rules are compared on."""
        return {
            row[BY]: comparison.of_trial(self.done, row["trial"], self.metric)
            for row in self.board.to_dict("records")
        }

    @cached_property
    def overlapping(self) -> list[Any]:
        """The rules whose interval has values in common with the leader's."""
        first, others = self.headline.get(self.leader), list(self.headline)[1:]
        return [rule for rule in others if comparison.overlap(first, self.headline[rule])]

    @cached_property
    def by_error(self) -> pd.DataFrame:
        """The same comparison on the test error, where rules are compared on something else."""
        if not self.tested or self.metric == "test_error" or "test_error" not in self.board:
            return pd.DataFrame()
        return comparison.compare(self.done, self.board, "test_error")

    @property
    def lost(self) -> list[str]:
        """The trials whose hyperparameters are not there any more."""
        return [trial.id for trial in self.trials if not trial.hyperparameters]

    @cached_property
    def edges(self) -> dict[Any, tuple[float, str]]:
        """By rule, its best learning rate where it is the "lowest" or "highest" of those tried.

        What an extended grid tried beyond the others, it tried for one rule. Where neither the grid nor
        all trials are known, neither are the borders.
        """
        found = {}
        if self.lost and not self.configuration:
            return found
        for row in self.board.to_dict("records"):
            rate = row.get("lr")
            if side := comparison.edge(rate, self.values("lr", row[BY])):
                found[row[BY]] = (rate, side)
        return found

    def values(self, name: str, rule: Any = None) -> list[float]:
        """The numbers that the grid has for a hyperparameter, and those that trials had; of one rule."""
        given = frames.mapping(self.configuration.get("choices")).get(name)
        own = frames.mapping(self.configuration.get("rates"))
        if name == "lr" and rule in own:
            given = [own[rule]]  # by --lr_from: the others in the grid are those of other rules
        trials = [t.hyperparameters for t in self.trials]
        there = [v.get(name) for v in trials if rule is None or v.get(BY, "unknown") == rule]
        numbers = [*(given if isinstance(given, list) else []), *there]
        return [v for v in numbers if isinstance(v, (int, float)) and v == v]
