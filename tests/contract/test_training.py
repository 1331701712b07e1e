"""What every rule must satisfy in `fit`: with dropout, batch normalisation, saving and loading."""

from __future__ import annotations

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import toy
from oracles.mlp import softmax
from specs import SPECS

import bpfree

THOROUGH = ("dfa:recompute=true",)
"""With batch normalisation too, and by XLA on TensorFlow as JAX does always: compiling takes long."""


def state(learner) -> list[np.ndarray]:
    """Every variable that training depends on: weights, statistics, feedback, random states, optimizer."""
    return toy.values([*learner.variables, *learner.optimizer.variables])


def everything(learner) -> list[np.ndarray]:
    return [*state(learner), *toy.values(learner.metrics_variables)]


def same(actual, expected) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


def weights(learner) -> list[np.ndarray]:
    return toy.values(learner.trainable_variables)


@pytest.fixture(scope="module", params=SPECS)
def story(request, tmp_path_factory):
    """One learner's life: gradients asked for, trained, saved, loaded, and both trained on."""
    spec, batch = request.param, toy.batch()
    learner = toy.learner(
        spec,
        dropout=0.4,
        batch_norm=spec in THOROUGH,
        compile={"jit_compile": True if spec in THOROUGH else "auto"},
    )
    traces = []
    lesson = learner.rule.lesson
    learner.rule.lesson = lambda *arguments: traces.append(1) or lesson(*arguments)
    record = SimpleNamespace(spec=spec, learner=learner, feedback=feedback(learner))
    record.before = everything(learner)
    record.start = weights(learner)
    record.gradients = toy.values(learner.gradients(*batch))
    record.after_gradients = everything(learner)
    toy.step(learner, *batch)
    record.after_step = weights(learner)
    record.traces = [len(traces)]
    for rate in (0.1, 0.5):
        dropout(learner).rate.assign(rate)
        toy.step(learner, *batch)
        record.traces.append(len(traces))
    del learner.rule.lesson
    path = tmp_path_factory.mktemp("story") / "learner.keras"
    learner.save(path)
    record.loaded = keras.models.load_model(path)
    record.saved = state(learner), state(record.loaded)
    return record


def feedback(learner) -> list[np.ndarray]:
    return toy.values(getattr(learner.rule, "feedback", []))


def network_kernels(learner) -> list:
    return [v for v in learner.network.trainable_variables if v.name == "kernel"]


def own_kernels(learner) -> list:
    """The kernels of the rule's own trained layers, but for those that start at zero."""
    known = set(map(id, learner.network.variables))
    kernels = [v for v in learner.trainable_variables if v.name == "kernel" and id(v) not in known]
    return [v for v in kernels if np.any(v)]


def dropout(learner):
    return next(la for la in learner.network.blocks[1].layers if hasattr(la, "rate"))


def test_gradients_change_no_variable(story):
    assert same(story.after_gradients, story.before)


def test_gradients_are_the_step_that_fit_takes_next(story):
    """With SGD of rate 1, dropout masks and batch statistics included."""
    scale = [story.learner.rule.lr_multiplier(v) for v in story.learner.trainable_variables]
    expected = [w - s * g for w, s, g in zip(story.start, scale, story.gradients, strict=True)]
    toy.assert_close(story.after_step, expected, 2e-6)


def test_one_compilation_per_shape(story):
    """Later batches of one shape, and another dropout rate, run the program that is there."""
    assert story.traces[0] >= 1
    assert story.traces[1:] == story.traces[:1] * 2


def test_feedback_does_not_move_in_training(story):
    assert same(feedback(story.learner), story.feedback)


def test_saving_keeps_everything(story):
    """Feedback, statistics, optimizer and random states bit by bit."""
    saved, loaded = story.saved
    assert same(loaded, saved)
    assert same(feedback(story.loaded), story.feedback)
    x = toy.batch()[0]
    scores = [toy.values([model(x)]) for model in (story.learner, story.loaded)]
    assert same(*scores)


def test_configuration_survives(story):
    rule = story.learner.rule
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
    assert type(again) is type(rule)
    for option in rule.options():
        assert getattr(again, option) == getattr(rule, option)
    # JSON makes lists of tuples.
    before, after = (json.dumps(model.get_config()) for model in (story.learner, story.loaded))
    assert after == before
    assert story.loaded.jit_compile == story.learner.jit_compile


@pytest.mark.parametrize("spec", SPECS)
def test_seeds(spec):
    """One seed gives one network, whatever the rule; another seed gives another."""

    def make(spec, seed):
        return toy.learner(spec, arch="4x3", dropout=0.2, seed=seed, random_weights=False)

    first, again, other = make(spec, 1), make(spec, 1), make(spec, 2)
    assert same(toy.values(again.variables), toy.values(first.variables))
    ours = toy.values(first.network.trainable_variables)
    assert same(weights(make("shallow", 1)), ours)
    matrices, different = (
        # The first and the last kernel have shapes of their own.
        [*toy.values(network_kernels(made)[1:-1]), *toy.values(own_kernels(made)), *feedback(made)]
        for made in (first, other)
    )
    for index, matrix in enumerate(matrices):
        assert not np.array_equal(matrix, different[index])
        for earlier in matrices[:index]:
            assert not np.array_equal(matrix, earlier)


