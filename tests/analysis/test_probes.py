"""Linear probes against scikit-learn called directly, and what data trackers are given."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import keras_tuner
import numpy as np
import pytest
import toy
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bpfree import tuning
from bpfree.analysis import linear_probe, trackers
from bpfree.analysis.probes import pooled
from bpfree.cli import experiment, flags
from bpfree.data.dataset import Dataset
from bpfree.errors import UserError
from bpfree.tuning.execution import Regime


def expected(z, labels, train, test):
    scaler = StandardScaler().fit(z[train])
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(z[train]), labels[train])
    return 100 * np.mean(probe.predict(scaler.transform(z[test])) != labels[test])


def noisy(examples=300, features=12, classes=4):
    """Features that tell the classes apart, not perfectly, and are far from standardised."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, examples)
    z = random.normal(size=(examples, features)) + random.normal(size=(classes, features))[labels]
    return 40 + z * np.geomspace(0.01, 100, features), labels


def test_a_probe_is_a_logistic_regression_of_standardised_features():
    z, labels = noisy()
    train, test = np.arange(100), np.arange(100, 300)
    found = linear_probe(z[train], labels[train], z[test], labels[test])
    value = expected(z.astype("float32").astype("float64"), labels, train, test)
    assert found == pytest.approx(value, abs=1e-9) and 2 < value < 40


def test_small_activations_are_flattened():
    z = np.random.default_rng(0).normal(size=(3, 8, 8, 64))
    np.testing.assert_allclose(pooled(z), z.reshape(3, -1), rtol=1e-6)


def test_large_activations_are_averaged_over_neighbours():
    z = np.random.default_rng(0).normal(size=(3, 20, 10, 64))
    halved = z.reshape(3, 10, 2, 5, 2, 64).mean(axis=(2, 4))
    np.testing.assert_allclose(pooled(z), halved.reshape(3, -1), rtol=1e-5, atol=1e-6)


def test_uneven_positions_are_averaged_without_padding():
    z = np.random.default_rng(0).normal(size=(2, 3, 2000))  # as of a transformer
    expected = np.stack([(z[:, 0] + z[:, 1]) / 2, z[:, 2]], axis=1).reshape(2, -1)
    np.testing.assert_allclose(pooled(z), expected, rtol=1e-5, atol=1e-6)


def test_one_position_is_left_as_it_is():
    z = np.random.default_rng(0).normal(size=(2, 5000)).astype("float32")
    np.testing.assert_array_equal(pooled(z), z)


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y.argmax(1)], ids=["one-hot", "labels"])
def test_tracker_probes_every_block_on_every_second_example_of_a_class(form):
    x, y, _ = toy.batch(301)
    labels = y.argmax(1)
    by_class = sorted(range(301), key=lambda row: (labels[row], row))
    train, test = by_class[::2], by_class[1::2]
    shares = [np.bincount(labels[rows]) for rows in (train, test)]
    assert np.abs(shares[0] - shares[1]).max() <= 1
    learner = toy.learner("dfa")
    values = {
        f"linear_probe/block_{index}": expected(h.astype("float64"), labels, train, test)
        for index, h in enumerate(toy.values(learner.network.trace(x)[:-1]), 1)
    }
    found = trackers.get("linear_probe", x, form(y)).columns(learner)
    assert found == pytest.approx(values, abs=1e-9)
    assert all(20 < value < 80 for value in values.values())  # labels of the toy are noise


def test_activations_that_are_not_finite_have_no_probe():
    x, y, _ = toy.batch(40)
    learner = toy.learner("bp", activation="linear")
    learner.network.blocks[1].trainable_variables[0].assign(np.full((5, 4), np.nan))
    found = trackers.get("linear_probe", x, y).columns(learner)
    assert np.isfinite(found["linear_probe/block_1"]) and np.isnan(found["linear_probe/block_2"])


def test_one_class_cannot_be_probed():
    with pytest.raises(
        UserError, match="at least 2 classes .*, received 1 in 10 held-out"
    ) as refused:
        trackers.get("linear_probe", np.zeros((10, 6)), np.zeros(10, int))
    assert "\n" not in str(refused.value)


# -- what trackers are given ------------------------------------------------------------------------


def dataset(train=300, validation=1100, test=50):
    """Examples of one number each: its hundreds tell the split, 1 train, 2 validation, 3 test."""
    parts = []
    for split, n in enumerate((train, validation, test), 1):
        parts += [np.full((n, 1), 100.0 * split, "float32"), np.arange(n) % 3]
    return Dataset("toy", 3, *parts)


def tuner(problem_type="classification"):
    regime = Regime(1, keras_tuner.Objective("loss", "min"), scaler="identity")
    regime = replace(regime, problem_type=problem_type)
    made = SimpleNamespace(regime=regime, seed=0)
    made.probe = partial(tuning.GridSearch.probe, made)
    return made


def test_a_probe_batch_is_of_training_examples():
    x, y = tuner().probe(dataset(), {})
    assert x.shape == (256, 1) and set(x.ravel()) == {100.0} and set(y) == {0, 1, 2}


@pytest.mark.parametrize("problem_type", ["classification", "reconstruction"])
def test_a_held_out_batch_is_of_validation_examples_and_labels(problem_type):
    x, y = tuner(problem_type).probe(dataset(), {}, held_out=True)
    assert x.shape == (1024, 1) and set(x.ravel()) == {200.0}
    assert y.shape == (1024, 3) and set(y.sum(1)) == {1.0} and (y.sum(0) > 300).all()
    again = tuner(problem_type).probe(dataset(), {"batch_size": 7}, held_out=True)
    np.testing.assert_array_equal(again[1], y)


def test_few_held_out_examples_are_all_taken():
    x, y = tuner().probe(dataset(validation=90), {}, held_out=True)
    assert len(x) == len(y) == 90


def test_nothing_held_out_is_one_sentence():
    with pytest.raises(UserError, match="no validation examples"):
        tuner().probe(dataset(validation=0), {}, held_out=True)


def test_trackers_of_a_search_see_the_split_they_ask_for(tmp_path, monkeypatch):
    log = SimpleNamespace(callbacks=lambda model, trial, k: [None])
    monkeypatch.setattr("bpfree.tuning.tensorboard.Log", lambda *arguments: log)
    made, given = tuner(), {}
    made.experiment = SimpleNamespace(path=tmp_path)
    made.search = lambda data, callbacks, **options: given.update(callbacks=callbacks)
    arguments = ["tune.py", *(f"--tracker={name}" for name in flags.TRACKERS)]
    experiment.search(made, flags.parse(arguments, ""), dataset(), {})
    trial = SimpleNamespace(id="0", hyperparameters={})
    *chosen, _ = given["callbacks"](None, trial, 0)
    assert [tracker.name for tracker in chosen] == list(flags.TRACKERS)
    for tracker in chosen:
        assert set(tracker.x.ravel()) == {200.0 if tracker.held_out else 100.0}


def test_the_command_line_knows_which_trackers_hold_out():
    held_out = [name for name in flags.TRACKERS if trackers.find(name).held_out]
    assert list(flags.HELD_OUT_TRACKERS) == held_out == ["nhsic", "linear_probe"]
    arguments = ["tune.py", "--validation=0", "--objective=loss"]
    assert flags.parse([*arguments, "--tracker=weights"], "")
    for name in held_out:
        with pytest.raises(UserError, match=f"'{name}' .* --validation is 0: hold out"):
            flags.parse([*arguments, f"--tracker={name}"], "")
