"""Seeded, stratified, disjoint splits."""

from __future__ import annotations

import numpy as np

from bpfree.data.dataset import Dataset, Pair, Raw
from bpfree.errors import UserError
from bpfree.seeds import derive

TEST_FRACTION = 0.2
# Not the run's seed: a set's test examples are the same in every run.
TEST_SEED = derive(0, "test split")


def check_fractions(examples_frac: float, validation: float) -> None:
    """Refuses fractions out of range.

    Raises:
        UserError: `examples_frac` is not in [0, 1] or `validation` not in [0, 1).
    """
    if not 0 <= examples_frac <= 1:
        raise UserError(f"examples_frac is {examples_frac}: give a fraction from 0 to 1.")
    if not 0 <= validation < 1:
        raise UserError(f"validation is {validation}: give a fraction from 0 to below 1.")


def split(
    raw: Raw, name: str, *, examples_frac: float = 1.0, validation: float = 0.1, seed: int = 0
) -> Dataset:
    """The three splits of a set.

    First the test examples: the source's own, or else a fixed stratified 20 % that no `seed`
    changes. Then `examples_frac` of the training data, and of these the validation examples. A
    source's own validation split is used instead of drawing one; `validation=0` trains on it.

    Args:
        raw: the whole set.
        name: the name it goes by.
        examples_frac: fraction of the training data in use, in [0, 1]; 0 and 1 both mean all.
        validation: fraction of it held out, in [0, 1); 0 means none.
        seed: the run's seed, any integer.

    Raises:
        UserError: a fraction is out of range, or a class has too few examples to be split.
    """
    check_fractions(examples_frac, validation)
    train, test, val = raw.train, raw.test, raw.val
    if test is None:
        train, test = _cut(train, TEST_FRACTION, TEST_SEED, f"{name}'s test split")
    if val is not None and not validation:
        train, val = Pair(*map(np.concatenate, zip(train, val, strict=True))), None
    if 0 < examples_frac < 1:
        _, train = _cut(train, examples_frac, derive(seed, "examples"), "examples_frac")
    if val is None and validation:
        train, val = _cut(train, validation, derive(seed, "validation"), "validation")
    elif val is None:
        val = Pair(train.x[:0], train.y[:0])
    return Dataset(name, raw.classes, *train, *val, *test)


def _cut(pair: Pair, fraction: float, seed: int, what: str) -> tuple[Pair, Pair]:
    """(the rest, a stratified `fraction`), both in the original order."""
    from sklearn.model_selection import train_test_split

    labels, counts = np.unique(pair.y, return_counts=True)
    size = round(fraction * len(pair.y))
    if counts.min() < 2 or not len(labels) <= size <= len(pair.y) - len(labels):
        raise UserError(
            f"{what} takes {fraction:g} of {len(pair.y)} examples, which cannot be stratified over "
            f"{len(labels)} classes (the smallest has {counts.min()}): give another fraction or "
            "more examples per class."
        )
    rows = np.arange(len(pair.y))
    rest, part = train_test_split(rows, test_size=size, stratify=pair.y, random_state=seed)
    return pair.take(np.sort(rest)), pair.take(np.sort(part))