def test_a_run_repeats_and_goes_on_after_loading_as_if_nothing_had_happened(tmp_path):
    """Four epochs in one go are two, saved, loaded, and two more: same masks, same moments of Adam."""
    x, y, _ = toy.batch(16)
    options = {"dropout": 0.3, "batch_norm": True, "seed": 3}

    def fit(learner, epochs):
        return learner.fit(x, y, 8, epochs, shuffle=False, verbose=0).history["loss"]

    whole, first = (toy.learner("dfa", optimizer="adam", **options) for _ in range(2))
    losses = fit(first, 2)
    first.save(tmp_path / "learner.keras")
    second = keras.models.load_model(tmp_path / "learner.keras")
    losses += fit(second, 2)
    assert fit(whole, 4) == losses
    assert same(state(whole), state(second))
    assert not same(state(first), state(second))


def test_weights_file_carries_the_feedback(tmp_path):
    first = toy.learner("dfa", seed=1)
    second = toy.learner("dfa", seed=2)
    assert not same(feedback(first), feedback(second))
    first.save_weights(tmp_path / "w.weights.h5")
    second.load_weights(tmp_path / "w.weights.h5")
    assert same(feedback(first), feedback(second))


def test_shallow_leaves_its_blocks_alone():
    """Neither decoupled nor L2 weight decay nor momentum moves a block; the head moves."""
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    learner = toy.learner("shallow", optimizer=optimizer, weight_decay=0.1, batch_norm=True)
    before = weights(learner)
    statistics = toy.values(learner.network.blocks[0].non_trainable_variables)
    for _ in range(3):
        toy.step(learner, *toy.batch())
    after = weights(learner)
    assert same(after[:-2], before[:-2])
    assert np.abs(after[-2] - before[-2]).min() > 1e-3
    assert not same(toy.values(learner.network.blocks[0].non_trainable_variables), statistics), (
        "batch statistics are still collected"
    )


def test_lr_multiplier_scales_the_step_and_not_the_gradient():
    """Under Adam, scaling the gradient would do nothing."""

    class Slow(bpfree.rules.parse("dfa")[0]):
        def lr_multiplier(self, variable):
            return 0.25 if variable.name == "bias" else 1.0

    after = {}
    for rule in ("dfa", Slow()):
        learner = toy.learner(rule, optimizer=keras.optimizers.Adam(0.01))
        before = weights(learner)
        for _ in range(2):
            toy.step(learner, *toy.batch())
            if rule == "dfa":
                break
        after[rule == "dfa"] = weights(learner), before
    # One step of Adam is lr·sign(g); two of the slow rule on a bias are at most half of that.
    plain, start = after[True]
    slow, _ = after[False]
    for index, variable in enumerate(learner.trainable_variables):
        moved, slowly = (np.abs(w[index] - start[index]).max() for w in (plain, slow))
        assert moved == pytest.approx(0.01, rel=1e-3)
        assert slowly == pytest.approx(0.005 if variable.name == "bias" else 0.02, rel=0.15)


@pytest.mark.parametrize("spec", ["dfa", "ll"])
def test_a_step_in_mixed_precision_follows_the_gradients(spec):
    """Within `fit` as outside, weights are float32 and so are their gradients."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        learner = toy.learner(spec)
        before, gradients = weights(learner), toy.values(learner.gradients(*toy.batch()))
        toy.step(learner, *toy.batch())
    finally:
        keras.config.set_dtype_policy("float32")
    moved = [b - a for b, a in zip(before, weights(learner), strict=True)]
    for step, gradient in zip(moved, gradients, strict=True):
        assert np.linalg.norm(step - gradient) <= 0.01 * np.linalg.norm(gradient)


@pytest.mark.parametrize("spec", ["dfa", "ll"])
def test_mixed_precision_trains_and_logs_the_task_loss_in_full(spec):
    """`loss` has more digits than half precision could hold."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        learner = toy.learner(spec, weight_decay=0.0, optimizer="adam")
        x, y, w = toy.batch()
        outputs = toy.values([learner(x)])[0].astype("float64")
        losses = -(y * np.log(softmax(outputs))).sum(1)
        expected = np.sum(w * losses) / len(w)
        logged = toy.step(learner, x, y, w)["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert logged == pytest.approx(expected, rel=1e-6)
    assert np.float32(np.float16(logged)) != np.float32(logged)


def test_loss_is_the_task_loss_however_large_the_surrogate_is():
    """The objective's order: with surrogates of 1e7, adding them first would cost all digits."""
    learner = toy.learner("dfa:signal_scale=1e8", optimizer=keras.optimizers.SGD(0.0))
    x, y, w = toy.batch()
    expected = learner.evaluate(x, y, sample_weight=w, verbose=0)
    assert sum(map(abs, learner.surrogates(x, y, w))) > 1e6
    assert toy.step(learner, x, y, w)["loss"] == pytest.approx(expected, rel=1e-6)
