"""Convolutional, residual and attention networks: what they are, and that their blocks are apart."""

import keras
import numpy as np
import pytest
import toy

import bpfree
from bpfree import architectures
from bpfree.architectures.cnn import topology
from bpfree.architectures.parts import Parts
from bpfree.errors import UserError
from bpfree.layers.projection import RandomProjection
from bpfree.layers.residual import Residual
from bpfree.rules.trace import Batch

IMAGE, CLASSES = (8, 8, 2), 3
SMALL = {
    "cnn": "CONV_4_3_1_1_CONV_4_3_2_1_FC_6_FC_3",
    "resnet18": "resnet18:width=0.04",
    "resnet50": "resnet50:width=0.02",
    "vgg": "vgg6b:width=0.03,hidden=200",
    "vit": "vit:patch=4,width=8,depth=2,heads=2",
}


slow = pytest.mark.slow


def network(kind: str, **options):
    shape = (16, 16, 2) if kind == "vgg" else IMAGE
    made = architectures.get(SMALL[kind], shape, CLASSES, **{"seed": 0, **options})
    return made, np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")


def trained(made) -> int:
    return sum(int(np.prod(v.shape)) for v in made.trainable_variables)


@pytest.mark.once
def test_vgg8b_has_the_published_number_of_weights():
    """Counted by hand: 3×3 kernels, biases left to the normalisation, its scale and shift, two dense."""
    made = architectures.get("vgg8b", (32, 32, 3), 10, batch_norm=True, activation="relu")
    channels = [3, 128, 256, 256, 512, 512, 512]
    convolutions = sum(9 * a * b + 2 * b for a, b in zip(channels, channels[1:], strict=False))
    assert trained(made) == convolutions + 2048 * 1024 + 2 * 1024 + 1024 * 10 + 10
    assert round(trained(made) / 1e6, 1) == 8.9
    assert made.hidden_shapes[0] == (None, 32, 32, 128), "a block ends before the pool"


@pytest.mark.once
@pytest.mark.parametrize(
    "arch, blocks, last",
    [
        ("resnet18:width=0.05", 9, 26),
        pytest.param("resnet34:width=0.05", 17, 26, marks=slow),
        pytest.param("resnet50:width=0.05", 17, 104, marks=slow),
        ("vgg16:width=0.05", 14, 51),
        ("vgg11:width=0.05", 9, 51),
        ("vit:width=8,depth=3", 3, 8),
        ("CONV_32_5_1_2_FC_1000_FC_10", 2, 1000),
    ],
)
def test_blocks_are_the_unit_that_papers_cut_at(arch, blocks, last):
    made = architectures.get(arch, (32, 32, 3), 10)
    assert len(made.blocks) == blocks
    assert made.hidden_shapes[-1][-1] == last


@pytest.mark.once
def test_resnet18_has_the_strides_of_its_stages():
    shapes = architectures.get("resnet18:width=0.05", (32, 32, 1), 10).hidden_shapes
    assert [shape[1] for shape in shapes] == [32, 32, 32, 16, 16, 8, 8, 4, 4]


@pytest.mark.once
@pytest.mark.parametrize(("options", "kept"), [("", 0.99), (",bn_momentum=0.9", 0.9)])
@pytest.mark.parametrize("arch", ["vgg6b:width=0.03,hidden=20", "resnet18:width=0.02"])
def test_moving_means_keep_so_much_of_their_last_value(arch, options, kept):
    made = architectures.get(arch + options, (16, 16, 1), 10, batch_norm=True, seed=0)
    convolution, norm = made.blocks[0].layers[:2]
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype("float32")
    norm.moving_mean.assign(norm.moving_mean + 1)
    made.blocks[0](x, training=True)
    expected = kept + (1 - kept) * np.mean(convolution(x), axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


@pytest.mark.once
def test_a_momentum_of_one_would_never_move():
    with pytest.raises(UserError, match="between 0 and 1, received 1.5"):
        Parts(bn_momentum=1.5)


@pytest.mark.once
@pytest.mark.parametrize(
    "arch, words",
    [
        ("vgg8b:bn_momentum=1", "between 0 and 1, received 1"),
        ("vgg8b:hidden=1.5", "hidden of .* must be a positive whole number, received '1.5'"),
        ("vgg8b:width=1e-9", "width of .* in plain decimals, like 0.25, received '1e-9'"),
        ("vgg8b:width", "width of .* received ''"),
        ("vgg8b:width=1,width=2", "width is given twice"),
        ("vgg8b:", "no option ''.*vgg8b:option=value; the options are width=1.0, hidden=1024"),
        ("vit:", "no option ''.*the options are patch=4, width=64"),
        ("vit:heads=3,width=64", "heads that divide the width, 64, received 3"),
        ("resnet18:blocks=7", "8, 9 or 16 blocks, received 7"),
        ("resnet50:blocks=8", "no option 'blocks'"),
    ],
)
def test_options_are_refused_without_data(arch, words):
    with pytest.raises(UserError, match=words) as caught:
        architectures.check(arch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["vit", *(pytest.param(k, marks=slow) for k in ("cnn", "vgg", "resnet18", "resnet50"))]
)
def test_gradients_do_not_leak_between_blocks(kind):
    """A later block's weights change no earlier gradient when cut, and do when not."""
    found = {}
    for rule in ("ll", "bp"):
        made, x = network(kind)
        learner = bpfree.Learner(made, rule, seed=0)
        learner.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
        learner.build(x.shape)
        y = np.array([0, 1, 2, 1])
        first = len(made.blocks[0].trainable_variables)
        before = toy.values(learner.gradients(x, y)[:first])
        for variable in made.blocks[-1].trainable_variables + made.head.trainable_variables:
            variable.assign(variable * -1.5 + 0.01)
        after = toy.values(learner.gradients(x, y)[:first])
        found[rule] = max(np.abs(a - b).max() for a, b in zip(after, before, strict=True))
        assert max(np.abs(b).max() for b in before) > 1e-6
    assert found["ll"] == 0 and found["bp"] > 1e-7


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet18", "vit"])
def test_saved_and_loaded(kind, tmp_path):
    made, x = network(kind, dropout=0.1, batch_norm=kind != "vit")
    learner = bpfree.Learner(made, "dfa:pool=true", seed=0)
    learner.compile("adam", loss="sparse_categorical_crossentropy")
    learner.fit(x, np.array([0, 1, 2, 1]), epochs=2, verbose=0)
    learner.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), learner.predict(x, verbose=0))


