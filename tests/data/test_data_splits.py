"""Splits of data: disjoint, stratified, seeded, the test split whole and fixed."""

import numpy as np
import pytest

from bpfree import data
from bpfree.data.dataset import Pair, Raw
from bpfree.data.splits import split
from bpfree.errors import UserError

pytestmark = pytest.mark.once

# 300 examples that are their own number, in three classes of 60 %, 30 % and 10 %.
Y = np.repeat([0, 1, 2], [180, 90, 30])
SHARES = np.array([0.6, 0.3, 0.1])


def numbers(first=0, y=Y):
    return Pair(np.arange(first, first + len(y))[:, None], np.array(y))


def ids(dataset):
    return [getattr(dataset, f"x_{part}")[:, 0].tolist() for part in ("train", "val", "test")]


def test_three_splits_hold_every_example_once():
    train, val, test = ids(split(Raw(numbers(), 3), "numbers", validation=0.25))
    assert sorted(train + val + test) == list(range(300))
    assert (len(train), len(val), len(test)) == (180, 60, 60)


def test_labels_stay_with_their_examples():
    dataset = split(Raw(numbers(), 3), "numbers", examples_frac=0.5, validation=0.25)
    for part in ("train", "val", "test"):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        assert (Y[x[:, 0]] == y).all()


def test_every_split_has_the_shares_of_the_classes():
    dataset = split(Raw(numbers(), 3), "numbers", examples_frac=0.5, validation=0.25)
    for y in (dataset.y_train, dataset.y_val, dataset.y_test):
        assert np.abs(np.bincount(y, minlength=3) - SHARES * len(y)).max() <= 1


def test_seed_changes_validation_and_fraction_but_never_the_test_split():
    first, second, again = (
        ids(split(Raw(numbers(), 3), "numbers", examples_frac=0.5, seed=seed)) for seed in (0, 1, 0)
    )
    assert first == again
    assert first[1] != second[1]
    assert sorted(first[0] + first[1]) != sorted(second[0] + second[1]), "the examples in use"
    assert first[2] == second[2]


def test_validation_does_not_change_the_examples_in_use():
    few, more = (
        ids(split(Raw(numbers(), 3), "numbers", examples_frac=0.5, validation=v))
        for v in (0.1, 0.3)
    )
    assert sorted(few[0] + few[1]) == sorted(more[0] + more[1])


def test_examples_frac_0_and_1_both_mean_all():
    assert ids(split(Raw(numbers(), 3), "numbers", examples_frac=0)) == ids(
        split(Raw(numbers(), 3), "numbers", examples_frac=1)
    )


def test_a_source_s_test_split_stays_whole_and_as_it_is():
    test = numbers(1000, y=[0, 2, 1, 0])
    dataset = split(Raw(numbers(), 3, test), "numbers", examples_frac=0.1, validation=0.2, seed=3)
    assert dataset.x_test[:, 0].tolist() == [1000, 1001, 1002, 1003]
    assert len(dataset.x_train) + len(dataset.x_val) == 30


def test_no_validation_is_an_empty_array_of_the_right_shape():
    raw = Raw(Pair(np.zeros((300, 4, 5, 1), np.uint8), Y.copy()), 3)
    dataset = split(raw, "zeros", validation=0)
    assert dataset.x_val.shape == (0, 4, 5, 1) and dataset.x_val.dtype == np.uint8
    assert dataset.y_val.shape == (0,)
    assert len(dataset.x_train) == 240


def test_a_source_s_validation_split_is_used_or_trained_on():
    val = numbers(500, y=[0, 1, 2])
    kept = ids(split(Raw(numbers(), 3, numbers(900), val), "numbers", validation=0.1))
    assert kept[1] == [500, 501, 502] and kept[0] == list(range(300))
    trained = ids(split(Raw(numbers(), 3, numbers(900), val), "numbers", validation=0))
    assert trained[1] == [] and trained[0] == [*range(300), 500, 501, 502]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"examples_frac": 1.5}, "examples_frac is 1.5"),
        ({"examples_frac": -0.1}, "examples_frac is -0.1"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"validation": float("nan")}, "validation is nan"),
        ({"examples_frac": 0.005}, "examples_frac takes 0.005 of 1438 examples"),
        ({"validation": 0.999}, "validation takes 0.999 of 1438 examples"),
    ],
)
def test_bad_fractions_get_one_sentence(options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}.*\\.$"):
        data.load("digits", **options)


def test_a_class_of_one_example_gets_one_sentence():
    with pytest.raises(UserError, match=r"the smallest has 1\): give another fraction or more"):
        split(Raw(numbers(y=[0] * 20 + [1]), 2), "numbers")


def test_cached_arrays_cannot_be_changed_by_accident():
    raw = Raw(numbers(), 3)
    dataset = split(Raw(*[raw.train, 3, numbers(900)]), "numbers", validation=0)
    with pytest.raises(ValueError, match="read-only"):
        dataset.x_train[0] = 7
