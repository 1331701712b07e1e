"""Forward-Forward: gradients by hand, negatives, hybrids, predictions that know no label."""

import keras
import numpy as np
import pytest
import toy
from oracles.forward import classifier_pass, forward_forward, recurrent, settling
from oracles.mlp import Problem

import bpfree
from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.hybrids import Hybrids
from bpfree.layers.label_embedding import LabelEmbedding
from bpfree.rules.trace import Batch


def shifted(logits, labels):
    """The next class, as a wrong label that is a function of the example alone."""
    return keras.ops.roll(labels, 1, axis=1)


def learner(options="", deterministic=True, **more):
    made = toy.learner(f"ff:{options}" if options else "ff", **more)
    if deterministic:
        made.rule.wrong_labels = shifted
    return made


def marked(x, labels):
    return np.concatenate([labels, x[:, toy.OUTPUTS :]], axis=1)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "goodness=mean,threshold=0.3,temperature=0.5",
        "norm=l2,threshold=0.7,peer=0",
        "temperature=2,peer=0.5,layers=all",
    ],
)
def test_gradients_by_hand(options):
    subject = learner(options)
    x, y, w = toy.batch()
    wrong = np.roll(y, 1, axis=1)
    values = toy.values(subject.network.trainable_variables)
    rule = subject.rule
    expected = forward_forward(
        list(zip(values[:4:2], values[1:4:2], strict=True)),
        marked(x, y),
        marked(x, wrong),
        w / len(w),
        [np.full(5, 0.5), np.full(4, 0.5)],
        **{o: getattr(rule, o) for o in ("goodness", "threshold", "temperature", "norm", "peer")},
    )
    toy.assert_close(subject.gradients(x, y, w)[:4], expected)


@pytest.mark.parametrize("measured", ["prediction", "classifier"])
def test_training_metrics_are_of_the_rule_s_own_prediction(measured):
    """Or of its classifier; in both cases before the step, and without the true label."""
    subject = learner(
        f"training_metrics={measured}", compile={"metrics": [keras.metrics.MeanSquaredError()]}
    )
    x, y, _ = toy.batch()
    outputs, scores = subject.rule.assess(subject.network, x)
    expected = toy.values([scores if measured == "prediction" else outputs])[0]
    logs = toy.step(subject, x, y)
    assert logs["mean_squared_error"] == pytest.approx(np.mean((expected - y) ** 2), rel=1e-4)


def test_the_loss_of_tiny_weights_is_known():
    """(softplus(2) + softplus(−2))/2 = 1.127 at threshold 2."""
    subject = learner("goodness=mean,threshold=2,peer=0")
    toy.randomize(subject, scale=1e-4)
    x, y, _ = toy.batch()
    for value in subject.surrogates(x, y)[:2]:
        assert value == pytest.approx(1.12693, abs=1e-4)


def test_the_classifier_learns_from_the_task_loss_of_a_neutral_pass():
    subject = learner("layers=all")
    x, y, w = toy.batch()
    values = toy.values(subject.trainable_variables)
    posed = Problem(values[:6], [], x, y, w, own=values[6:8])
    features, scores = classifier_pass(posed)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    delta = w[:, None] / len(w) * (p - y)
    gradients = toy.values(subject.gradients(x, y, w))
    toy.assert_close(gradients[6:8], [features.T @ delta, delta.sum(0)])
    assert not np.any(gradients[4]), "the network's own head rests"
    outputs, _ = subject.rule.assess(subject.network, x)
    toy.assert_close([outputs], [scores])


def test_prediction_is_the_goodness_of_every_label():
    subject = learner("layers=all")
    x, _, _ = toy.batch()
    values = toy.values(subject.network.trainable_variables)
    expected = np.zeros((len(x), 3))
    for label in range(3):
        u = marked(x, np.tile(np.eye(3)[label], (len(x), 1)))
        for kernel, bias in zip(values[:4:2], values[1:4:2], strict=True):
            u = np.tanh(u / np.sqrt((u**2).mean(1, keepdims=True)) @ kernel + bias)
            expected[:, label] += (u**2).sum(1)
    toy.assert_close([subject.predict(x, verbose=0)], [expected])


