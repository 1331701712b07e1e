"""How sure one can be of a mean over executions, and of the difference between two rules."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bpfree.errors import UserError

_ROUNDING = 1e-6  # of the largest value: metrics are float32


@dataclass(frozen=True)
class Summary:
    """A mean and its 95 % Student t interval, `mean ± half_width`.

    Attributes:
        mean: arithmetic mean; NaN for no values.
        std: standard deviation with `n - 1` in the denominator; NaN for fewer than two values.
        half_width: `t(0.975, n - 1) * std / sqrt(n)`; NaN for fewer than two values.
        n: number of values.
    """

    mean: float
    std: float
    half_width: float
    n: int

    def __str__(self) -> str:
        """Like "1.72 ± 0.08 (n=5)", with as many decimals as the interval justifies, at least 2."""
        if not math.isfinite(self.half_width):
            return f"{self.mean:.4g} (n={self.n})"
        leading = math.floor(math.log10(self.half_width)) if self.half_width else 0
        decimals = max(2, -leading)
        return f"{self.mean:.{decimals}f} ± {self.half_width:.{decimals}f} (n={self.n})"

    @property
    def p_value(self) -> float:
        """Two-sided p of the t test that the true mean is 0; NaN for fewer than two values.

        Values that are all alike have no spread: p is 0, or 1 if they are all 0.
        """
        if not self.std > 0:
            return float(self.mean == 0) if self.std == 0 else math.nan
        from scipy.special import stdtr

        t = abs(self.mean) / (self.std / math.sqrt(self.n))
        return float(2 * stdtr(self.n - 1, -t))


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % Student t interval of independent values.

    One that is NaN or infinite, as of a diverged execution, is not left out: the mean says so.

    Args:
        values: one number per execution.
    """
    values = [float(value) for value in values]
    n = len(values)
    mean = sum(values) / n if n else math.nan
    if n < 2 or not math.isfinite(mean):
        return Summary(mean, math.nan, math.nan, n)
    from scipy.special import stdtrit

    std = statistics.stdev(values)
    return Summary(mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n), n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Summary:
    """The summary of `a - b`, seed by seed; two rules are undecided while its interval contains 0.

    A spread of at most a millionth of the largest value is rounding and counts as 0, like such a mean then.

    Args:
        a: one number per seed.
        b: as many, of the same seeds in the same order.

    Raises:
        UserError: the lengths differ.
    """
    if len(a) != len(b):
        raise UserError(
            f"Paired values need the same seeds on both sides, received {len(a)} and {len(b)}: "
            "keep the seeds that both have."
        )
    found = summary([x - y for x, y in zip(a, b, strict=True)])
    rounding = _ROUNDING * max(map(abs, [*a, *b]), default=0.0)
    if found.std <= rounding:
        mean = found.mean if abs(found.mean) > rounding else 0.0
        return replace(found, mean=mean, std=0.0, half_width=0.0)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down method, in the order given.

    The i-th smallest of m (from 1) becomes the largest of `(m - j + 1) p_j` over `j <= i`, at most
    1. Rejecting those below a level keeps the chance of any false rejection below it.

    Args:
        p_values: one per comparison, between 0 and 1.

    Raises:
        UserError: one is not between 0 and 1.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise UserError(f"A p value lies between 0 and 1, received {p}: leave it out.")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
