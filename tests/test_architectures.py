"""Architectures by name."""

import keras
import numpy as np
import pytest
import toy

from bpfree import architectures
from bpfree.architectures.mlp import widths
from bpfree.errors import UserError


def kinds(layer):
    return [type(part).__name__ for part in layer.layers]


@pytest.mark.parametrize(
    "arch, expected",
    [
        ("500", [500]),
        ("500-1000-500", [500, 1000, 500]),
        ("500x5", [500] * 5),
        ("20x2-30-7×3", [20, 20, 30, 7, 7, 7]),
    ],
)
def test_widths(arch, expected):
    assert widths(arch) == expected


@pytest.mark.parametrize(
    "arch", ["500-", "0", "500--5", "5x0", "500x", "5.0", "5 - 4", "500x2x2", "-5", "", "resnet0"]
)
def test_malformed_strings_are_refused_in_a_sentence(arch):
    with pytest.raises(UserError) as caught:
        architectures.get(arch, (6,), 3)
    assert repr(arch) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({}, 12 * 5 + 5 + 5 * 4 + 4 + 4 * 2 + 2),
        ({"use_bias": False}, 12 * 5 + 5 * 4 + 4 * 2),
        # Batch normalisation: scale and offset trained instead of a bias, two statistics not trained.
        ({"batch_norm": True}, 12 * 5 + 4 * 5 + 5 * 4 + 4 * 4 + 4 * 2 + 2),
        # A dropout rate in the second block and in the head.
        ({"dropout": 0.1}, 12 * 5 + 5 + 5 * 4 + 4 + 4 * 2 + 2 + 2),
    ],
)
def test_number_of_parameters(options, parameters):
    network = architectures.get("5-4", (3, 4, 1), 2, **options)
    assert network.count_params() == parameters
    assert network.compute_output_shape((None, 3, 4, 1)) == (None, 2)


def test_order_of_layers():
    network = architectures.get("5-4", (2, 3), 3, dropout=0.2, batch_norm=True)
    assert [kinds(block) for block in network.blocks] == [
        ["Flatten", "Dense", "BatchNormalization", "Activation"],
        ["Dropout", "Dense", "BatchNormalization", "Activation"],
    ]
    assert kinds(network.head) == ["Dropout", "Dense"]
    assert [block.layers[1].use_bias for block in network.blocks] == [False, False]
    assert network.head.layers[1].use_bias
    plain = architectures.get("5-4", (6,), 3)
    assert [kinds(block) for block in plain.blocks] == [["Dense", "Activation"]] * 2


FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "swish": lambda z: z / (1 + np.exp(-z)),
    "lrelu": lambda z: np.where(z > 0, z, 0.2 * z),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "elu": lambda z: np.where(z > 0, z, np.exp(z) - 1),
    "step": lambda z: (z > 0).astype(float),
    "linear": lambda z: z,
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_activations(activation):
    network = toy.network("5", activation=activation)
    x = toy.batch()[0]
    kernel = toy.values(network.trainable_variables)[0]
    hidden = toy.values(network.trace(x)[:1])[0]
    np.testing.assert_allclose(hidden, FUNCTIONS[activation](x @ kernel), atol=1e-6)
    assert network.activation == activation


def kernels(network):
    return [v for v in toy.values(network.trainable_variables) if v.ndim == 2]


def test_no_two_kernels_are_equal_and_a_seed_repeats():
    one, again, other = (kernels(toy.network("6x3", seed=seed)) for seed in (1, 1, 2))
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    square = [*one[:3], *other[:3]]
    for index, kernel in enumerate(square):
        assert not any(np.allclose(kernel, earlier) for earlier in square[:index])


def test_seeds_do_not_depend_on_what_else_there_is():
    """Rules, dropout and the order of creation leave the initial weights alone."""
    plain = kernels(toy.network("5-4", seed=1))
    keras.utils.set_random_seed(99)
    for options in ({"dropout": 0.5}, {"batch_norm": True}, {"activation": "sigmoid"}):
        for first, second in zip(
            plain, kernels(toy.network("5-4", seed=1, **options)), strict=True
        ):
            np.testing.assert_array_equal(first, second)


def test_without_a_seed_python_s_random_state_decides():
    def draw():
        return kernels(architectures.get("5", (6,), 3))[0]

    keras.utils.set_random_seed(1)
    first, second = draw(), draw()
    assert not np.array_equal(first, second)
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(draw(), first)


