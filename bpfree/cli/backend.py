"""Importing the backend for a command, without what it prints that no user can do anything about."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

_DEVICES = Path("/dev")
_NOISE = (
    "All log messages before absl::InitializeLog",
    "oneDNN custom operations are on",
    "optimized to use available CPU instructions",
    "To enable the following instructions",
)
_NOISE_WITHOUT_GPU = ("Could not find cuda drivers", "failed call to cuInit")


def start(device: str | None = None, tensorflow: bool = False) -> None:
    """Imports Keras and its backend, and finds the devices.

    TensorFlow's informative messages are off unless the user has set `TF_CPP_MIN_LOG_LEVEL`. About a GPU
    that exists and is not used, nothing is held back, and a line says so.

    Args:
        device: that was asked for: None, `cpu`, `gpu` or `gpu:<index>`.
        tensorflow: whether TensorFlow will be needed, whatever the backend; it is imported if it is there.
    """
    wanted = device != "cpu" and (gpu_exists() or device is not None)
    logging.getLogger("tensorflow").addFilter(_says_something)
    own_choice = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    noise = () if own_choice else _NOISE if wanted else (*_NOISE, *_NOISE_WITHOUT_GPU)
    with _without(noise if "keras" not in sys.modules else ()):
        import keras

        if tensorflow:
            with suppress(ImportError):
                import_module("tensorflow")
        devices = keras.distribution.list_devices()
    if wanted and all(name.startswith("cpu") for name in devices):
        print(
            f"No GPU can be used by {keras.backend.backend()}, so the CPU is: see the messages above, "
            "or docs/RUNNING.md on the libraries that a GPU needs; --device cpu asks for just that.",
            file=sys.stderr,
        )


def gpu_exists() -> bool:
    """Whether the system shows an NVIDIA GPU, usable or not, and the user has not hidden it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(_DEVICES.glob("nvidia[0-9]*"))


def _says_something(record: logging.LogRecord) -> bool:
    # Every trial has a function of its own, traced once; TensorFlow takes that for one traced anew.
    return "triggered tf.function retracing" not in record.getMessage()


@contextmanager
def _without(noise: Sequence[str]) -> Iterator[None]:
    """Keeps lines with these words from standard error, where libraries write before they can be told not to.

    The lines go through a process of its own, so that what a crash prints is not lost.
    """
    if not noise:
        yield
        return
    patterns = [f"--regexp={words}" for words in noise]
    command = ["grep", "--line-buffered", "--invert-match", "--fixed-strings", *patterns]
    sys.stderr.flush()
    before = os.dup(2)
    try:
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=before)
    except OSError:  # no grep: then the noise stays
        os.close(before)
        yield
        return
    os.dup2(reader.stdin.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        reader.communicate()
        os.close(before)