@pytest.mark.parametrize("kind", ["cnn", "vit", pytest.param("resnet18", marks=slow)])
def test_one_seed_gives_one_network_and_no_two_kernels_are_alike(kind):
    first, again, other = (network(kind, seed=seed)[0] for seed in (1, 1, 2))
    for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if "kernel" in a.name:
            assert not np.array_equal(a, c)
    kernels = [np.array(v).ravel() for v in first.weights if v.name == "kernel"]
    for index, kernel in enumerate(kernels):
        assert not any(k.size == kernel.size and np.array_equal(k, kernel) for k in kernels[:index])


def test_residual_adds_the_way_around():
    body, skip = keras.layers.Dense(3), keras.layers.Dense(3)
    block = Residual([body], [skip], "tanh")
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    block.build(x.shape)
    parts = [np.array(v) for layer in (body, skip) for v in layer.weights]
    expected = np.tanh(x @ parts[0] + parts[1] + x @ parts[2] + parts[3])
    np.testing.assert_allclose(block(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (2, 5, 4), (2, 4)])
def test_pooled_projection_and_its_way_back_are_adjoint(shape):
    projection = RandomProjection(3, "ortho", 0, pool=True)
    projection.build(shape)
    assert projection.kernel.shape == (4, 3)
    random = np.random.default_rng(0)
    h, e = (random.normal(size=s).astype("float32") for s in (shape, (2, 3)))
    pooled = h.mean(axis=tuple(range(1, len(shape) - 1))) if len(shape) > 2 else h
    np.testing.assert_allclose(projection(h), pooled @ np.array(projection.kernel), atol=1e-6)
    back = np.array(projection.back(e, h))
    assert back.shape == shape
    np.testing.assert_allclose(np.sum(np.array(projection(h)) * e), np.sum(h * back), rtol=1e-5)


@pytest.mark.parametrize(
    "arch, shape, words",
    [
        ("vgg8b:widht=2", (32, 32, 3), "the options are width=1.0"),
        ("vgg9", (32, 32, 3), "did you mean"),
        ("vgg16", (28, 28, 1), "at least 32 by 32"),
        ("resnet18:width=0", (32, 32, 3), "positive"),
        ("resnet18", (784,), "takes images"),
        ("resnet18", (4, 4, 1), "at least 8 by 8 .*halves"),
        ("vit:patch=3", (32, 32, 3), "patch that divides the image, 32 by 32, received 3"),
        ("vit:patch=9", (8, 8, 1), "patch that divides the image, 8 by 8, received 9"),
        ("CONV_3_3_FC_10", (32, 32, 3), "Malformed topology"),
        ("CONV_3_3_1_0_FC_11", (32, 32, 3), "FC_10 at the end"),
        ("CONV_3_9_1_0_FC_10", (8, 8, 3), "too small"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(arch, shape, words):
    with pytest.raises(UserError, match=words) as caught:
        architectures.get(arch, shape, 10)
    assert "\n" not in str(caught.value)


def test_alignment_is_for_perceptrons():
    with pytest.raises(UserError, match="aligned"):
        architectures.get("vgg8b:width=0.05", (32, 32, 3), 10, fw_init="aligned")


def test_topology():
    assert topology("CONV_32_5_1_2_FC_1000_FC_10") == [
        ("CONV", [32, 5, 1, 2]),
        ("FC", [1000]),
        ("FC", [10]),
    ]


@pytest.mark.parametrize("kind", [pytest.param("resnet18", marks=slow), "vit"])
def test_feedback_alignment_reaches_every_kernel_and_keeps_the_outputs(kind):
    made, x = network(kind)
    rule = bpfree.rules.get("fa", seed=0)
    rule.build(made, (None, *x.shape[1:]), CLASSES)
    kernels = [v for v in made.trainable_variables if v.name == "kernel"]
    assert len(rule.feedback) == len(kernels) - 1
    batch = Batch(x, np.array([0, 1, 2, 1]), np.ones(4, "float32"), None, training=False)
    np.testing.assert_allclose(rule.trace(made, batch).outputs, made(x), rtol=0, atol=1e-5)


def test_pools_at_the_ends_of_blocks_compute_the_same():
    """Cut behind its pools, a network has the same weights and outputs, and smaller activations."""
    arch, x = "CONV_2_3_1_1_CONV_3_3_1_1_FC_4_FC_3", np.ones((1, 8, 8, 1), "float32")
    first, last = (
        architectures.get(f"{arch}{pool}", (8, 8, 1), 3, seed=0) for pool in ("", ":pool=last")
    )
    assert [shape[1:] for shape in first.hidden_shapes] == [(8, 8, 2), (4, 4, 3), (4,)]
    assert [shape[1:] for shape in last.hidden_shapes] == [(4, 4, 2), (2, 2, 3), (4,)]
    np.testing.assert_array_equal(first(x), last(x))
