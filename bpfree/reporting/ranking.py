"""Which hyperparameters served each learning rule best."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting.frames import projects, require, results
from bpfree.tuning.objective import direction
from bpfree.tuning.records import Experiment
from bpfree.tuning.statistics import summary


def leaderboard(directory: str | os.PathLike, by: str = "algorithm") -> pd.DataFrame:
    """The best completed trial of each rule, the best rule first within its project.

    Columns: `project`, the rule, `trial`; the hyperparameters that vary within a project;
    `objective`, its name; `mean`, `interval` (half the width of the 95 % Student t interval), `std`
    and `n` of the executions' scores, and all that as text in `summary`; `test_*` (mean) and
    `test_*_interval` where the test set was used.

    Args:
        directory: an experiment's folder, with one folder per project, or one project's.
        by: the column of what competes.

    Raises:
        UserError: there is no experiment, no such column, or no trial is completed yet.
    """
    frame = results(directory)
    require(frame, [by])
    completed = frame[(frame["state"] == "completed") & frame["finished"]]
    if completed.empty:
        raise UserError("No trial is completed yet: see `results` for what there is, or wait.")
    rows = []
    for project in projects(directory):
        record, name = project.record(), project.path.name
        sign = -1 if _is_maximised(record) else 1
        varying = [column for column in _varying(project) if column in frame and column != by]
        groups = completed[completed["project"] == name].groupby(by)
        best = [
            _row(_best_trial(group, sign), by, varying, _objective(record)) for _, group in groups
        ]
        rows += sorted(
            best, key=lambda row, sign=sign: (math.isnan(row["mean"]), sign * row["mean"])
        )
    return pd.DataFrame(rows)


def _best_trial(executions: pd.DataFrame, sign: int) -> pd.DataFrame:
    """The executions of the trial with the best score; one that diverged to NaN is the worst."""
    scores = executions.groupby("trial")["trial_score"].first().astype(float) * sign
    return executions[executions["trial"] == scores.fillna(math.inf).idxmin()]


def _row(executions: pd.DataFrame, by: str, varying: list[str], objective: str) -> dict[str, Any]:
    first = executions.iloc[0]
    row = {column: first[column] for column in ("project", by, "trial", *varying)}
    scores = summary(executions["score"])
    row |= {"objective": objective, "mean": scores.mean, "interval": scores.half_width}
    row |= {"std": scores.std, "n": scores.n, "summary": str(scores)}
    for column in executions.filter(regex="^test_").select_dtypes("number"):
        tested = summary(executions[column].dropna())
        row |= {column: tested.mean, f"{column}_interval": tested.half_width}
    return row


def _varying(project: Experiment) -> list[str]:
    """The hyperparameters of which the project's trials hold more than one value."""
    values: dict[str, set[str]] = {}
    for trial in project.trials():
        for name, value in trial.hyperparameters.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, different in values.items() if len(different) > 1]


def _objective(record: Mapping[str, Any]) -> str:
    objective = record.get("configuration", {}).get("objective", "score")
    return objective.get("name", "score") if isinstance(objective, Mapping) else str(objective)


def _is_maximised(record: Mapping[str, Any]) -> bool:
    """By the recorded direction, or else by the objective's name."""
    configuration = record.get("configuration", {})
    for place in (record, configuration, configuration.get("objective")):
        if isinstance(place, Mapping) and place.get("direction") in ("min", "max"):
            return place["direction"] == "max"
    return direction(_objective(record)) == "max"
