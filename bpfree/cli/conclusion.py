"""The end of a sweep: the leaderboard, a picture, the best models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bpfree import reporting
from bpfree.errors import UserError
from bpfree.reporting import pareto
from bpfree.tuning.records import write_atomic, write_json

_WIDEST = 1000  # columns of a file
_HIDDEN = ("project", "trial", "objective", "summary", "mean", "interval", "std", "n")


def conclude(tuner, data, save_models: bool) -> None:
    """Evaluates the best trial of each rule on the test set, once, and shows what came out.

    Args:
        tuner: after its search.
        data: the data set.
        save_models: whether to save the best model of each rule.
    """
    board = tuner.leaderboard(data)
    path = tuner.experiment.path
    write_atomic(path / "leaderboard.csv", board.to_csv(index=False))
    console = _console()
    console.print(table(board))
    if further := tuner.oracle.further_objectives:
        names = [objective.name for objective in (tuner.oracle.objective, *further)]
        console.print(front(path, names))
    failed = [trial for trial in tuner.experiment.trials() if trial.state == "failed"]
    if failed:
        print(f"{len(failed)} trials failed; their tracebacks are in {path}/trials/*/trial.json.")
    if drawn := picture(path):
        print(f"Learning curves: {drawn}")
    if save_models:
        for row in board.itertuples():
            print(f"Model: {save_model(tuner, row)}")


def conclude_run(tuner, trial, data) -> None:
    """Evaluates a single run on the test set, and puts history, model and curve into its folder.

    Args:
        tuner: after its search of one trial with one execution.
        trial: that trial, completed.
        data: the data set.
    """
    path, (execution,) = tuner.experiment.path, trial.executions()
    tuner.leaderboard(data)
    write_atomic(path / "history.csv", execution.history_file.read_bytes())
    write_json(path / "test.json", execution.test())
    tuner.load_model(tuner.oracle.trials[trial.id]).save(path / "model.keras")
    result = execution.result()
    print(f"best epoch {result['best_epoch']} of {result['epochs']}: {_listed(result['metrics'])}")
    print(f"test: {_listed(execution.test())}")
    drawn = " and history.png" if picture(path, "history.png") else ""
    print(f"history.csv, test.json, model.keras{drawn}: {path}")


def table(board: pd.DataFrame) -> Table:
    """The leaderboard for a terminal: chosen on validation, then the test set."""
    objective = board["objective"].iloc[0]
    shown = Table(
        title=f"Best hyperparameters of each rule, chosen by {objective}", title_justify="left"
    )
    names = [name for name in board.columns if name not in _HIDDEN and not name.startswith("test_")]
    tested = [name for name in ("test_error", "test_loss", "test_accuracy") if name in board]
    for name in names:
        shown.add_column(name)
    for name in (objective, *tested):
        shown.add_column(name, justify="right")
    for _, row in board.iterrows():
        cells = [_plain(row[name]) for name in names]
        cells.append(_with_interval(row["mean"], row["interval"]))
        cells += [_with_interval(row[name], row[f"{name}_interval"]) for name in tested]
        shown.add_row(*cells)
    shown.caption = (
        f"mean ± 95 % t interval of n = {board['n'].iloc[0]} executions; the test set was used once, "
        "for these trials only"
    )
    return shown


def front(path: Path, objectives: Sequence[str]) -> Table | str:
    """The Pareto front for a terminal, or why there is none."""
    try:
        found = reporting.pareto_front(path)
    except UserError as error:
        return str(error)
    shown = Table(title=pareto.sentence(objectives), title_justify="left")
    for name in found.columns.drop("project"):
        shown.add_column(name, justify="right" if name in objectives else "left")
    for row in found.drop(columns="project").to_dict("records"):
        values = (f"{v:.4g}" if n in objectives else _plain(v) for n, v in row.items())
        shown.add_row(*values)
    shown.caption = "means over the executions; the test set has no part in it"
    return shown


def picture(path: Path, name: str = "learning_curves.png") -> Path | None:
    """Draws the learning curves of each rule's best trial, and returns the file; None without any."""
    histories = reporting.histories(path, reporting.leaderboard(path)["trial"].tolist())
    metrics = [name for name in ("val_error", "error", "val_loss", "loss") if name in histories]
    if not metrics:
        return None
    figure = reporting.plot_histories(histories, metric=metrics[0])
    file = path / name
    figure.savefig(file, dpi=150)
    return file


def save_model(tuner, row) -> Path:
    """Saves the best execution of a leaderboard row as a Keras file."""
    (trial,) = [known for known in tuner.oracle.trials.values() if known.trial_id == row.trial]
    folder = tuner.experiment.path / "best_models"
    folder.mkdir(exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in row.algorithm)
    file = folder / f"{name}.keras"
    tuner.load_model(trial).save(file)
    return file


def _console() -> Console:
    """Prints tables, brackets in rule specs as they are; in a file or a pipe as wide as they are."""
    plain = {"soft_wrap": True, "markup": False, "emoji": False}
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=_WIDEST)


def _plain(value: Any) -> str:
    return "" if pd.isna(value) else f"{value}"


def _with_interval(mean: float, interval: float) -> str:
    if not math.isfinite(interval):
        return f"{mean:.4g}"
    decimals = max(2, -math.floor(math.log10(interval))) if interval else 2
    return f"{mean:.{decimals}f} ± {interval:.{decimals}f}"


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