@pytest.mark.parametrize(
    "fw_init, variance",
    [("lecun", 1 / 300), ("glorot", 2 / 500), ("he", 2 / 300), ("uniform", 1 / 900)],
)
def test_forward_variance(fw_init, variance):
    kernel = kernels(architectures.get("200", (300,), 3, fw_init=fw_init, seed=0))[0]
    assert kernel.var() == pytest.approx(variance, rel=0.03)


def test_uniform_forward_weights_end_at_one_over_the_root_of_fan_in():
    kernel = kernels(architectures.get("200", (300,), 3, fw_init="uniform", seed=0))[0]
    assert np.abs(kernel).max() == pytest.approx(1 / np.sqrt(300), rel=1e-3)


def test_orthogonal_and_zero_forward_weights():
    first, head = kernels(architectures.get("4", (6,), 3, seed=0))
    np.testing.assert_allclose(first.T @ first, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(head.T @ head, np.eye(3), atol=1e-6)
    assert all((k == 0).all() for k in kernels(architectures.get("4", (6,), 3, fw_init="zeros")))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation": "tahn"}, "Unknown activation 'tahn': choose one of tanh, relu"),
        ({"fw_init": "ortho"}, "Unknown forward initialiser 'ortho'"),
        ({"problem_type": "regression"}, "Unknown problem type 'regression'"),
        ({"dropout": 1.0}, "received 1.0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        architectures.get("5-4", (6,), 3, **options)


def test_names_that_are_shown_are_understood():
    shown = [name for name in architectures.names() if name[0].isdigit()]
    assert [widths(name) for name in shown] == [[500], [500, 1000, 500], [500] * 5]


@pytest.mark.parametrize("pool", ["", ":pool=last"])
@pytest.mark.parametrize(
    "convolutions, size",
    [
        ("CONV_4_8_1_0", (8, 8)),  # one pixel, which the pool empties
        ("CONV_4_8_1_0", (8, 30)),
        ("CONV_4_3_1_1_CONV_4_4_1_0", (8, 8)),
        ("CONV_4_8_1_0_CONV_4_1_1_1", (8, 8)),  # padded only after the pool
    ],
)
def test_a_pool_never_empties_a_map(convolutions, size, pool):
    for last in ("FC_10", "FC_5_FC_10"):
        with pytest.raises(UserError, match=f"of 8 by {size[1]} pixels are too small") as caught:
            architectures.get(f"{convolutions}_{last}{pool}", (*size, 1), 10)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pool", ["", ":pool=last"])
@pytest.mark.parametrize("convolutions", ["CONV_4_7_1_0", "CONV_4_3_1_1_CONV_4_3_1_0"])
def test_a_pool_may_leave_one_pixel(convolutions, pool):
    network = architectures.get(f"{convolutions}_FC_10{pool}", (8, 9, 1), 10)
    assert network.compute_output_shape((None, 8, 9, 1)) == (None, 10)
    assert network.head.layers[-1].kernel.shape == (4, 10)


VIT = "vit:patch=4,width=8,depth=2,heads=2"


def test_a_vit_without_biases_has_none_but_those_of_its_normalisation():
    network = architectures.get(VIT, (8, 8, 1), 3, use_bias=False, seed=0)
    block = 4 * 8 * 8 + 2 * 8 * 32 + 2 * 16  # attention, perceptron, two normalisations
    first, last = 16 * 8 + 4 * 8, 16 + 8 * 3  # patches and positions; normalisation and head
    assert network.count_params() == first + 2 * block + last


def test_a_vit_s_attention_starts_as_all_its_kernels_do():
    kernels = [
        v for v in architectures.get(VIT, (8, 8, 1), 3, seed=0).variables if v.shape == (8, 8)
    ]
    assert len(kernels) == 8
    for kernel in toy.values(kernels):
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-6)
    for index, kernel in enumerate(toy.values(kernels)):
        assert not any(np.allclose(kernel, k) for k in toy.values(kernels)[:index])
    network = architectures.get(VIT, (8, 8, 1), 3, fw_init="zeros")
    assert not any(np.any(v) for v in toy.values(network.variables) if v.shape == (8, 8))


def test_a_vit_refuses_batch_normalisation():
    with pytest.raises(UserError, match="layer normalisation .* --nobatch_norm") as caught:
        architectures.get(VIT, (8, 8, 1), 3, batch_norm=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arch", ["CONV_4_3_1_1_FC_3", "vgg6b:width=0.03", "resnet18:width=0.04", VIT]
)
def test_images_with_channels_first_are_refused(arch):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(UserError, match="set it to channels_last") as caught:
            architectures.get(arch, (16, 16, 2), 3)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert "\n" not in str(caught.value)
