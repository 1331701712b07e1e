"""An experiment's files as pandas data frames."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bpfree.errors import UserError
from bpfree.tuning.failures import reason
from bpfree.tuning.objective import COSTS
from bpfree.tuning.records import Execution, Experiment, Trial

_PLACE = ("project", "trial", "index", "execution")
_OUTCOME = ("seed", "score", "trial_score", "epochs", "best_epoch")
_COSTS = (*COSTS, "idle_power")
_TAKEN = {*_PLACE, *_OUTCOME, *_COSTS, "state", "finished", "failure", "epoch"}
_WHOLE = ("execution", "seed", "best_epoch")  # numbers that may be missing and stay whole


def results(directory: str | os.PathLike) -> pd.DataFrame:
    """One row per execution; the experiment may be finished, running or crashed.

    Columns: `project, trial, index, execution, state` (of the trial), `finished`; one per
    hyperparameter and per fixed scalar setting; `seed, score, trial_score, epochs, best_epoch`; the
    costs `seconds, train_flops, energy` (joules), `peak_host_memory, peak_device_memory` (bytes) and
    `idle_power` (watts), see `bpfree.costs`; the metrics at the best epoch; `test_*` where the
    test set was used; `failure`, the last line of the trial's traceback. What an unfinished execution
    does not have yet, or what was not measured, is missing (NaN). A trial that failed before its first
    epoch has one row without an `execution`.

    Args:
        directory: an experiment's folder, with one folder per project, or one project's.

    Raises:
        UserError: there is no experiment.
    """
    rows = []
    for project in projects(directory):
        settings = _settings(project)
        for trial in project.trials():
            executions = trial.executions() or [None] * (trial.state == "failed")
            rows += [_result(project, settings, trial, execution) for execution in executions]
    frame = _frame(rows, [*_PLACE, "state", "finished", *_OUTCOME, *_COSTS, "failure"])
    costs = {name: pd.to_numeric(frame[name], errors="coerce") for name in _COSTS}
    return frame.assign(**costs).astype(dict.fromkeys(_COSTS, float))


def histories(directory: str | os.PathLike, trials: Collection[str] | None = None) -> pd.DataFrame:
    """One row per execution and epoch, sorted by project, index, execution and epoch.

    Columns: `project, trial, index, execution, epoch` (from 1); one per hyperparameter and per
    fixed scalar setting; the metrics, NaN where one was not measured.

    Args:
        directory: an experiment's folder, with one folder per project, or one project's.
        trials: only those with these ids.

    Raises:
        UserError: there is no experiment.
    """
    executions, lengths, epochs = [], [], []
    for project in projects(directory):
        settings = _settings(project)
        for trial in project.trials():
            for execution in trial.executions() if trials is None or trial.id in trials else ():
                rows = execution.history()
                place = _place(project, trial, execution)
                executions.append((place, {"epoch": 0}, _choices(trial), settings))
                lengths.append(len(rows))
                epochs += rows
    if not epochs:
        return _frame([], [*_PLACE, "epoch"])
    # What is the same in all epochs of an execution is made once and repeated.
    frame = _frame(executions, []).loc[np.repeat(range(len(lengths)), lengths)]
    measured = pd.DataFrame(epochs, index=frame.index)
    frame["epoch"] = measured["epoch"]
    new = measured[[name for name in measured if name not in frame]]
    return pd.concat([frame, new], axis=1).reset_index(drop=True)


def projects(directory: str | os.PathLike) -> list[Experiment]:
    """The projects of an experiment's folder, or the one that the folder is, by name.

    Raises:
        UserError: there is none.
    """
    folder, name = Path(directory).resolve(), repr(os.fspath(directory))
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {name}: give that of an experiment or of one of its projects."
        )
    candidates = [folder] if _is_project(folder) else sorted(folder.iterdir())
    found = [Experiment(path, read_only=True) for path in candidates if _is_project(path)]
    if not found:
        raise UserError(
            f"{name} holds no experiment: give the folder that was given to tune.py, or that "
            "of one of its projects."
        )
    return found


def require(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raises UserError unless the frame has rows and all of the columns."""
    for column in columns:
        if column not in frame:
            there = ", ".join(map(str, frame.columns))
            raise UserError(f"There is no column {column!r}: choose one of {there}.")
    if frame.empty:
        raise UserError("The frame has no rows: wait until something is recorded.")


def _is_project(path: Path) -> bool:
    return (path / "experiment.json").is_file() or (path / "trials").is_dir()


def _result(
    project: Experiment, settings: Mapping[str, Any], trial: Trial, execution: Execution | None
) -> tuple[Mapping[str, Any], ...]:
    result = (execution.result() if execution else None) or {}
    epochs = result.get("epochs")
    if epochs is None:
        epochs = len(execution.history()) if execution else 0
    state = {"state": trial.state, "finished": bool(result)}
    outcome = {name: result.get(name) for name in _OUTCOME}
    outcome |= {"trial_score": trial.score, "epochs": epochs}
    return (
        _place(project, trial, execution) | state,
        _choices(trial),
        settings,
        outcome,
        {name: result.get(name) for name in _COSTS},
        mapping(result.get("metrics")),
        _test(execution) if execution else {},
        {"failure": reason(trial.failure)},
    )


def _place(project: Experiment, trial: Trial, execution: Execution | None) -> dict[str, Any]:
    k = execution.index if execution else None
    return dict(zip(_PLACE, (project.path.name, trial.id, trial.index, k), strict=True))


def _choices(trial: Trial) -> dict[str, Any]:
    """The hyperparameters; lists become text, which can be grouped by."""
    return {
        name: value if _is_scalar(value) else str(value)
        for name, value in trial.hyperparameters.items()
        if name not in _TAKEN
    }


def _settings(project: Experiment) -> dict[str, Any]:
    """What was fixed for the whole project."""
    configuration = mapping(project.record().get("configuration"))
    return {
        name: value
        for name, value in configuration.items()
        if _is_scalar(value) and name not in _TAKEN
    }


def _test(execution: Execution) -> dict[str, Any]:
    test = execution.test() or {}
    return {f"test_{name.removeprefix('test_')}": value for name, value in test.items()}


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one: files may be anybody's."""
    return value if isinstance(value, Mapping) else {}


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _frame(rows: list[tuple[Mapping[str, Any], ...]], columns: list[str]) -> pd.DataFrame:
    """A frame of rows in parts: columns in the order of the parts; of equal names the first counts.

    Args:
        rows: tuples of as many dictionaries each.
        columns: those of a frame without rows.
    """
    parts = zip(*rows, strict=True)
    names = dict.fromkeys(name for part in parts for row in part for name in row)
    frame = pd.DataFrame([dict(ChainMap(*row)) for row in rows], columns=list(names) or columns)
    return frame.astype({name: "Int64" for name in _WHOLE if name in frame})
