"""Data from a NumPy `.npz` file."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib

import numpy as np

from bpfree.data.dataset import Pair, Raw
from bpfree.errors import UserError


def read(path: str | os.PathLike) -> Raw:
    """Reads `x_train`, `y_train`[, `x_test`, `y_test`][, `x_val`, `y_val`], or `x`, `y`.

    Arrays are kept as they are, except that uint8 images (N, H, W) get a channel axis and labels
    (N, 1) lose theirs. The number of classes is the largest label plus one; a warning says so where the
    training data lacks some of them.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, an array is missing, or arrays do not fit together.
    """
    arrays = _arrays(path)
    train = _pair(arrays, "_train", path) or _pair(arrays, "", path)
    if train is None:
        raise UserError(
            f"{path} holds {_listing(arrays)}: it needs x_train and y_train, or x and y."
        )
    test, val = _pair(arrays, "_test", path), _pair(arrays, "_val", path)
    pairs = [pair for pair in (train, test, val) if pair is not None]
    shapes = sorted({str(pair.x.shape[1:]) for pair in pairs})
    types = sorted({str(pair.x.dtype) for pair in pairs})
    if len(shapes) > 1 or len(types) > 1:
        raise UserError(
            f"{path} holds examples of shapes {', '.join(shapes)} and types {', '.join(types)}: "
            "give all splits one shape and one type."
        )
    classes = 1 + max(int(pair.y.max()) for pair in pairs)
    if classes < 2:
        raise UserError(f"{path} has the label 0 only: give at least two classes.")
    _warn_of_gaps(pairs, classes, path)
    return Raw(train, classes, test, val)


def _arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        file = np.load(os.path.expanduser(path), allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("an .npy file holds one array only")
        with file:
            return {key: file[key] for key in file.files if key.startswith(("x", "y"))}
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: give an .npz file.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"Cannot read {path} ({type(error).__name__}): give an .npz file written by "
            "numpy.savez without pickled objects."
        ) from error


def _pair(arrays: dict[str, np.ndarray], suffix: str, path: str | os.PathLike) -> Pair | None:
    keys = [f"x{suffix}", f"y{suffix}"]
    if not any(key in arrays for key in keys):
        return None
    if not all(key in arrays for key in keys):
        raise UserError(f"{path} holds {_listing(arrays)}: {keys[0]} and {keys[1]} go together.")
    x, y = (arrays[key] for key in keys)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise UserError(
            f"{keys[1]} in {path} has shape {y.shape} and type {y.dtype}: labels must be integers "
            "from 0, one per example."
        )
    if not y.size:
        raise UserError(f"{keys[1]} in {path} has no rows: give at least one example.")
    if y.min() < 0:
        raise UserError(f"{keys[1]} in {path} holds the label {y.min()}: labels count from 0.")
    if x.ndim < 2 or x.dtype.kind not in "uif" or len(x) != len(y):
        raise UserError(
            f"{keys[0]} in {path} has shape {x.shape} and type {x.dtype}: it must hold numbers, "
            f"one row for each of the {len(y)} labels, in two dimensions or more."
        )
    if not np.isfinite(x).all():
        raise UserError(f"{keys[0]} in {path} holds NaN or infinity: remove these examples.")
    if x.dtype == np.uint8 and x.ndim == 3:
        x = x[..., None]
    return Pair(x, y.astype(np.int64))


def _warn_of_gaps(pairs: list[Pair], classes: int, path: str | os.PathLike) -> None:
    """Warns of classes that no training example has: their outputs are there, and never learn to be right."""
    seen, *others = (np.unique(pair.y) for pair in pairs)
    if len(seen) == classes:
        return
    never = np.setdiff1d(np.concatenate([seen, *others]), seen)
    shown = ", ".join([*map(str, never[:5]), *(["…"] if len(never) > 5 else [])])
    elsewhere = f", and the labels {shown} occur in other splits only" if shown else ""
    warnings.warn(
        f"The training labels of {path} are {len(seen)} of the {classes} classes from 0 to {classes - 1}"
        f"{elsewhere}: number the classes without gaps, and train on each.",
        stacklevel=2,
    )


def _listing(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(sorted(arrays)) or "no array named x… or y…"
