"""Pictures: what a rule learns from, what a network makes of it, and what its first layer looks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bpfree.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILTERS_IN_A_ROW = 16


def plot_samples(samples: Mapping[str, np.ndarray], count: int = 10) -> Figure:
    """Images in rows, one row per kind: positives, negatives, hybrids.

    All are drawn on one scale, from the least to the largest value there is. Images of 2 or 6 channels,
    which hold a label in the second half of them, are drawn as two, side by side.

    Args:
        samples: what `rule.samples(network, x, y)` returns, or any images (N, height, width[, channels])
            by the name of their row, in any range of values.
        count: how many of each, from the first.

    Raises:
        UserError: for no images, or arrays that are none.
    """
    rows = {name: _images(name, images)[:count] for name, images in samples.items()}
    if not any(map(len, rows.values())):
        raise UserError("There are no samples to draw: pass at least one image.")
    low = min(images.min() for images in rows.values())
    span = max(images.max() for images in rows.values()) - low or 1.0
    return _gallery([(name, (images - low) / span) for name, images in rows.items()])


def plot_reconstructions(
    inputs: np.ndarray, outputs: np.ndarray, noisy: np.ndarray | None = None, count: int = 10
) -> Figure:
    """Inputs above what a network made of them, example by example.

    All are drawn on the scale of the inputs shown; what lies beyond it is clipped.

    Args:
        inputs: the images to reconstruct (N, height, width[, channels]), in any range of values.
        outputs: the network's, of the same shape or flat (N, height · width · channels), scaled alike.
        noisy: what the network was given, where that was not the inputs; like these.
        count: how many, from the first.

    Raises:
        UserError: for no images, or outputs that do not fit the inputs.
    """
    inputs = np.asarray(inputs)
    given = {"inputs": inputs, "noisy": noisy, "outputs": outputs}
    rows = {}
    for name, images in given.items():
        if images is not None:
            rows[name] = _images(name, _shaped(name, images, inputs.shape))[:count]
    if not len(rows["inputs"]):
        raise UserError("There are no inputs to draw: pass at least one image.")
    low = rows["inputs"].min()
    span = rows["inputs"].max() - low or 1.0
    return _gallery([(name, np.clip((i - low) / span, 0, 1)) for name, i in rows.items()])


def plot_filters(
    kernels: Mapping[str, np.ndarray],
    image_shape: Sequence[int] | None = None,
    count: int = _FILTERS_IN_A_ROW,
) -> Figure:
    """The first layer's kernels as pictures, one for each of its units or channels.

    Every picture has its own scale: middle grey is zero, black and white are ∓ its largest magnitude.

    Args:
        kernels: dense kernels (height · width · channels, units) or convolutional ones (height, width,
            channels, units), of 1 or 3 channels, by the name of their rows, e.g. the rule's.
        image_shape: of one input, (height, width[, channels]); for dense kernels.
        count: how many of each, from the first; 16 are in a row.

    Raises:
        UserError: for no kernels, or such as are no pictures of that shape.
    """
    rows = []
    for name, kernel in kernels.items():
        pictures = _images(name, _filters(name, kernel, image_shape)[:count])
        largest = np.abs(pictures).max(axis=tuple(range(1, pictures.ndim)), keepdims=True)
        pictures = 0.5 + 0.5 * pictures / np.where(largest > 0, largest, 1.0)
        for start in range(0, len(pictures), _FILTERS_IN_A_ROW):
            rows.append((name if not start else "", pictures[start : start + _FILTERS_IN_A_ROW]))
    if not rows:
        raise UserError("There are no filters to draw: pass at least one kernel.")
    return _gallery(rows)


def _filters(name: str, kernel, image_shape: Sequence[int] | None) -> np.ndarray:
    """The pictures (units, height, width, channels) in a kernel."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 2:
        if image_shape is None or math.prod(image_shape) != len(kernel):
            raise UserError(
                f"The dense kernel {name!r} of shape {kernel.shape} has {len(kernel)} values per unit, "
                f"and image_shape is {image_shape}: give the shape of one input that has as many."
            )
        kernel = kernel.reshape(*image_shape, -1)
    elif kernel.ndim != 4:
        raise UserError(
            f"Filters are drawn of kernels (inputs, units) or (height, width, channels, units), received "
            f"{name!r} of shape {kernel.shape}: pass the first layer's kernel."
        )
    return np.moveaxis(kernel, -1, 0)


def _shaped(name: str, images, shape: Sequence[int]) -> np.ndarray:
    """As many images of that shape, which may come flat."""
    images = np.asarray(images)
    if images.shape not in (tuple(shape), (shape[0], math.prod(shape[1:]))):
        raise UserError(
            f"The inputs have shape {tuple(shape)} and {name} {images.shape}: pass images of the same "
            "shape, or flat, one for each input."
        )
    return images.reshape(shape)


def _gallery(rows: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Images in [0, 1] in named rows."""
    from matplotlib.figure import Figure

    across = max(len(images) for _, images in rows)
    height, width = rows[0][1].shape[1:3]
    figure = Figure(
        figsize=(0.7 * across * width / height + 1.0, 0.75 * len(rows) + 0.1),
        dpi=150,
        layout="constrained",
    )
    grid = figure.subplots(len(rows), across, squeeze=False)
    for axes, (name, images) in zip(grid, rows, strict=True):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="medium")
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, image in zip(axes, images, strict=False):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure


def _images(name: str, images) -> np.ndarray:
    """Grey (N, H, W) or coloured (N, H, W, 3) images, as float."""
    images = np.asarray(images, dtype="float64")
    if images.ndim == 4 and images.shape[-1] in (2, 6):
        images = np.concatenate(np.split(images, 2, axis=-1), axis=2)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[-1] == 3):
        raise UserError(
            f"Pictures are of images (N, height, width, 1 or 3 channels), received {name!r} of shape "
            f"{images.shape}: reshape them, or embed labels otherwise than by append."
        )
    return images
