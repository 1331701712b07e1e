"""Trackers against NumPy, and that looking changes nothing."""

import keras
import numpy as np
import pytest
import toy
from oracles import ORACLES
from oracles.mlp import Problem, softmax

import bpfree
from bpfree.analysis import trackers
from bpfree.errors import UserError

PLACES = ["block_1", "block_2", "head"]


@pytest.fixture(scope="module")
def batch():
    x, y, _ = toy.batch()
    return x, y


def measured(tracker, rule, batch, **options):
    learner = toy.learner(rule, **options)
    return learner, dict(trackers.get(tracker, *batch).measure(learner))


def problem(learner, batch):
    weights = toy.values(learner.trainable_variables)
    feedback = toy.values(getattr(learner.rule, "feedback", []))
    return Problem(weights, feedback, *batch, np.ones(len(batch[0])))


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))


def test_bp_goes_its_own_way(batch):
    _, found = measured("bp_cosine", "bp", batch, batch_norm=True, dropout=0.3)
    assert list(found) == PLACES
    assert found == pytest.approx(dict.fromkeys(PLACES, 1.0), abs=1e-6)


@pytest.mark.parametrize("rule", ["dfa", "drtp", "ll"])
def test_bp_cosine_is_that_of_the_closed_forms(rule, batch):
    learner, found = measured("bp_cosine", rule, batch)
    task = problem(learner, batch)
    pairs = zip(ORACLES[rule](task)[::2], ORACLES["bp"](task)[::2], strict=True)
    expected = [cosine(ours, reference) for ours, reference in pairs]
    assert expected[-1] == pytest.approx(1.0) and min(expected[:-1]) < 0.9
    np.testing.assert_allclose([found[place] for place in PLACES], expected, atol=1e-5)


def test_shallow_has_no_direction(batch):
    _, found = measured("bp_cosine", "shallow", batch)
    assert (found["block_1"], found["block_2"]) == (0.0, 0.0)
    assert found["head"] == pytest.approx(1.0, abs=1e-6)


def test_without_the_same_inputs_there_is_no_backpropagation_to_compare_with(batch):
    assert list(measured("bp_cosine", "ff", batch)[1]) == PLACES
    wide = bpfree.architectures.get("5-4", (toy.INPUTS + toy.OUTPUTS,), toy.OUTPUTS)
    assert measured("bp_cosine", "ff:embed=append", batch, net=wide)[1] == {}


def norms(arrays):
    """Of `[K_1, b_1, …]`, by place."""
    expected = {}
    for place, kernel, bias in zip(PLACES, arrays[::2], arrays[1::2], strict=True):
        expected[place] = np.sqrt((kernel**2).sum())
        expected[f"{place}/bias"] = np.sqrt((bias**2).sum())
    return expected


def test_gradients_are_the_norms_of_the_rules(batch):
    learner, found = measured("gradients", "dfa", batch)
    assert found == pytest.approx(norms(ORACLES["dfa"](problem(learner, batch))), rel=1e-4)


def test_weights_are_the_norms_of_the_weights(batch):
    learner, found = measured("weights", "dfa", batch)
    expected = norms([w.astype("float64") for w in toy.values(learner.trainable_variables)])
    assert found == pytest.approx(expected, rel=1e-6)


def test_local_loss_is_the_cross_entropy_behind_the_projection(batch):
    learner, found = measured("local_loss", "ll:loss=cce", batch)
    task = problem(learner, batch)
    scores = [h @ F for h, F in zip(task.hidden, task.feedback, strict=True)]
    expected = [-(task.y * np.log(softmax(score))).sum(1).mean() for score in scores]
    expected.append(task.loss())
    np.testing.assert_allclose([found[place] for place in PLACES], expected, rtol=1e-5)


def test_local_loss_of_bp_is_the_heads_alone(batch):
    learner, found = measured("local_loss", "bp", batch)
    assert (found["block_1"], found["block_2"]) == (0.0, 0.0)
    assert found["head"] == pytest.approx(problem(learner, batch).loss(), rel=1e-5)


@pytest.mark.parametrize("rule", ["dfa", "ll"])
def test_weight_alignment_is_complete_where_weights_start_aligned(rule, batch):
    options = {"net": toy.network("5-4-7", fw_init="aligned"), "random_weights": False}
    _, found = measured("weight_alignment", rule, batch, **options)
    assert list(found) == ["block_2", "block_3", "head"]
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-6)


