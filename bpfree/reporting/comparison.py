"""Which rule is best, and whether the difference is real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bpfree.tuning.statistics import Summary, holm, paired_difference, summary

LEVEL = 0.05


def compare(
    frame: pd.DataFrame, board: pd.DataFrame, metric: str, maximised: bool = False, by="algorithm"
) -> pd.DataFrame:
    """The leader of a leaderboard against each other rule, over the seeds that both have.

    Columns: the rule; `n`, the seeds shared; `difference`, mean of rule − leader, and `interval`,
    half the width of its paired 95 % Student t interval; `p`, corrected by Holm for the number of rules;
    `lead`: "real" where p < 0.05 and the leader is better, "reversed" where it is worse, "undecided" else.
    Fewer than two seeds, or differences alike but for rounding, have no spread to judge by: undecided,
    without p.

    Args:
        frame: a project's rows of `results`.
        board: its leaderboard, the leader first.
        metric: the column to compare.
        maximised: whether more of it is better.
        by: the column of what competes.
    """
    leader, *others = (_by_seed(frame, trial, metric) for trial in board["trial"])
    differences = [_difference(values, leader) for values in others]
    judged = [d.p_value if d.std > 0 else None for d in differences]
    corrected = iter(holm([p for p in judged if p is not None]))
    rows = []
    for rule, difference, p in zip(board[by].iloc[1:], differences, judged, strict=True):
        p = math.nan if p is None else next(corrected)
        better = (difference.mean > 0) != maximised
        lead = ("real" if better else "reversed") if p < LEVEL else "undecided"
        rows.append(
            {by: rule, "n": difference.n, "difference": difference.mean}
            | {"interval": difference.half_width, "p": p, "lead": lead}
        )
    return pd.DataFrame(rows, columns=[by, "n", "difference", "interval", "p", "lead"])


def headline(board: pd.DataFrame, objective: str) -> str:
    """The column to compare on: the objective on the test set, or while that is unused, the score."""
    tested = f"test_{objective.removeprefix('val_')}"
    return tested if tested in board and board[tested].notna().all() else "score"


def overlap(one: Summary, other: Summary) -> bool | None:
    """Whether two intervals have values in common; None where one is unknown."""
    reach = one.half_width + other.half_width
    return abs(one.mean - other.mean) <= reach if math.isfinite(reach) else None


def of_trial(frame: pd.DataFrame, trial: str, metric: str) -> Summary:
    """The summary of a metric over a trial's executions."""
    return summary(_by_seed(frame, trial, metric))


def edge(value: Any, values: Sequence[Any]) -> str | None:
    """ "lowest" or "highest" where the best of several numbers lies at the border of their range."""
    numbers = sorted({float(v) for v in values if isinstance(v, (int, float)) and v == v})
    if len(numbers) < 2 or not isinstance(value, (int, float)):
        return None
    return {numbers[0]: "lowest", numbers[-1]: "highest"}.get(float(value))


def verdict(
    board: pd.DataFrame,
    compared: pd.DataFrame,
    by: str = "algorithm",
    chosen_on: str = "validation data",
    tested: bool = True,
) -> str:
    """Which rule is best and whether the difference is real, in one sentence without figures.

    Args:
        board: a project's leaderboard, the leader first.
        compared: see `compare`.
        by: the column of what competes.
        chosen_on: what the leaderboard is ordered by, in words.
        tested: whether rules are compared on the test set.
    """
    if board.empty:
        return "No trial is completed yet, so no rule can be called best."
    leader = str(board[by].iloc[0])
    if compared.empty:
        return f"Only {leader} has a completed trial: there is nothing to compare it with."
    found = {
        lead: [str(rule) for rule in rows[by]]
        for lead, rows in compared.groupby("lead", sort=False)
    }
    real, open_, reversed_ = (found.get(key, []) for key in ("real", "undecided", "reversed"))
    if reversed_:
        where = "on the test set" if tested else "over the seeds that both have"
        worse = f"{leader} was chosen first on {chosen_on}, but {listed(reversed_)} did better"
        return f"{worse} {where}, and that difference is real."
    if not open_:
        return f"{leader} is best, and its lead over {_all(real)} is real."
    if not real:
        return f"{leader} comes first, but its lead over {_all(open_)} is undecided."
    return (
        f"{leader} comes first: its lead over {_few(real)} is real, over {_few(open_)} undecided."
    )


def listed(names: Sequence[str]) -> str:
    """Names as "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _all(names: Sequence[str]) -> str:
    return listed(names) if len(names) < 4 else f"each of the {len(names)} others"


def _few(names: Sequence[str]) -> str:
    return listed(names) if len(names) < 4 else f"{len(names)} rules"


def _by_seed(frame: pd.DataFrame, trial: str, metric: str) -> pd.Series:
    """A trial's values by seed; by the number of the execution where the seed was not recorded.

    A score that is no number is a training that diverged; a test that has none was lost.
    """
    rows = frame[(frame["trial"] == trial) & frame["finished"]]
    seeds = rows["seed"].fillna(rows["execution"])
    values = pd.to_numeric(rows[metric], errors="coerce").astype(float)
    found = pd.Series(values.to_numpy(), index=seeds.to_numpy())
    return found.dropna() if metric.startswith("test_") else found


def _difference(values: pd.Series, leader: pd.Series) -> Summary:
    shared = [seed for seed in leader.index if seed in values.index]
    return paired_difference(values[shared].tolist(), leader[shared].tolist())
