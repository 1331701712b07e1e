"""Warm starts: learning rates that an earlier experiment found best, rule by rule."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bpfree.errors import UserError


def best_rates(directory: str | os.PathLike, algorithms: Iterable[str]) -> dict[str, float]:
    """The learning rate of each rule's best trial by the earlier experiment's own objective.

    Args:
        directory: an experiment with one project, finished or not, or a project's folder.
        algorithms: spec strings, as the earlier experiment has them.

    Raises:
        UserError: if there is no such experiment, it has several projects, no rates, or no completed trial of
            a rule.
    """
    from bpfree.reporting import leaderboard, results

    runs = results(directory)
    if not {"algorithm", "lr"} <= {*runs}:
        raise UserError(
            f"--lr_from: {os.fspath(directory)} has no trial with an algorithm and an lr on record: give an "
            "experiment of tune.py that has completed trials."
        )
    board = leaderboard(directory)
    projects = board["project"].unique()
    if len(projects) > 1:
        raise UserError(
            f"--lr_from: {os.fspath(directory)} holds several projects, {', '.join(projects)}: give "
            "the folder of one."
        )
    rate_of = runs.drop_duplicates("trial").set_index("trial")["lr"]
    found = {row.algorithm: float(rate_of[row.trial]) for row in board.itertuples()}
    missing = [name for name in algorithms if name not in found]
    if missing:
        raise UserError(
            f"--lr_from: {os.fspath(directory)} has no completed trial of {', '.join(missing)}, only of "
            f"{', '.join(found)}: sweep these only, or tune the others first."
        )
    return {name: found[name] for name in algorithms}
