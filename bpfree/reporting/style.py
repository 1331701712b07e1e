"""One look for every figure: a learning rule has the same colour and marker wherever it appears."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which the colour-blind can tell apart; grey stands in for their yellow,
# which is too faint for lines on white.
BLACK, GREY = "#000000", "#999999"
BLUE, SKY, VERMILION, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#009E73"
ORANGE, PURPLE = "#E69F00", "#CC79A7"
PALETTE = (BLACK, GREY, BLUE, SKY, VERMILION, GREEN, ORANGE, PURPLE)
MARKERS = (None, "o", "^", "s")
LINES = ("-", "--", ":", "-.")

# Fixed, so that a figure of two rules and one of twenty agree; new rules go to the end.
RULES = (
    *("bp", "shallow", "dfa", "sdfa", "drtp", "cce", "mse", "ll"),
    *("fa", "usf", "brsf", "frsf", "lw", "mf", "cafo", "ff"),
    *("sp", "tp", "itp", "gait", "dtp", "fg", "pepita", "ff_recurrent"),
)


def rule_look(rule: str) -> dict[str, Any]:
    """Colour and marker of a rule, of which a spec's options are no part.

    Args:
        rule: a name or spec, like "dfa" or "fg:guess=local"; a plugin's gets one by its name alone.
    """
    name = rule.partition(":")[0]
    place = RULES.index(name) if name in RULES else len(RULES) + zlib.crc32(name.encode())
    turn = min(place // len(PALETTE), len(MARKERS) - 1)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[turn]}


def looks(groups: Sequence[tuple], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, marker and line style of each group; by rule where the groups tell rules apart.

    Args:
        groups: the groups' values, one per column each.
        columns: what is grouped by.
    """
    if "algorithm" not in columns:
        return [_nth_look(n) for n in range(len(groups))]
    at = list(columns).index("algorithm")
    rest = [(g[at].partition(":")[2], *g[:at], *g[at + 1 :]) for g in map(_texts, groups)]
    different = list(dict.fromkeys(rest))
    lines = [LINES[different.index(r) % len(LINES)] for r in rest]
    return [
        {**rule_look(str(group[at])), "linestyle": line}
        for group, line in zip(groups, lines, strict=True)
    ]


def in_order(groups: Sequence[tuple]) -> list[tuple]:
    """Groups sorted by value: rules in their fixed order, numbers by size, missing ones last."""
    return sorted(groups, key=lambda group: tuple(map(_rank, group)))


def _rank(value: Any) -> tuple:
    if isinstance(value, str):
        name = value.partition(":")[0]
        return (1, RULES.index(name) if name in RULES else len(RULES), value)
    return (0, value, "") if value == value and value is not None else (2, 0, "")


def _nth_look(n: int) -> dict[str, Any]:
    n += 2  # black and grey are known as bp and shallow
    turn = n // len(PALETTE) % len(MARKERS)
    return {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[turn], "linestyle": "-"}


def _texts(group: tuple) -> tuple[str, ...]:
    return tuple(map(str, group))
