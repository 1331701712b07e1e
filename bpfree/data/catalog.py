"""The data sets by name, and `load`."""

from __future__ import annotations

import os
from importlib import import_module

from bpfree.data.dataset import Dataset, Raw
from bpfree.errors import UserError

TFDS_NAMES = {
    "mnist": "mnist",
    "fmnist": "fashion_mnist",
    "kmnist": "kmnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "eurosat": "eurosat/rgb",
    "imagenet32": "imagenet_resized/32x32",
}
PREFIXES = ("tfds", "folder", "npz")


def names() -> list[str]:
    """The plain names; `tfds:<name>`, `folder:<path>` and `npz:<path>` are accepted besides."""
    return ["digits", *TFDS_NAMES, "caltech256"]


def check_name(name: str) -> str:
    """Returns the name if it is one of a data set; reads nothing and imports no library.

    Args:
        name: a plain name, or `tfds:<name>`, `folder:<path>`, `npz:<path>`.

    Raises:
        UserError: it is none of these.
    """
    prefix, _, rest = str(name).partition(":")
    if name in names() or (prefix in PREFIXES and rest):
        return name
    raise UserError(
        f"Unknown dataset {name!r}: use one of {', '.join(names())}, tfds:<name>, folder:<path> or "
        "npz:<path>."
    )


def read_by_tensorflow(name: str) -> bool:
    """Whether TensorFlow Datasets reads this set."""
    return name in TFDS_NAMES or name.startswith("tfds:")


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    examples_frac: float = 1.0,
    validation: float = 0.1,
    seed: int = 0,
    image_size: int = 64,
) -> Dataset:
    """Loads a data set with seeded, stratified, disjoint splits.

    Args:
        name: `digits`, `mnist`, … (see `names()`), `tfds:<name>` for any set of TensorFlow
            Datasets with images of one size and integer labels, `folder:<path>` for one folder of
            images per class, or `npz:<path>` for a NumPy file with `x_train`, `y_train`[, `x_test`,
            `y_test`][, `x_val`, `y_val`], or `x`, `y`.
        data_dir: where TensorFlow Datasets has prepared its sets, and where the folder `caltech256`
            is; None means the environment variable `BPFREE_DATA_DIR`, else the library's default.
        examples_frac: stratified fraction of the training data to use, in [0, 1]; 0 and 1 both mean
            all. The test split is always whole.
        validation: fraction of that training data held out for validation, in [0, 1); 0 means none.
            An npz file's own `x_val` is used instead, and joins the training data when this is 0.
        seed: seed of both fractions, any integer. A set without a test split gets a fixed
            stratified one of 20 %, which does not depend on it.
        image_size: height and width, in pixels, to which `folder:` and `caltech256` images are
            resized, keeping their proportions and padding with black.

    Raises:
        UserError: the name is unknown, the data is missing, unreadable or malformed, or a fraction
            is out of range or leaves a class without examples.
    """
    from bpfree.data.splits import check_fractions, split

    check_name(name)
    check_fractions(examples_frac, validation)
    raw = _read(name, data_dir or os.environ.get("BPFREE_DATA_DIR") or None, image_size)
    return split(raw, name, examples_frac=examples_frac, validation=validation, seed=seed)


def _read(name: str, data_dir: str | os.PathLike | None, image_size: int) -> Raw:
    prefix, _, rest = name.partition(":")
    if name == "digits":
        return _source("digits").read()
    if name == "caltech256":
        return _source("folder").read_caltech256(data_dir, image_size)
    if prefix == "folder":
        return _source("folder").read(rest, image_size)
    if prefix == "npz":
        return _source("npz").read(rest)
    return _source("tfds").read(TFDS_NAMES.get(name, rest), data_dir and os.fspath(data_dir))


def _source(name: str):
    return import_module(f"bpfree.data.{name}")
