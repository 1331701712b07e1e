"""Which rule is best: against SciPy's paired t test, and by words."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bpfree.reporting.comparison import compare, edge, headline, overlap, verdict
from bpfree.tuning.statistics import Summary, holm

pytestmark = pytest.mark.once


def results(scores, seeds=None):
    """Rows of `results`: one trial per rule, named like it."""
    rows = [
        {"trial": rule, "algorithm": rule, "seed": seed, "execution": k, "finished": True, "m": value}
        for rule, values in scores.items()
        for k, (seed, value) in enumerate(zip((seeds or {}).get(rule, range(9)), values, strict=False))
    ]  # fmt: skip
    board = pd.DataFrame({"algorithm": list(scores), "trial": list(scores)})
    return pd.DataFrame(rows).astype({"seed": "Int64"}), board


def test_differences_are_paired_by_seed_and_corrected_for_their_number():
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 3, 6)  # what seeds share drowns the rules' differences unless paired
    scores = {rule: seeds + shift + rng.normal(0, 0.4, 6) for rule, shift in
              [("bp", 0.0), ("dfa", 2.0), ("ll", 0.1), ("drtp", 0.9)]}  # fmt: skip
    frame, board = results(scores)
    found = compare(frame.sample(frac=1, random_state=1), board, "m")
    tests = [stats.ttest_rel(scores[rule], scores["bp"]) for rule in ("dfa", "ll", "drtp")]
    assert found["algorithm"].tolist() == ["dfa", "ll", "drtp"] and (found["n"] == 6).all()
    assert found["p"].tolist() == pytest.approx(holm([test.pvalue for test in tests]), rel=1e-9)
    ends = [test.confidence_interval(0.95) for test in tests]
    means = [np.mean(scores[rule] - scores["bp"]) for rule in ("dfa", "ll", "drtp")]
    assert found["difference"].tolist() == pytest.approx(means)
    assert found["interval"].tolist() == pytest.approx([(e.high - e.low) / 2 for e in ends])
    assert found["lead"].tolist() == ["real", "undecided", "real"]


def test_the_correction_decides():
    """p = 0.03 alone is real; among three it is not."""
    frame, board = results({"bp": [0, 0, 0, 0], "dfa": [1.0, 2.0, 2.6, 0.8]})
    assert compare(frame, board, "m")["lead"].tolist() == ["real"]
    frame, board = results(
        {"bp": [0, 0, 0, 0], **dict.fromkeys(["dfa", "ll", "fa"], [1.0, 2.0, 2.6, 0.8])}
    )
    found = compare(frame, board, "m")
    assert found["lead"].tolist() == ["undecided"] * 3
    assert (found["difference"] > found["interval"]).all()


def test_only_shared_seeds_count_and_too_few_decide_nothing():
    scores = {"bp": [0.0, 0.0, 0.0], "dfa": [1.0, 1.1, 1.2], "ll": [5.0, 6.0, 7.0]}
    frame, board = results(scores, {"bp": [1, 2, 3], "dfa": [3, 2, 7], "ll": [3, 8, 9]})
    found = compare(frame, board, "m")
    assert found["n"].tolist() == [2, 1]
    assert found["difference"].tolist() == pytest.approx([1.05, 5.0])
    assert found["lead"].tolist() == ["real", "undecided"]
    assert math.isnan(found["p"][1])


def test_differences_all_alike_decide_nothing():
    frame, board = results({"bp": [0.0, 1.0], "dfa": [1.0, 2.0]})
    assert compare(frame, board, "m")["lead"].tolist() == ["undecided"]


def test_differences_alike_but_for_rounding_decide_nothing():
    """Per cent of 359 in float32: 300 mistakes more on either seed, and as many but for the last bit."""

    def errors(*mistakes):
        return np.float32(mistakes) / np.float32(359) * np.float32(100)

    leader = errors(500, 700)
    same = np.nextafter(leader, np.float32([0, 999]))
    frame, board = results({"bp": leader, "dfa": errors(800, 1000), "ll": same})
    shifted = (errors(800, 1000) - leader).astype(float)
    assert stats.ttest_1samp(shifted, 0.0).pvalue < 1e-6  # what there is to be kept from
    found = compare(frame, board, "m")
    assert found["lead"].tolist() == ["undecided"] * 2 and found["p"].isna().all()
    assert found["difference"].tolist() == [pytest.approx(30000 / 359, rel=1e-6), 0.0]
    assert found["interval"].tolist() == [0.0, 0.0]
    assert verdict(board, found) == "bp comes first, but its lead over dfa and ll is undecided."


def test_a_small_but_true_spread_is_judged():
    """One mistake of 10000 on one of three seeds is no rounding."""
    frame, board = results({"bp": [50.0, 60.0, 70.0], "dfa": [51.0, 61.0, 71.01]})
    expected = stats.ttest_rel([51.0, 61.0, 71.01], [50.0, 60.0, 70.0]).pvalue
    found = compare(frame, board, "m")
    assert found["p"].tolist() == pytest.approx([expected], rel=1e-6)
    assert found["lead"].tolist() == ["real"]


@pytest.mark.parametrize(("maximised", "lead"), [(False, "real"), (True, "reversed")])
def test_the_direction_says_who_is_better(maximised, lead):
    frame, board = results({"bp": [0, 0, 0], "dfa": [1.0, 1.1, 1.2]})
    assert compare(frame, board, "m", maximised)["lead"].tolist() == [lead]


def test_a_diverged_execution_leaves_its_rule_undecided():
    frame, board = results({"bp": [0, 0, 0], "dfa": [1.0, math.nan, 1.2], "ll": [1.0, 1.1, 1.2]})
    assert compare(frame, board, "m")["lead"].tolist() == ["undecided", "real"]


@pytest.mark.parametrize(
    ("leads", "sentence"),
    [
        ([], "Only bp has a completed trial: there is nothing to compare it with."),
        (["real"], "bp is best, and its lead over r0 is real."),
        (["real"] * 3, "bp is best, and its lead over r0, r1 and r2 is real."),
        (["real"] * 4, "bp is best, and its lead over each of the 4 others is real."),
        (["undecided"] * 2, "bp comes first, but its lead over r0 and r1 is undecided."),
        (
            ["real", "undecided"],
            "bp comes first: its lead over r0 is real, over r1 undecided.",
        ),
        (
            ["real"] * 4 + ["undecided"] * 5,
            "bp comes first: its lead over 4 rules is real, over 5 rules undecided.",
        ),
        (
            ["real", "reversed"],
            "bp was chosen first on validation data, but r1 did better on the test set, and that "
            "difference is real.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(leads, sentence):
    compared = pd.DataFrame({"algorithm": [f"r{i}" for i in range(len(leads))], "lead": leads})
    board = pd.DataFrame({"algorithm": ["bp", *compared["algorithm"]]})
    assert verdict(board, compared) == sentence
    assert verdict(board.iloc[:0], compared).startswith("No trial is completed yet")


def test_a_reversed_lead_by_scores_is_not_said_to_be_of_the_test_set():
    compared = pd.DataFrame({"algorithm": ["dfa"], "lead": ["reversed"]})
    said = verdict(pd.DataFrame({"algorithm": ["bp", "dfa"]}), compared, tested=False)
    assert "but dfa did better over the seeds that both have" in said and "test" not in said


@pytest.mark.parametrize(
    ("value", "values", "side"),
    [
        (0.1, [0.1, 0.01, 0.001], "highest"),
        (0.001, [0.1, 0.01, 0.001], "lowest"),
        (0.01, [0.1, 0.01, 0.001], None),
        (0.1, [0.1, 0.1], None),
        (0.1, [], None),
        (None, [0.1, 0.2], None),
    ],
)
def test_the_edge_of_a_grid(value, values, side):
    assert edge(value, values) == side


def test_overlapping_intervals():
    def s(mean, width):
        return Summary(mean, math.nan, width, 3)

    assert overlap(s(1, 0.3), s(1.5, 0.2)) and not overlap(s(1, 0.3), s(1.5, 0.1))
    assert overlap(s(1, math.nan), s(1, 1)) is None


def test_rules_are_compared_on_the_test_set_once_all_were_tested():
    board = pd.DataFrame({"test_loss": [1.0, 2.0], "test_error": [1.0, math.nan]})
    assert headline(board, "val_loss") == headline(board, "loss") == "test_loss"
    assert headline(board, "val_error") == headline(board, "val_accuracy") == "score"
