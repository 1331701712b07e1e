"""Intervals and corrections against SciPy and published tables."""

import math

import numpy as np
import pytest
import scipy.stats

from bpfree.errors import UserError
from bpfree.tuning.statistics import holm, paired_difference, summary

pytestmark = pytest.mark.once

VALUES = [1.62, 1.71, 1.80, 1.69, 1.78]


def test_summary_of_a_small_sample_by_hand():
    result = summary([1, 2, 3, 4, 5])
    assert (result.mean, result.n) == (3.0, 5)
    assert result.std == pytest.approx(math.sqrt(2.5), rel=1e-15)
    assert result.half_width == pytest.approx(2.776445105 * math.sqrt(2.5 / 5), rel=1e-9)  # table


def test_summary_agrees_with_scipy():
    result = summary(np.asarray(VALUES))
    low, high = scipy.stats.t.interval(
        0.95, len(VALUES) - 1, loc=np.mean(VALUES), scale=scipy.stats.sem(VALUES)
    )
    assert result.mean == pytest.approx(np.mean(VALUES), rel=1e-14)
    assert result.std == pytest.approx(np.std(VALUES, ddof=1), rel=1e-14)
    assert result.mean - result.half_width == pytest.approx(low, rel=1e-12)
    assert result.mean + result.half_width == pytest.approx(high, rel=1e-12)


def test_too_few_values_have_no_interval():
    one, none = summary([2.5]), summary([])
    assert (one.mean, one.n, none.n) == (2.5, 1, 0)
    assert all(map(math.isnan, (one.std, one.half_width, one.p_value, none.mean, none.std)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_execution_is_not_left_out(bad):
    result = summary([1.0, bad])
    assert repr(result.mean) == repr(bad) and math.isnan(result.half_width) and result.n == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (VALUES, "1.72 ± 0.09 (n=5)"),
        ([0.0162, 0.0171, 0.0180, 0.0169, 0.0178], "0.0172 ± 0.0009 (n=5)"),
        ([10, 14, 30], "18.00 ± 26.29 (n=3)"),
        ([2, 2], "2.00 ± 0.00 (n=2)"),
        ([0.0172], "0.0172 (n=1)"),
        ([math.nan, 1], "nan (n=2)"),
    ],
)
def test_a_summary_reads_like_a_table_entry(values, text):
    assert str(summary(values)) == text


def test_paired_difference_agrees_with_scipy():
    other = [1.65, 1.90, 1.84, 1.85, 1.83]
    result, oracle = paired_difference(VALUES, other), scipy.stats.ttest_rel(VALUES, other)
    interval = oracle.confidence_interval(0.95)
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-10)
    assert result.mean - result.half_width == pytest.approx(interval.low, rel=1e-10)
    assert result.mean + result.half_width == pytest.approx(interval.high, rel=1e-10)
    assert result.mean < 0  # a - b, not b - a


def test_p_values_without_spread():
    assert summary([0.25, 0.25]).p_value == 0.0
    assert summary([0.0, 0.0]).p_value == 1.0


def test_paired_differences_that_are_rounding_are_none():
    thirds = [third / 3 for third in (1, 2, 4, 5)]
    rounded = [float(np.float32(third)) for third in thirds]
    same = paired_difference(rounded, thirds)
    assert (same.mean, same.std, same.half_width, same.p_value, same.n) == (0, 0, 0, 1, 4)
    shifted = paired_difference([value + 2 for value in rounded], thirds)
    assert shifted.mean == pytest.approx(2, abs=1e-6)
    assert (shifted.std, shifted.half_width) == (0, 0)
    small = [value * (1 + 1e-5 * k) for k, value in enumerate(thirds)]
    oracle = scipy.stats.ttest_rel(small, thirds)
    assert paired_difference(small, thirds).p_value == pytest.approx(oracle.pvalue, rel=1e-6)


def test_paired_differences_need_pairs():
    with pytest.raises(UserError, match="received 5 and 2"):
        paired_difference(VALUES, [1.0, 2.0])


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, then never decreasing
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-14)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_as_the_step_down_procedure_does():
    p_values = np.random.default_rng(0).uniform(0, 0.05, (200, 6))
    for row in p_values:
        rejected = set()
        for rank, i in enumerate(np.argsort(row)):
            if row[i] > 0.05 / (6 - rank):
                break
            rejected.add(int(i))
        assert {i for i, p in enumerate(holm(list(row))) if p <= 0.05} == rejected


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_wants_probabilities(bad):
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.5, bad])
