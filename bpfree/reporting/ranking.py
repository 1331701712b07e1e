"""Which hyperparameters served each learning rule best."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting.frames import mapping, projects, require, results
from bpfree.tuning.objective import direction
from bpfree.tuning.records import Experiment
from bpfree.tuning.statistics import summary

UNKNOWN = "score"


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
    if completed(frame).empty:
        raise UserError("No trial is completed yet: see `results` for what there is, or wait.")
    boards = [
        rank(frame[frame["project"] == project.path.name], project.record(), varying(project), by)
        for project in projects(directory)
    ]
    return pd.concat([board for board in boards if len(board)], ignore_index=True)


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `results` that may compete."""
    return frame[(frame["state"] == "completed") & frame["finished"]]


def rank(
    frame: pd.DataFrame, record: Mapping[str, Any], names: Sequence[str], by: str = "algorithm"
) -> pd.DataFrame:
    """The leaderboard of one project, without rows while no trial is completed.

    Args:
        frame: its rows of `results`.
        record: its `experiment.json`.
        names: the hyperparameters to show.
        by: the column of what competes.
    """
    sign = -1 if is_maximised(record) else 1
    shown = [name for name in names if name in frame and name != by]
    groups = completed(frame).groupby(by)
    rows = [_row(best_trial(group, sign), by, shown, objective(record)) for _, group in groups]
    rows.sort(key=lambda row: (math.isnan(row["mean"]), sign * row["mean"]))
    return pd.DataFrame(rows)


def best_trial(executions: pd.DataFrame, sign: int) -> pd.DataFrame:
    """The executions of the trial with the best score; one that diverged to NaN is the worst."""
    scores = executions.groupby("trial")["trial_score"].first().astype(float) * sign
    return executions[executions["trial"] == scores.fillna(math.inf).idxmin()]


def _row(executions: pd.DataFrame, by: str, names: list[str], metric: str) -> dict[str, Any]:
    first = executions.iloc[0]
    row = {column: first[column] for column in ("project", by, "trial", *names)}
    scores = summary(executions["score"])
    row |= {"objective": metric, "mean": scores.mean, "interval": scores.half_width}
    row |= {"std": scores.std, "n": scores.n, "summary": str(scores)}
    for column in executions.filter(regex="^test_").select_dtypes("number"):
        tested = summary(executions[column].dropna())
        row |= {column: tested.mean, f"{column}_interval": tested.half_width}
    return row


def varying(project: Experiment) -> list[str]:
    """The hyperparameters of which the project's trials hold more than one value."""
    values: dict[str, set[str]] = {}
    for trial in project.trials():
        for name, value in trial.hyperparameters.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, different in values.items() if len(different) > 1]


def objective(record: Mapping[str, Any]) -> str:
    """The name of what an experiment selects on, or `UNKNOWN`; `record` is its `experiment.json`."""
    named = mapping(record.get("configuration")).get("objective", UNKNOWN)
    return named.get("name", UNKNOWN) if isinstance(named, Mapping) else str(named)


def is_maximised(record: Mapping[str, Any]) -> bool:
    """Whether more of the objective is better: by the recorded direction, or else by its name."""
    configuration = mapping(record.get("configuration"))
    for place in (record, configuration, configuration.get("objective")):
        if isinstance(place, Mapping) and place.get("direction") in ("min", "max"):
            return place["direction"] == "max"
    return direction(objective(record)) == "max"


def objectives(record: Mapping[str, Any]) -> dict[str, str]:
    """The direction, "min" or "max", of every objective of an experiment, the one it selects on first."""
    found = {objective(record): "max" if is_maximised(record) else "min"}
    further = mapping(record.get("configuration")).get("further_objectives")
    for named in further if isinstance(further, list) else ():
        name = named.get("name") if isinstance(named, Mapping) else named
        if isinstance(name, str):
            way = mapping(named).get("direction", direction(name))
            found.setdefault(name, "max" if way == "max" else "min")
    return found
