"""Data from one folder of images per class, decoded by Pillow."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from bpfree.data.dataset import Pair, Raw
from bpfree.errors import UserError

SPLIT_NAMES = {"train", "test", "val", "valid", "validation"}
CALTECH256 = ("caltech256", "caltech256/256_ObjectCategories", "256_ObjectCategories")


def read(path: str | os.PathLike, image_size: int = 64) -> Raw:
    """Reads the images in the sub-folders of `path`; sub-folders in sorted order are the classes.

    Every image is turned upright (EXIF), made RGB, scaled to fit into a square and padded with
    black on both sides: uint8 (N, image_size, image_size, 3). 16-bit greys become 8-bit ones, and
    what is transparent lies on white. Hidden files, and files whose extension is not one of
    Pillow's, are passed over.

    Args:
        path: the folder that holds the classes' folders.
        image_size: height and width of the result in pixels, at least 1.

    Raises:
        UserError: there are fewer than two classes, a class without images, or an image that
            cannot be read, is too large or has greys of unknown range.
    """
    if image_size < 1:
        raise UserError(f"image_size is {image_size}: give at least 1 pixel.")
    root = Path(path).expanduser()
    classes = _classes(root)
    files = [_images(folder) for folder in classes]
    x = _decode(tuple(file for group in files for file in group), image_size)
    y = np.repeat(np.arange(len(classes)), [len(group) for group in files])
    return Raw(Pair(x, y), len(classes))


def read_caltech256(data_dir: str | os.PathLike | None, image_size: int = 64) -> Raw:
    """Reads Caltech-256 from the folder `caltech256` in `data_dir`, as `read` does.

    Args:
        data_dir: the folder that holds `caltech256` (or `256_ObjectCategories`).
        image_size: as in `read`.

    Raises:
        UserError: the folder is not there, or as in `read`.
    """
    for place in CALTECH256[::-1]:
        if data_dir is not None and (folder := Path(data_dir).expanduser() / place).is_dir():
            return read(folder, image_size)
    raise UserError(
        f"caltech256 is not in {data_dir or 'any data_dir'}: put its folder of classes there as "
        "caltech256 and give --data_dir, or give folder:<path>."
    )


def _classes(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give one that holds a folder of images per class.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = ", ".join(folder.name for folder in folders)
    if folders and {folder.name.lower() for folder in folders} <= SPLIT_NAMES:
        raise UserError(
            f"{root} holds the folders {found}, which are splits and not classes: give a folder that holds "
            "a folder of images per class."
        )
    if len(folders) < 2:
        raise UserError(
            f"{root} holds {len(folders)} folders{found and f' ({found})'}: give one folder of images for "
            "each of at least two classes."
        )
    return folders


def _images(folder: Path) -> list[Path]:
    from PIL import Image

    extensions = Image.registered_extensions()
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in extensions and p.is_file() and not p.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder} holds no image that Pillow can read: add some or remove it.")
    return files


# Keyed by the listing, so that a file added or removed is noticed.
@functools.lru_cache(maxsize=2)
def _decode(files: tuple[Path, ...], size: int) -> np.ndarray:
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, file in zip(images, files, strict=True):
        row[:] = _square(file, size)
    return images


def _square(file: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = _rgb(ImageOps.exif_transpose(image), file)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"The image {file} has more than {2 * Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit: scale it "
            "down or remove it."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"Cannot read the image {file}: repair or remove it.") from error
    return np.asarray(ImageOps.pad(upright, (size, size), Image.Resampling.BILINEAR))


def _rgb(image, file: Path):
    """The image without what Pillow's own conversion gets wrong: it clips greys at 255 and drops alpha."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image), file))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(greys: np.ndarray, file: Path) -> np.ndarray:
    """16-bit greys, which Pillow may hold in more bits, as 8-bit ones: 65535 becomes 255."""
    if greys.dtype.kind == "f" or greys.min() < 0 or greys.max() > 65535:
        raise UserError(
            f"The image {file} has greys of type {greys.dtype} from {greys.min():g} to {greys.max():g}, "
            "whose range is unknown: save it with 8 or 16 bits, or give npz:<path>."
        )
    if greys.dtype.itemsize > 2 and greys.max() <= 255:  # 8 bits in a larger type
        return greys.astype(np.uint8)
    return np.round(greys / 257).astype(np.uint8)