def test_weight_alignment_is_the_cosine_of_the_matrices(batch):
    learner, found = measured("weight_alignment", "dfa", batch)
    task = problem(learner, batch)
    (_, _), (second, _), (head, _) = task.layers
    first_feedback, second_feedback = task.feedback
    expected = {
        "block_2": cosine(second, first_feedback @ second_feedback.T),
        "head": cosine(head, second_feedback),
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert max(map(abs, expected.values())) < 0.95


def test_weight_alignment_needs_feedback(batch):
    _, found = measured("weight_alignment", "bp", batch)
    assert found == {}


def own_network(*parts, shape):
    return bpfree.BlockNetwork.from_sequential(keras.Sequential([keras.Input(shape), *parts]))


def own_learner(rule, *parts, shape):
    learner = bpfree.Learner(own_network(*parts, shape=shape), rule, seed=0)
    learner.build((None, *shape))
    toy.randomize(learner)
    learner.compile("sgd", "categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    return learner, x, np.eye(3, dtype="float32")[[0, 1, 2, 0]]


SEVERAL = {
    "separable": [keras.layers.SeparableConv1D(4, 2, activation="tanh"), keras.layers.Flatten()],
    "recurrent": [keras.layers.LSTM(4)],
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_every_kernel_of_a_layer_counts(kind):
    """All trainable weights of these blocks but the bias are kernels: two each."""
    learner, x, y = own_learner("bp", *SEVERAL[kind], keras.layers.Dense(3), shape=(3, 2))
    matrices = [v for v in learner.network.blocks[0].trainable_variables if v.name != "bias"]
    assert len(matrices) == 2
    expected = np.sqrt(sum((v.astype("float64") ** 2).sum() for v in toy.values(matrices)))
    found = dict(trackers.get("weights", x, y).measure(learner))
    assert found["block_1"] == pytest.approx(expected, rel=1e-6)
    assert dict(trackers.get("bp_cosine", x, y).measure(learner))["block_1"] == pytest.approx(1)


def test_weight_alignment_leaves_out_what_has_no_kernel_of_the_shape():
    dense, flatten = keras.layers.Dense, keras.layers.Flatten
    blocks = [dense(4, "tanh"), keras.Sequential([flatten()]), keras.Sequential([dense(3)])]
    network = bpfree.BlockNetwork(blocks, dense(3))
    network.build((None, 6))
    learner = bpfree.Learner(network, "dfa", seed=0)
    learner.build((None, 6))
    learner.compile("sgd", "categorical_crossentropy")
    assert list(dict(trackers.get("weight_alignment", *toy.batch()[:2]).measure(learner))) == [
        "block_3",
        "head",
    ]


def test_under_pepita_only_a_chain_of_matrices_is_aligned():
    """On sequences, a first kernel (2, 4) is followed by one of (12, 3)."""
    layers = keras.layers
    parts = [layers.Dense(4), layers.Activation("tanh"), layers.Flatten(), layers.Dense(3)]
    learner, x, y = own_learner("pepita", *parts, shape=(3, 2))
    assert dict(trackers.get("weight_alignment", x, y).measure(learner)) == {}


NAMES = ["bp_cosine", "gradients", "weights", "local_loss", "weight_alignment"]


def fit(rule, batch, callbacks):
    options = {"dropout": 0.4, "batch_norm": True, "optimizer": keras.optimizers.Adam(0.01)}
    learner = toy.learner(rule, **options)
    x, y = batch
    history = learner.fit(
        x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
    )
    return learner, history.history


@pytest.mark.parametrize("rule", [pytest.param("bp", marks=pytest.mark.once), "dfa"])
def test_trackers_change_nothing_and_log_every_epoch(rule, batch):
    plain, expected = fit(rule, batch, [])
    looked_at, found = fit(rule, batch, [trackers.get(name, *batch) for name in NAMES])
    assert {name: found[name] for name in expected} == expected
    for a, b in zip(toy.values(looked_at.variables), toy.values(plain.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    added = {name.split("/")[0] for name in set(found) - set(expected)}
    assert added == set(NAMES) - ({"weight_alignment"} if rule == "bp" else set())
    for name in set(found) - set(expected):
        assert len(found[name]) == 3 and np.isfinite(found[name]).all(), name


def test_epochs_are_measured_after_they_ended(batch):
    learner, found = fit("dfa", batch, [trackers.get("weights", *batch)])
    head = [v for v in learner.network.head.trainable_variables if v.name == "kernel"]
    assert found["weights/head"][-1] == pytest.approx(np.linalg.norm(toy.values(head)[0]), rel=1e-6)
    assert len(set(found["weights/head"])) == 3


def test_unknown_tracker_is_one_sentence(batch):
    with pytest.raises(UserError, match="'cosine'.*bp_cosine") as refused:
        trackers.get("cosine", *batch)
    assert "\n" not in str(refused.value)


def test_the_command_line_offers_what_there_is():
    from bpfree.cli.flags import TRACKERS

    assert sorted(TRACKERS) == sorted([*NAMES, "inverse_residual", "nhsic", "linear_probe"])
