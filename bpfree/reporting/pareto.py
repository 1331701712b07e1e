"""Pareto fronts: the trials that no other one betters, by several objectives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bpfree.errors import UserError
from bpfree.reporting import ranking
from bpfree.reporting.comparison import listed
from bpfree.reporting.frames import projects, require, results
from bpfree.tuning.objective import direction


def pareto_front(
    directory: str | os.PathLike, objectives: Sequence[str] | None = None
) -> pd.DataFrame:
    """The completed trials that no other trial of the project betters.

    A trial t is left out where there is another one, u, with m_i(u) ≤ m_i(t) for every objective i and
    m_i(u) < m_i(t) for one of them, where m_i is the mean over the executions, negative where more is better.
    So equals are there together. A trial without a value of each objective is not compared.

    Columns: `project`, `algorithm`, `trial`; the hyperparameters that vary within a project; the mean of each
    objective, by its name. A project's rows are sorted by the first objective, the best one first. All is
    measured on what a search selects on: the test set has no part in it.

    Args:
        directory: an experiment's folder, with one folder per project, or one project's.
        objectives: metrics or costs, columns of `results`; None: those that the search was for.

    Raises:
        UserError: there is no experiment, no completed trial, no such column or none with values, or one is
            of the test set.
    """
    frame = results(directory)
    named = [objectives] if isinstance(objectives, str) else objectives
    for name in named or ():
        if name.startswith("test_"):
            raise UserError(
                f"{name!r} is measured on the test set, by which nothing is chosen: name a metric of the "
                "training, e.g. 'val_error'."
            )
    require(frame, named or ())
    fronts = [
        front(rows, project.record(), ranking.varying(project), named)
        for project in projects(directory)
        if len(rows := ranking.completed(frame[frame["project"] == project.path.name]))
    ]
    if not fronts:
        raise UserError("No trial is completed yet: see `results` for what there is, or wait.")
    return pd.concat(fronts, ignore_index=True)


def front(
    completed: pd.DataFrame,
    record: Mapping[str, Any],
    names: Sequence[str],
    objectives: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The Pareto front of one project, see `pareto_front`.

    Args:
        completed: its rows of `results` that may compete.
        record: its `experiment.json`.
        names: the hyperparameters to show.
        objectives: to go by; None: the recorded ones.
    """
    known = ranking.objectives(record)
    ways = {name: known.get(name) or direction(name) for name in objectives or known}
    columns = {name: "score" if name == ranking.objective(record) else name for name in ways}
    means = pd.DataFrame({name: _means(completed, column) for name, column in columns.items()})
    costs = means.to_numpy() * [-1 if way == "max" else 1 for way in ways.values()]
    whole = np.isfinite(costs).all(axis=1)
    if not whole.any():
        missing = [name for name in ways if not np.isfinite(means[name]).any()] or [*ways]
        raise UserError(
            f"No completed trial of {completed['project'].iloc[0]} has a value of {listed(missing)}, so "
            "there is no such Pareto front: name other objectives to bpfree.reporting.pareto_front."
        )
    means, costs = means[whole], costs[whole]
    best = undominated(costs)
    means = means[best].iloc[np.lexsort(costs[best].T[::-1])]
    shown = dict.fromkeys(("project", "algorithm", "trial", *names))
    shown = [name for name in shown if name in completed and name not in means]
    trials = completed.drop_duplicates("trial").set_index("trial", drop=False)[shown]
    return trials.loc[means.index].join(means).reset_index(drop=True)


def undominated(costs: np.ndarray) -> np.ndarray:
    """Which rows no other one betters: is nowhere greater and somewhere less."""
    bettered = [((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any() for row in costs]
    return ~np.array(bettered, dtype=bool)


def sentence(objectives: Sequence[str]) -> str:
    """What is true of every trial of a front."""
    return f"No other trial is better in {listed(objectives)} at once"


def _means(completed: pd.DataFrame, column: str) -> pd.Series:
    """Of every trial over its executions, NaN where one of them has no value."""
    values = completed[column] if column in completed else pd.Series(np.nan, completed.index)
    values = pd.to_numeric(values, errors="coerce").astype(float)
    return values.groupby(completed["trial"], sort=False).mean(skipna=False)