def test_what_is_logged_in_training_knows_no_label():
    """The outputs that metrics judge are the same whatever the labels are."""
    subject = toy.learner("ff")
    x, y, w = toy.batch()
    zero = lambda outputs, weights: 0.0 * keras.ops.sum(outputs)  # noqa: E731
    outputs = [
        subject.rule.lesson(subject.network, Batch(x, labels, w, zero))[1]
        for labels in (y, np.roll(y, 1, axis=1))
    ]
    np.testing.assert_array_equal(*toy.values(outputs))


def test_every_kernel_that_learns_changes_in_a_step():
    subject = learner()
    before = toy.values(subject.trainable_variables)
    toy.step(subject, *toy.batch())
    moved = [
        not np.array_equal(v, b) for v, b in zip(subject.trainable_variables, before, strict=True)
    ]
    assert moved == [True] * 4 + [False] * 2 + [True] * 2
    control = learner("train_blocks=false")
    before = toy.values(control.trainable_variables)
    toy.step(control, *toy.batch())
    moved = [
        not np.array_equal(v, b) for v, b in zip(control.trainable_variables, before, strict=True)
    ]
    assert moved == [False] * 6 + [True] * 2


def test_duplicating_the_batch_changes_nothing():
    subject = learner()
    batch = toy.batch(4)
    twice = [np.concatenate([part, part]) for part in batch]
    toy.assert_close(subject.gradients(*twice), subject.gradients(*batch))


def test_wrong_labels_are_never_the_true_one():
    rule = toy.learner("ff:negatives=uniform").rule
    labels = np.eye(3, dtype="float32")[np.repeat([0, 1, 2], 1000)]
    wrong = np.array(rule.wrong_labels(None, labels))
    assert not np.any(wrong * labels) and (wrong.sum(1) == 1).all()
    for label in range(3):
        shares = wrong[labels[:, label] == 1].mean(0)
        assert np.allclose(np.delete(shares, label), 0.5, atol=0.06)


def test_hard_negatives_follow_the_classifier():
    rule = toy.learner("ff").rule
    labels = np.eye(3, dtype="float32")[np.zeros(3000, int)]
    logits = np.tile(np.log(np.float32([0.7, 0.24, 0.06])), (3000, 1))
    shares = np.array(rule.wrong_labels(logits, labels)).mean(0)
    np.testing.assert_allclose(shares, [0, 0.8, 0.2], atol=0.04)


@pytest.mark.parametrize("blurs, differ", [(5, 0.138), (10, 0.099)])
def test_masks_have_the_statistics_of_the_fact_sheet(blurs, differ):
    """Half ones everywhere, the border included; neighbours differ as often as published masks'."""
    masks = np.array(Hybrids(blurs, 0).masks(1500, 28, 28))[..., 0]
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert masks.mean() == pytest.approx(0.5, abs=0.01)
    ring = np.concatenate([masks[:, 0].ravel(), masks[:, :, -1].ravel()])
    assert ring.mean() == pytest.approx(0.5, abs=0.02)
    centre = masks[:, 13, 13] != masks[:, 13, 14]
    assert centre.mean() == pytest.approx(differ, abs=0.03)


def test_no_image_is_its_own_partner_and_all_are_used():
    hybrids = Hybrids(1, 0)
    drawn = [np.array(hybrids.partners(7)) for _ in range(5)]
    for partners in drawn:
        assert sorted(partners) == list(range(7)) and not np.any(partners == np.arange(7))
    assert any(not np.array_equal(drawn[0], other) for other in drawn[1:])


def test_a_hybrid_is_made_of_two_images():
    hybrids = Hybrids(2, 0)
    hybrids.build((None, 8, 8, 1))
    x = np.arange(5, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 1), "float32")
    made = np.array(hybrids(x))
    for index, image in enumerate(made):
        values = set(np.unique(image))
        assert len(values) == 2 and index in values


