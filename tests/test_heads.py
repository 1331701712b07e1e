"""Auxiliary heads, views and the local losses, against NumPy and the published table."""

import keras
import numpy as np
import pytest
import toy

from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.heads import head, pooling
from bpfree.layers.views import TwoViews
from bpfree.rules import local_losses


def pooled(shape, features):
    """The window, the padding and the output of the pooling of feature maps of this shape."""
    layers = pooling((None, *shape), features)
    window, padding = (1, 1), (0, 0)
    for layer in layers:
        if isinstance(layer, keras.layers.AveragePooling2D):
            window = tuple(layer.pool_size)
        if isinstance(layer, keras.layers.ZeroPadding2D):
            padding = tuple(low for low, _ in layer.padding)
    maps = keras.Sequential(layers[:-1] or [keras.layers.Identity()])
    return window, padding, maps.compute_output_shape((None, *shape))[1:3]


@pytest.mark.parametrize(
    "size, channels, features, window, padding, output",
    [
        (32, 64, 1024, (8, 8), (0, 0), (4, 4)),
        (32, 64, 2048, (8, 4), (0, 0), (4, 8)),
        (32, 128, 1024, (16, 8), (0, 0), (2, 4)),
        (16, 512, 4096, (8, 4), (0, 0), (2, 4)),
        (4, 512, 4096, (2, 1), (0, 0), (2, 4)),
        (28, 128, 1024, (16, 8), (8, 4), (2, 4)),
        (28, 128, 4096, (8, 4), (4, 0), (4, 7)),
        (14, 256, 2048, (8, 4), (4, 2), (2, 4)),
        (7, 512, 4096, (4, 2), (2, 1), (2, 4)),
        (3, 512, 2048, (2, 2), (1, 1), (2, 2)),
        (3, 512, 4096, (2, 1), (1, 0), (2, 3)),
        (4, 2048, 4096, (4, 2), (0, 0), (1, 2)),
        (4, 2048, 1024, (4, 4), (0, 0), (1, 1)),
        (8, 4, 2048, (1, 1), (0, 0), (8, 8)),
    ],
)
def test_pooling_follows_the_published_table(size, channels, features, window, padding, output):
    assert pooled((size, size, channels), features) == (window, padding, output)


def test_padding_counts_as_zeros_in_the_mean():
    layers = keras.Sequential(pooling((None, 3, 3, 4), 16))
    maps = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype("float32")
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, :4, :4]
    expected = padded.reshape(2, 2, 2, 2, 2, 4).mean(axis=(2, 4)).reshape(2, -1)
    np.testing.assert_allclose(layers(maps), expected, rtol=0, atol=1e-6)


def test_tokens_are_maps_of_width_one():
    layers = keras.Sequential(pooling((None, 8, 4), 16))
    tokens = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    expected = tokens.reshape(2, 4, 2, 4).mean(axis=2).reshape(2, -1)
    np.testing.assert_allclose(layers(tokens), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "shape, features, window",
    [
        ((1, 100, 64), 2048, (1, 4)),  # 25 · 64 = 1600
        ((100, 1, 64), 2048, (4, 1)),
        ((2, 64, 8), 64, (2, 8)),
        ((64, 2, 8), 8, (64, 2)),
    ],
)
def test_a_window_grows_no_further_than_its_side(shape, features, window):
    """So that no zeros from outside the map are in its means."""
    layers = keras.Sequential(pooling((None, *shape), features))
    maps = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    (a, b), (h, w, c) = window, shape
    expected = maps.reshape(2, h // a, a, w // b, b, c).mean(axis=(2, 4)).reshape(2, -1)
    assert expected.shape[1] <= features
    np.testing.assert_allclose(layers(maps), expected, rtol=0, atol=1e-6)


def test_means_of_tokens_are_means_however_few_are_asked_for():
    layers = keras.Sequential(pooling((None, 16, 4), 4))
    tokens = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    np.testing.assert_allclose(layers(tokens), tokens.mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind, shape, output",
    [
        ("linear", (None, 7), (None, 3)),
        ("mlp", (None, 5, 5, 2), (None, 3)),
        ("conv", (None, 5, 5, 2), (None, 5, 5, 2)),
        ("conv2", (None, 5, 5, 2), (None, 5, 5, 2)),
        ("identity", (None, 5, 5, 2), (None, 50)),
    ],
)
def test_kinds(kind, shape, output):
    outputs = None if kind == "identity" else 3
    made = head(kind, shape, outputs, 2048, seed=0)
    assert made.built and tuple(made.compute_output_shape(shape)) == output
    kernels = [v for v in made.trainable_variables if v.name == "kernel"]
    assert len(kernels) == {"mlp": 2, "conv2": 2, "identity": 0}.get(kind, 1)
    if len(kernels) == 2 and kernels[0].shape == kernels[1].shape:
        assert np.abs(toy.values(kernels)[0] - toy.values(kernels)[1]).max() > 1e-3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("convv", (None, 7), 3, 9), "Unknown head"),
        (("conv", (None, 7), 3, 9), "needs feature maps"),
        (("identity", (None, 7), 3, 9), "identity head"),
    ],
)
def test_impossible_heads_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        head(*arguments, seed=0)


