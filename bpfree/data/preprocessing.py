"""Scaling and random augmentation of one batch at a time; the set itself stays uint8."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bpfree.errors import UserError
from bpfree.seeds import derive

BRIGHTNESS = 0.2  # up to ±20 % of the value range
ROTATION = 0.1  # up to ±10 % of a full turn, i.e. ±36°
ZOOM = 0.2  # up to 20 % larger or smaller, proportions kept
TRANSLATION = 0.2  # up to ±20 % of height and of width
# Uncovered pixels repeat the border, which is the background where there is one.
FILL_MODE = "nearest"

CROP = 8  # the border is an eighth of the size, rounded down: 4 pixels at 32, 3 at 28

AUGMENTATIONS = ("brightness", "rotation", "zoom", "translation", "flip", "crop")


@dataclass(frozen=True)
class Scaler:
    """`(x - offset) / scale` in float32.

    Args:
        name: `standard`, `zero_one` or `identity`.
        offset: subtracted first.
        scale: divided by.
        value_range: smallest and largest possible result for uint8; None for other data.
    """

    name: str
    offset: float
    scale: float
    value_range: tuple[float, float] | None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The scaled batch, a new float32 array of the same shape."""
        scaled = x.astype(np.float32)
        if self.offset:
            scaled -= np.float32(self.offset)
        if self.scale != 1:
            scaled /= np.float32(self.scale)
        return scaled


SCALERS = {
    "standard": Scaler("standard", 127.5, 127.5, (-1.0, 1.0)),
    "zero_one": Scaler("zero_one", 0.0, 255.0, (0.0, 1.0)),
    "identity": Scaler("identity", 0.0, 1.0, (0.0, 255.0)),
}


def scaler(name: str, dtype: np.typing.DTypeLike = np.uint8) -> Scaler:
    """The scaler of this name for data of this type.

    Args:
        name: `standard` (to [-1, 1]), `zero_one` (to [0, 1]) or `identity` (only cast to float32).
        dtype: the data's type, e.g. `data.x_train.dtype`. Only uint8 has a known range, so other
            types allow `identity` alone.

    Raises:
        UserError: the name is unknown, or the data is not uint8 and would need another formula.
    """
    if name not in SCALERS:
        raise UserError(f"Unknown scaler {name!r}: use one of {', '.join(SCALERS)}.")
    if np.dtype(dtype) == np.uint8:
        return SCALERS[name]
    if name != "identity":
        raise UserError(
            f"The scaler {name} is for uint8 images and the data is {np.dtype(dtype)}: scale it "
            "yourself and use the scaler identity."
        )
    return Scaler("identity", 0.0, 1.0, None)


class Augmenter:
    """Random transformations of a batch of images that depend on the seed and its place alone.

    Args:
        names: the transformations, applied in the order of `AUGMENTATIONS`.
        value_range: smallest and largest possible value; results are clipped to it.
        seed: the run's seed.
    """

    def __init__(self, names: Iterable[str], value_range: tuple[float, float], seed: int = 0):
        self.names = tuple(name for name in AUGMENTATIONS if name in set(names))
        self.value_range = value_range
        self.seed = seed
        self._layers = [_layer(name, value_range) for name in self.names if name != "crop"]

    def __call__(self, x: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """The transformed batch: a pure function of the seed, the epoch, the index and x.

        Args:
            x: scaled images (N, H, W, C).
            epoch: epoch, from 0.
            index: the batch's index in its epoch, from 0.
        """
        import keras

        for layer, name in zip(self._layers, self.names, strict=False):
            # The layer counts its calls; starting the count anew makes it forget them.
            seed = derive(self.seed, "augmentation", name, epoch, index)
            layer.generator.state.assign([seed, 0])
            x = layer(x, training=True)
        x = np.clip(keras.ops.convert_to_numpy(x), *self.value_range)
        if "crop" in self.names:
            x = _crop(
                x, self.value_range[0], derive(self.seed, "augmentation", "crop", epoch, index)
            )
        return x


def augmenter(
    names: Iterable[str], value_range: tuple[float, float] | None, seed: int = 0
) -> Augmenter | None:
    """The augmentation of these names, or None without names.

    Args:
        names: any of `brightness`, `rotation`, `zoom`, `translation`, `flip` (left to right, with
            probability 1/2), `crop` (a random part of the image's own size out of the image with a
            border of an eighth around it, filled with the least possible value).
        value_range: the scaler's `value_range`.
        seed: the run's seed, any integer.

    Raises:
        UserError: a name is unknown, or the data has no known range.
    """
    names = list(names)
    check_names(names)
    if not names:
        return None
    if value_range is None:
        raise UserError(f"Cannot augment ({', '.join(names)}) data that is not uint8: omit it.")
    return Augmenter(names, value_range, seed)


def check_names(names: Iterable[str]) -> None:
    """Raises a UserError unless all are names of augmentations."""
    unknown = sorted(set(names) - set(AUGMENTATIONS))
    if unknown:
        raise UserError(
            f"Unknown augmentation {', '.join(map(repr, unknown))}: use {', '.join(AUGMENTATIONS)}."
        )


def _crop(x: np.ndarray, fill: float, seed: int) -> np.ndarray:
    """Every image's own window of the padded batch; Keras's RandomCrop cuts one for the whole batch."""
    count, height, width, _ = x.shape
    border = height // CROP, width // CROP
    padded = np.pad(x, ((0, 0), *((b, b) for b in border), (0, 0)), constant_values=fill)
    random = np.random.default_rng(seed)
    top, left = (random.integers(0, 2 * b + 1, (count, 1)) for b in border)
    rows, columns = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _layer(name: str, value_range: tuple[float, float]):
    from keras import layers

    # float32 under every mixed-precision policy: this is data, not the network.
    options = {"dtype": "float32", "seed": 0}
    if name == "brightness":
        return layers.RandomBrightness(BRIGHTNESS, value_range=value_range, **options)
    if name == "flip":
        return layers.RandomFlip("horizontal", **options)
    options["fill_mode"] = FILL_MODE
    if name == "rotation":
        return layers.RandomRotation(ROTATION, **options)
    if name == "zoom":
        return layers.RandomZoom(ZOOM, **options)
    return layers.RandomTranslation(TRANSLATION, TRANSLATION, **options)
