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
    black on both sides: uint8 (N, image_size, image_size, 3). Hidden files, and files whose
    extension is not one of Pillow's, are passed over.

    Args:
        path: the folder that holds the classes' folders.
        image_size: height and width of the result in pixels, at least 1.

    Raises:
        UserError: there are fewer than two classes, a class without images, or an image that
            cannot be read.
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
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"Cannot read the image {file}: repair or remove it.") from error
    return np.asarray(ImageOps.pad(upright, (size, size), Image.Resampling.BILINEAR))
