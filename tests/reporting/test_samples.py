"""Pictures of samples: what is drawn are the values that were given."""

import sys

import numpy as np
import pytest

from bpfree.errors import UserError
from bpfree.reporting import plot_filters, plot_reconstructions, plot_samples

pytestmark = pytest.mark.once


def drawn(figure) -> list[np.ndarray]:
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


def test_images_are_drawn_on_one_scale_row_by_row():
    positives = np.array([[[-1.0, 0.0]], [[1.0, 3.0]]])[..., None]
    figure = plot_samples({"positives": positives, "hybrids": positives[:1]})
    first, second, third = drawn(figure)
    np.testing.assert_allclose(first, [[0, 0.25]])
    np.testing.assert_allclose(second, [[0.5, 1]])
    np.testing.assert_allclose(third, [[0, 0.25]])
    assert [figure.axes[n].get_ylabel() for n in (0, 2)] == ["positives", "hybrids"]


def test_colours_stay_and_further_channels_stand_beside():
    colour = np.linspace(0, 1, 24).reshape(2, 2, 2, 3)
    np.testing.assert_allclose(drawn(plot_samples({"positives": colour}))[0], colour[0])
    assert len(drawn(plot_samples({"positives": colour}, count=1))) == 1
    both = np.concatenate([colour, 1 - colour], axis=-1)
    shown = drawn(plot_samples({"positives": both}))
    np.testing.assert_allclose(shown, np.concatenate([colour, 1 - colour], axis=2))


@pytest.mark.parametrize(
    "samples", [{}, {"positives": np.zeros((3, 12))}, {"positives": np.zeros((3, 4, 4, 5))}]
)
def test_what_is_no_image_is_refused(samples):
    with pytest.raises(UserError, match="image"):
        plot_samples(samples)


def rows(figure) -> list[str]:
    return [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]


def test_reconstructions_stand_below_their_inputs_on_the_scale_of_these():
    inputs = np.array([[[0.0, 2.0]], [[4.0, 1.0]], [[9.0, 9.0]]])[..., None]
    outputs = np.array([[1.0, 5.0], [-1.0, 2.0], [9.0, 9.0]])  # flat, and beyond
    figure = plot_reconstructions(inputs, outputs, count=2)
    assert rows(figure) == ["inputs", "outputs"]
    expected = [[[0, 0.5]], [[1, 0.25]], [[0.25, 1]], [[0, 0.5]]]
    np.testing.assert_allclose(drawn(figure), expected)
    figure = plot_reconstructions(inputs, outputs, inputs - 0.5, count=2)
    assert rows(figure) == ["inputs", "noisy", "outputs"]
    np.testing.assert_allclose(drawn(figure)[2:4], [[[0, 0.375]], [[0.875, 0.125]]])
    np.testing.assert_allclose(drawn(figure)[4:], expected[2:])


@pytest.mark.parametrize("outputs", [np.zeros((3, 4)), np.zeros((1, 2, 2)), np.zeros((2, 5))])
def test_reconstructions_must_fit_their_inputs(outputs):
    with pytest.raises(UserError, match="inputs have shape .* outputs"):
        plot_reconstructions(np.zeros((2, 2, 2)), outputs)


def test_no_reconstructions_are_refused():
    with pytest.raises(UserError, match="at least one image"):
        plot_reconstructions(np.zeros((0, 2, 2)), np.zeros((0, 2, 2)))


def test_a_filter_is_a_unit_s_weights_around_grey():
    kernel = np.array([[0.0, 2.0], [1.0, -4.0], [-1.0, 1.0], [0.5, 0.0], [0.25, 0.0], [0.0, 0.0]])
    figure = plot_filters({"bp": kernel}, (2, 3))
    first, second = drawn(figure)
    np.testing.assert_allclose(first, [[0.5, 1, 0], [0.75, 0.625, 0.5]])
    np.testing.assert_allclose(second, [[0.75, 0, 0.625], [0.5, 0.5, 0.5]])
    assert rows(figure) == ["bp"]


def test_filters_of_convolutions_fill_rows_under_their_name():
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3, 20))
    figure = plot_filters({"bp": kernel, "dfa": kernel[..., :1]}, count=18)
    shown = drawn(figure)
    assert len(shown) == 19 and rows(figure) == ["bp", "dfa"]
    for picture, unit in zip(shown, [*range(18), 0], strict=True):
        own = kernel[..., unit]
        np.testing.assert_allclose(picture, 0.5 + own / np.abs(own).max() / 2)
    np.testing.assert_array_equal(drawn(plot_filters({"zero": np.zeros((2, 2, 1, 1))})), 0.5)


@pytest.mark.parametrize(
    ("kernels", "shape", "message"),
    [
        ({}, None, "at least one kernel"),
        ({"bp": np.zeros((12, 5))}, None, "12 values per unit, and image_shape is None"),
        ({"bp": np.zeros((12, 5))}, (2, 5), "image_shape is"),
        ({"bp": np.zeros((3, 12, 5))}, (3, 4), "first layer's kernel"),
        ({"bp": np.zeros((3, 3, 64, 5))}, None, "1 or 3 channels"),
    ],
)
def test_what_is_no_filter_is_refused(kernels, shape, message):
    with pytest.raises(UserError, match=message):
        plot_filters(kernels, shape)


def test_pictures_draw_headless_and_without_pyplot(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    images = np.random.default_rng(0).random((3, 4, 4))
    plot_reconstructions(images, images).savefig(tmp_path / "x.pdf")
    plot_filters({"bp": images.reshape(3, 16).T}, (4, 4)).savefig(tmp_path / "y.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