def test_embeddings():
    x = np.arange(2 * 2 * 2 * 3, dtype="float32").reshape(2, 2, 2, 3)
    y = np.float32([[1, 0], [0, 1]])
    top = np.array(LabelEmbedding((2, 2, 3), 2, "top-left", strength=5.0)(x, y))
    np.testing.assert_array_equal(top[0, 0], [[5] * 3, [0] * 3])
    np.testing.assert_array_equal(top[:, 1], x[:, 1])
    appended = np.array(LabelEmbedding((2, 2, 3), 2, "append")(x, y))
    np.testing.assert_array_equal(appended, np.concatenate([x.reshape(2, -1), y], axis=1))
    for method, factor in (("subtract", -1), ("mixture", 1)):
        layer = LabelEmbedding((2, 2, 3), 2, method)
        layer.build()
        for _ in range(2):
            layer.observe(x, y)
        layer.observe(x[:1] + 3, y[:1])
        means = np.stack([x[0] + 1, x[1]])
        expected = (x + factor * means[[0, 1]]) / (1 if method == "subtract" else 2)
        np.testing.assert_allclose(layer(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("options", ["embed=subtract", "mode=unsupervised,blurs=1"])
def test_trains_saves_and_loads(options, tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("float32")
    y = np.arange(8) % 3
    network = bpfree.architectures.get("6-5", (4, 4, 1), 3, activation="relu", seed=0)
    subject = bpfree.Learner(network, f"ff:{options}", seed=0)
    subject.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = subject.fit(x, y, epochs=2, batch_size=4, validation_data=(x, y), verbose=0)
    assert np.isfinite(history.history["val_loss"]).all()
    subject.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), subject.predict(x, verbose=0))


def test_appended_labels_need_a_network_that_takes_them():
    rule = bpfree.rules.get("ff:embed=append", seed=0)
    assert rule.input_shape((2, 3, 1), 3) == (9,)
    network = toy.network(seed=0)
    wide = bpfree.architectures.get("5-4", rule.input_shape((toy.INPUTS,), 3), 3, seed=0)
    x, y, _ = toy.batch()
    for net, fits in ((wide, True), (network, False)):
        subject = bpfree.Learner(net, "ff:embed=append,threshold=1.0", seed=0)
        subject.compile("sgd", loss="categorical_crossentropy")
        if fits:
            subject.fit(x, y, verbose=0)
        else:
            with pytest.raises(UserError, match="appended"):
                subject.build(x.shape)


@pytest.mark.parametrize(
    "options, words",
    [
        ("mode=recurrant", "mode of 'ff'"),
        ("mode=recurrent", "write ff_recurrent"),
        ("temperature=0", "temperature > 0"),
        ("embed=bottom", "embedded by"),
        ("prototype=median", "stood for by"),
        ("embed=2channel", "needs images"),
    ],
)
def test_mistakes_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        toy.learner(f"ff:{options}")


def test_hybrids_need_images():
    with pytest.raises(UserError, match="images"):
        toy.learner("ff:mode=unsupervised")


def test_frozen_blocks_keep_their_mean_activity():
    subject = learner()
    x, y, w = toy.batch()
    batch = Batch(x, y, w, lambda o, w: keras.ops.sum(o) * 0, training=True, stage=1)
    before = toy.values(subject.rule.activities)
    subject.rule.lesson(subject.network, batch)
    after = toy.values(subject.rule.activities)
    assert np.array_equal(after[0], before[0]) and not np.array_equal(after[1], before[1])


def recurrent_learner(options="", **more):
    made = toy.learner(f"ff_recurrent:{options}" if options else "ff_recurrent", **more)
    made.rule.wrong_labels = shifted
    return made


def parts_of(subject) -> tuple[list, list, list]:
    """Blocks' `(K, b)`, the classifier's weights and the top-down kernels of a 6-5-4-3 network."""
    values = toy.values(subject.trainable_variables)
    return list(zip(values[:4:2], values[1:4:2], strict=True)), values[6:8], values[8:]


@pytest.mark.parametrize(
    "options",
    ["", "iterations=3,damping=0.6,peer=0.4,norm=l2,goodness=mean,threshold=0.2,temperature=0.5"],
)
def test_recurrent_gradients_are_the_written_out_recursion(options):
    subject = recurrent_learner(options)
    x, y, w = toy.batch()
    layers, _, top_down = parts_of(subject)
    assert [V.shape for V in top_down] == [(4, 5), (3, 4)]
    names = ("iterations", "damping", "norm", "peer", "goodness", "threshold", "temperature")
    forward, backward = recurrent(
        layers,
        top_down,
        np.concatenate([x, x]).astype("float64"),
        np.concatenate([y, np.roll(y, 1, axis=1)]),
        w / len(w),
        [np.full(5, 0.5), np.full(4, 0.5)],
        **{name: getattr(subject.rule, name) for name in names},
    )
    found = toy.values(subject.gradients(x, y, w))
    toy.assert_close([*found[:4], *found[8:]], [*forward, *backward])
    assert not np.any(found[4]), "the network's own head rests"


def test_recurrent_prediction_is_the_goodness_of_iterations_three_to_five():
    subject = recurrent_learner("layers=all")
    x = toy.batch()[0]
    layers, _, top_down = parts_of(subject)
    expected = np.zeros((len(x), 3))
    for label in range(3):
        labels = np.tile(np.eye(3)[label], (len(x), 1))
        course = settling(layers, top_down, x.astype("float64"), labels, 5, 0.3)
        counted = [sum((h**2).sum(1) for h in states) for *_, states in course[2:]]
        expected[:, label] = np.mean(counted, axis=0)
    toy.assert_close([subject.predict(x, verbose=0)], [expected])
    by_classifier = recurrent_learner("prediction=softmax")
    toy.assert_close(by_classifier.rule.assess(by_classifier.network, x), [by_classifier(x)] * 2)


def test_recurrent_blocks_learn_from_their_own_activity_alone():
    """Of one block's surrogate, no gradient reaches another's weights, through time or connections."""
    subject = recurrent_learner()
    x, y, w = toy.batch()
    batch = Batch(x, y, w, lambda outputs, weights: 0.0 * keras.ops.sum(outputs))
    variables = subject.trainable_variables
    for index in range(2):
        one = lambda: subject.rule.lesson(subject.network, batch)[0][index]  # noqa: B023, E731
        own = set(map(id, subject.rule.trained_with(subject.network, index)))
        found = autodiff.gradients(one, variables, subject.non_trainable_variables, False)()
        reached = {id(v) for v, g in zip(variables, toy.values(found), strict=True) if np.any(g)}
        assert reached == own and len(own) == 3


def test_recurrent_form_needs_dense_blocks():
    network = bpfree.architectures.get("CONV_4_3_1_1_FC_3", (6, 6, 1), 3, activation="relu", seed=0)
    with pytest.raises(UserError, match="perceptron"):
        bpfree.Learner(network, "ff_recurrent", seed=0).build((None, 6, 6, 1))
    with pytest.raises(UserError, match="all blocks at once"):
        bpfree.Learner(toy.network(), "ff_recurrent", schedule="sequential")


@pytest.mark.parametrize("options", ["iterations=0", "damping=1", "first=4,last=3"])
def test_recurrent_mistakes_are_one_sentence(options):
    with pytest.raises(UserError, match="'ff_recurrent' needs iterations"):
        toy.learner(f"ff_recurrent:{options}")


def test_an_example_of_weight_zero_does_not_move_the_mean_activity():
    subject = learner()
    x, y, w = toy.batch()
    means = []
    for size in (1.0, -3.0):
        x[w == 0] = size * np.arange(6)
        batch = Batch(x, y, w, lambda outputs, weights: 0.0 * keras.ops.sum(outputs))
        with autodiff.isolated(subject.variables):
            subject.rule.lesson(subject.network, batch)
            means.append(toy.values(subject.rule.activities))
    toy.assert_close(means[1], means[0], 1e-7)
    assert np.abs(means[0][0] - 0.5).max() > 1e-3


def test_a_fixed_example_stands_for_its_class():
    layer = LabelEmbedding((2, 2, 1), 3, "2channel", prototype="fixed-example")
    layer.build()
    x = np.arange(24, dtype="float32").reshape(6, 2, 2, 1)
    y = np.eye(3, dtype="float32")[[1, 1, 0, 0, 2, 1]]
    w = np.float32([0, 2, 1, 1, 1, 1])[:, None]
    layer.observe(x[:4], (y * w)[:4])
    layer.observe(x[4:], y[4:])
    found = np.array(layer(x, y))
    np.testing.assert_array_equal(found[..., :1], x)
    np.testing.assert_array_equal(found[..., 1:], x[[1, 1, 2, 2, 4, 1]])
    assert layer.output_shape == (2, 2, 2)


def test_samples_are_what_the_next_step_learns_from():
    subject = toy.learner("ff:negatives=uniform")
    x, y, _ = toy.batch()
    before = toy.values(subject.variables)
    samples = subject.rule.samples(subject.network, x, y)
    for a, b in zip(toy.values(subject.variables), before, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(samples["positives"], marked(x, y))
    wrong = samples["negatives"][:, :3]
    assert not np.any(wrong * y) and np.all(wrong.sum(1) == 1)
    np.testing.assert_array_equal(samples["negatives"][:, 3:], x[:, 3:])
    learnt = subject.rule.wrong_labels(None, y)
    np.testing.assert_array_equal(np.array(learnt), wrong)


@pytest.mark.once  # JAX has float64 only where it is told to at its start
@pytest.mark.parametrize("setting", ["set_floatx", "set_dtype_policy"])
@pytest.mark.parametrize("method", ["top-left", "append", "subtract", "mixture", "2channel"])
@pytest.mark.parametrize("prototype", ["average", "fixed-example"])
def test_embeddings_in_double_precision(method, prototype, setting):
    """Classes of one example each, which then stands for its class; to the digits of float64."""
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
    y = np.eye(3)[[2, 0, 1]]
    getattr(keras.config, setting)("float64")
    try:
        layer = LabelEmbedding((2, 2, 1), 3, method, prototype=prototype)
        layer.build()
        layer.observe(x, keras.ops.convert_to_tensor(y))
        single = keras.ops.cast(y, "float32")  # as the neutral labels may be
        found = [np.array(layer(x, labels)) for labels in (keras.ops.convert_to_tensor(y), single)]
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    flat = x.reshape(3, 4)
    expected = {
        "top-left": np.concatenate([y, flat[:, 3:]], axis=1).reshape(x.shape),
        "append": np.concatenate([flat, y], axis=1),
        "subtract": np.zeros(x.shape),
        "mixture": x,
        "2channel": np.concatenate([x, x], axis=-1),
    }[method]
    for value in found:
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-11)


@pytest.mark.once
@pytest.mark.parametrize("embed", ["subtract", "mixture", "2channel"])
def test_embedded_labels_are_learned_from_in_double_precision(embed):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        rule = bpfree.rules.get(f"ff:embed={embed}", seed=0)
        network = bpfree.architectures.get("5", rule.input_shape((2, 2, 1), 3), 3, seed=0)
        subject = bpfree.Learner(network, rule, seed=0)
        subject.compile("sgd", loss="categorical_crossentropy")
        subject.build((None, 2, 2, 1))
        x = np.random.default_rng(0).normal(size=(6, 2, 2, 1))
        found = toy.values(subject.gradients(x, np.eye(3)[[0, 1, 2, 2, 1, 0]]))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert all(g.dtype == "float64" and np.isfinite(g).all() for g in found)