def test_similarity_of_feature_maps_uses_their_spread():
    maps = np.random.default_rng(0).normal(size=(4, 3, 3, 5)).astype("float32")
    spread = maps.reshape(4, 9, 5).std(axis=1, ddof=1)
    centred = spread - spread.mean(1, keepdims=True)
    expected = np.corrcoef(centred)
    np.testing.assert_allclose(local_losses.similarities(maps), expected, rtol=0, atol=1e-5)
    few = maps[..., :3]
    expected = np.corrcoef(few.reshape(4, -1))
    np.testing.assert_allclose(local_losses.similarities(few), expected, rtol=0, atol=1e-5)


def test_similarity_of_constant_maps_has_a_finite_gradient():
    maps = np.ones((3, 2, 2, 4), "float32")
    total = lambda m: keras.ops.sum(local_losses.similarities(m))  # noqa: E731
    assert np.isfinite(toy.values([autodiff.gradient(total, maps)])[0]).all()


def supcon(features, labels, temperature, base):
    """Khosla et al. 2020, equation 2, example by example."""
    f = features / np.linalg.norm(features, axis=1, keepdims=True)
    losses = []
    for i in range(len(f)):
        others = [j for j in range(len(f)) if j != i]
        total = sum(np.exp(f[i] @ f[j] / temperature) for j in others)
        positives = [j for j in others if labels[j] == labels[i]]
        terms = [f[i] @ f[j] / temperature - np.log(total) for j in positives]
        losses.append(-temperature / base * np.mean(terms))
    return np.array(losses)


def test_contrastive_loss():
    random = np.random.default_rng(0)
    features = random.normal(size=(8, 5)).astype("float32")
    labels = np.array([0, 1, 2, 1] * 2)
    targets, shares = np.eye(3, dtype="float32")[labels], np.full(8, 1 / 8, "float32")
    found = local_losses.contrastive(features, targets, shares, 0.1, 0.07)
    np.testing.assert_allclose(found, supcon(features, labels, 0.1, 0.07), rtol=1e-4)


@pytest.mark.once  # JAX has float64 only where it is told to at its start
@pytest.mark.parametrize("setting", ["set_floatx", "set_dtype_policy"])
def test_contrastive_loss_in_double_precision(setting):
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(8, 5)), np.array([0, 1, 2, 1] * 2)
    getattr(keras.config, setting)("float64")
    try:
        found = local_losses.contrastive(
            *map(keras.ops.convert_to_tensor, (features, np.eye(3)[labels], np.full(8, 1 / 8))),
            *(0.1, 0.07),
        )
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(found, supcon(features, labels, 0.1, 0.07), rtol=1e-9)


def test_contrastive_loss_does_not_see_examples_without_weight():
    random = np.random.default_rng(0)
    features = random.normal(size=(8, 5)).astype("float32")
    labels = np.array([0, 1, 2, 1] * 2)
    targets = np.eye(3, dtype="float32")[labels]
    shares = np.float32([2, 2, 2, 0] * 2) / 8
    found = local_losses.contrastive(features, targets, shares, 0.2, 0.1)
    kept = shares > 0
    expected = supcon(features[kept], labels[kept], 0.2, 0.1)
    # p's denominator weighs every example by w over its mean, 4/3 here instead of 1.
    expected = expected + 0.2 / 0.1 * np.log(2)
    np.testing.assert_allclose(np.array(found)[kept], expected, rtol=1e-4)


def test_views_are_two_different_ones_of_every_image():
    views = TwoViews(0)
    images = np.random.default_rng(0).uniform(size=(16, 16, 16, 3)).astype("float32")
    views.build(images.shape)
    first, second = np.split(np.array(views(images)), 2)
    assert first.shape == images.shape
    assert min(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 1e-3
    means = lambda a: a.mean(axis=(1, 2, 3))  # noqa: E731
    assert np.corrcoef(means(first), means(images))[0, 1] > 0.5, "a view is of its own image"
    again = TwoViews(0)
    again.build(images.shape)
    np.testing.assert_array_equal(np.array(again(images)), np.concatenate([first, second]))


def test_views_need_images():
    with pytest.raises(UserError, match="images"):
        TwoViews(0).build((None, 7))
