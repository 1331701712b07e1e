"""Pictures of samples: what is drawn are the values that were given."""

import numpy as np
import pytest

from bpfree.errors import UserError
from bpfree.reporting import plot_samples


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
