"""Importing the backend for a command, without what it prints that no user can do anything about."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bpfree.errors import UserError

_BACKENDS = ("tensorflow", "jax")
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

    Raises:
        UserError: for a backend that bpfree does not run on, or that is not installed.
    """
    _check_backend()
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


def _check_backend() -> None:
    """Answers what Keras would answer with a traceback, without importing it."""
    name, where = _chosen_backend()
    if name not in _BACKENDS:
        raise UserError(
            f"bpfree runs on the Keras backends {' and '.join(_BACKENDS)}, and {where} names {name!r}: set "
            "KERAS_BACKEND to one of them."
        )
    if find_spec(name) is None:
        other = next(known for known in _BACKENDS if known != name)
        raise UserError(
            f"{where} names {name}, which is not installed: install it, or set KERAS_BACKEND={other}."
        )


def _chosen_backend() -> tuple[str, str]:
    """The backend that Keras is going to use, and what says so: the environment goes before the file."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "KERAS_BACKEND"
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        return json.loads(file.read_text())["backend"], str(file)
    except (OSError, ValueError, KeyError, TypeError):  # Keras passes over such a file, too
        return _BACKENDS[0], "Keras's default"


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
