"""Pictures of what a rule learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bpfree.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    from matplotlib.figure import Figure

    rows = {name: _images(name, images)[:count] for name, images in samples.items()}
    across = max((len(images) for images in rows.values()), default=0)
    if not across:
        raise UserError("There are no samples to draw: pass at least one image.")
    low = min(images.min() for images in rows.values())
    span = max(images.max() for images in rows.values()) - low or 1.0
    height, width = next(iter(rows.values())).shape[1:3]
    figure = Figure(
        figsize=(0.7 * across * width / height + 1.0, 0.75 * len(rows) + 0.1),
        dpi=150,
        layout="constrained",
    )
    grid = figure.subplots(len(rows), across, squeeze=False)
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="medium")
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, image in zip(axes, images, strict=False):
            ax.imshow((image - low) / span, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
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
            f"Samples are drawn as images (N, height, width, 1 or 3 channels), received {name!r} of shape "
            f"{images.shape}: reshape them, or embed labels otherwise than by append."
        )
    return images
