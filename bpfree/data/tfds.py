"""Data through TensorFlow Datasets."""

from __future__ import annotations

import functools
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from bpfree.data.dataset import Pair, Raw
from bpfree.errors import UserError

BATCH = 1024


@functools.lru_cache(maxsize=2)
def read(name: str, data_dir: str | None = None) -> Raw:
    """Reads a set that TensorFlow Datasets has prepared, or prepares it.

    The test split is `test`, else `validation`, else none. The set is decoded once per process.

    Args:
        name: the library's name of the set, e.g. `mnist` or `imagenet_resized/32x32`.
        data_dir: where it is prepared, or will be; None means the library's default.

    Raises:
        UserError: the library is not installed or does not know the set, its configuration or
            its version, the set is neither prepared nor downloadable, or it has no images of one
            size with integer labels.
    """
    builder = _prepared(name, data_dir)
    classes = _check_features(name, builder.info.features)
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits:
        raise UserError(f"{name} has the splits {', '.join(splits)}: choose a set with one, train.")
    return Raw(_decode(builder, "train"), classes, test and _decode(builder, test))


def _prepared(name: str, data_dir: str | None):
    """A builder whose files are on disk."""
    tfds = _library(name)
    place = data_dir or "the default folder of TensorFlow Datasets"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"TensorFlow Datasets knows no set {name!r} and {place} holds none: correct the name, "
            "or give npz:<path> or folder:<path>."
        ) from error
    except (ValueError, AssertionError, TypeError) as error:  # for what follows the set's own name
        why = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise UserError(
            f"TensorFlow Datasets cannot make {name!r} ({why}): correct its configuration or version, as in "
            "imagenet_resized/32x32 or mnist:3.0.1, or give the set's name alone."
        ) from error
    if builder.is_prepared():
        return builder
    try:
        _check_network(builder)
        builder.download_and_prepare()
    except Exception as error:  # anything: no network, a full disk, a moved file, a missing tool
        raise UserError(
            f"{name} is not prepared in {place} and could not be downloaded "
            f"({type(error).__name__}): prepare it elsewhere with TensorFlow Datasets and give its "
            "--data_dir, or give npz:<path> or folder:<path>."
        ) from error
    return builder


def _check_network(builder) -> None:
    """Fails at once where no download can succeed; the library would retry for minutes."""
    hosts = sorted({urlsplit(url).hostname or "" for url in builder.url_infos or ()} - {""})
    if not hosts or getproxies():  # a proxy resolves names itself
        return
    for host in hosts:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            failure = error
    raise ConnectionError(f"none of {', '.join(hosts)} can be resolved") from failure


def _library(name: str):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{name} needs TensorFlow Datasets, but importing it failed ({error}): install "
            "tensorflow, tensorflow-datasets and importlib_resources, or give npz:<path> or "
            "folder:<path>."
        ) from error
    import keras

    if keras.backend.backend() != "tensorflow":
        _hide_gpus(tf)
    return tfds


def _hide_gpus(tf) -> None:
    """Keeps TensorFlow, which only decodes here, from taking the memory the backend needs."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # TensorFlow is already running, so somebody else has decided
        pass


def _check_features(name: str, features) -> int:
    """The number of classes, if the set fits."""
    kind = "no images with labels"
    if {"image", "label"} <= set(features):
        image, classes = features["image"], getattr(features["label"], "num_classes", None)
        kind = f"images of shape {image.shape} and type {np.dtype(image.np_dtype)}"
        if None not in image.shape and image.np_dtype == np.uint8 and classes:
            return classes
    raise UserError(
        f"{name} has {kind}: choose a set of 8-bit images of one size with class labels, or write "
        "the images into folders and give folder:<path>."
    )


def _decode(builder, split: str) -> Pair:
    """One split, batch by batch into one array, so that memory holds it once."""
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    x = np.empty((count, *builder.info.features["image"].shape), np.uint8)
    y = np.empty(count, np.int64)
    examples = builder.as_dataset(split=split, shuffle_files=False, as_supervised=False)
    wanted = examples.map(lambda example: (example["image"], example["label"]))
    start = 0
    for images, labels in tfds.as_numpy(wanted.batch(BATCH)):
        x[start : start + len(labels)], y[start : start + len(labels)] = images, labels
        start += len(labels)
    if start != count:
        raise RuntimeError(f"{builder.name}'s {split} split has {start} examples, not {count}")
    return Pair(x, y)
