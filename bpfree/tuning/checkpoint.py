"""Checkpoint: everything that decides how a run goes on, in one atomic file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bpfree.costs import Costs
from bpfree.tuning.programs import state
from bpfree.tuning.records import write_atomic

_SCALARS = (bool, int, float, str, type(None), np.number, np.bool_)
# Keras's EarlyStopping turns min_delta's sign when it begins: restored, it would be turned back.
_NOT_KEPT = ("stop_training", "min_delta")
# What becomes of a file that is cut, empty, garbage or another kind of archive.
_SPOILT = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError)


class Checkpoint:
    """Weights, optimizer, random states, callback states, costs and the number of epochs done.

    Args:
        path: the file, a NumPy archive.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(
        self, model: keras.Model, callbacks: Sequence, epoch: int, costs: Costs | None = None
    ) -> None:
        """Replaces the file.

        Args:
            model: built and compiled.
            callbacks: those whose numbers and strings are to be kept, always in the same order.
            epoch: how many epochs are done.
            costs: what they have cost.
        """
        self.write(arrays(state(model)), callbacks, epoch, bool(model.stop_training), costs)

    def write(
        self,
        values: dict[str, np.ndarray],
        callbacks: Sequence,
        epoch: int,
        stopped: bool,
        costs: Costs | None = None,
    ) -> None:
        """Like `save`, of a model that is known by its `state`'s values and whether it is stopped."""
        states = [_state(callback) for callback in callbacks]
        about = {"epoch": epoch, "stopped": stopped, "callbacks": states}
        if costs is not None:
            about["costs"] = costs.record()
        write_archive(self.path, values, about)

    def progress(self) -> tuple[int, bool]:
        """How many epochs are done, and whether a callback has stopped the run; (0, False) if new."""
        about = read_about(self.path)
        return (about["epoch"], about["stopped"]) if about else (0, False)

    def costs(self) -> Costs:
        """What the epochs done have cost: nothing if there are none, unknown if it was not written."""
        about = read_about(self.path)
        return Costs.of(about.get("costs", {"seconds": 0.0})) if about else Costs()

    def restore(self, model: keras.Model) -> None:
        """Puts weights, optimizer and random states back."""
        assign(state(model), read_archive(self.path))

    def restore_callbacks(self, callbacks: Sequence) -> None:
        """Puts the callbacks' states back, if there are any.

        To be called after their `on_train_begin`, in which they begin anew. One with a true attribute
        `shared` serves other executions as well, and is left as it is.
        """
        about = read_about(self.path)
        for callback, kept in zip(callbacks, about["callbacks"] if about else [], strict=False):
            if not getattr(callback, "shared", False):
                vars(callback).update(kept)

    def remove(self) -> None:
        """Deletes the file, which a finished run needs no more."""
        self.path.unlink(missing_ok=True)


def arrays(variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' values, by position."""
    return {f"{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}


def assign(variables: Sequence[keras.Variable], values: dict[str, np.ndarray]) -> None:
    """Gives every variable its value back, by position."""
    for index, variable in enumerate(variables):
        variable.assign(values[f"{index}"])


def write_archive(path: Path, values: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes arrays and a JSON object to one file, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), "uint8"), **values)
    write_atomic(path, buffer.getvalue())


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `write_archive` wrote."""
    with open(path, "rb") as file, np.load(file) as archive:
        return {key: archive[key] for key in archive.files if key != "about"}


def read_about(path: Path) -> dict[str, Any] | None:
    """The JSON object that `write_archive` wrote, or None if there is no file."""
    if not path.exists():
        return None
    with open(path, "rb") as file, np.load(file) as archive:
        return json.loads(archive["about"].tobytes())


def spoilt(path: Path) -> bool:
    """Whether there is a file, and not what `write_archive` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "about.npy" not in archive.namelist() or archive.testzip() is not None
    except FileNotFoundError:
        return False
    except _SPOILT:
        return True


def _state(callback) -> dict[str, Any]:
    """A callback's attributes that are plain numbers or strings."""
    return {
        key: value.item() if isinstance(value, (np.number, np.bool_)) else value
        for key, value in vars(callback).items()
        if isinstance(value, _SCALARS) and key not in _NOT_KEPT
    }
