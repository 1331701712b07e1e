"""The experiment on disk: human-readable files that a crash, a kill or a full disk cannot spoil.

    <project>/experiment.json                          configuration, versions, commit, seed
    <project>/lock                                     held while a process works on the project
    <project>/trials/<index>-<hash>/trial.json         hyperparameters, state, scores
    <project>/trials/.../execution-<k>/history.csv     one row per epoch, appended as it ends
    <project>/trials/.../execution-<k>/result.json     written last: the execution is finished

Every write is atomic: a temporary file in the same folder, fsync, rename, fsync of the folder; only
the histories grow in place, and a torn last line is dropped when they are read. JSON has no NaN, so
NaN and the infinities are the strings "nan", "inf" and "-inf" there and become floats again when
read. Nothing here knows Keras, TensorFlow or even NumPy.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bpfree.errors import DiskError, UserError

_FREE_SPACE = "free some space there and start again, what is finished is kept"
_OTHER_PLACE = "give a directory that this user can read and write"
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: _OTHER_PLACE,
    errno.EACCES: _OTHER_PLACE,
    errno.EPERM: _OTHER_PLACE,
    errno.ENOTDIR: _OTHER_PLACE,
    errno.EEXIST: _OTHER_PLACE,
    errno.ENAMETOOLONG: "give a directory with a shorter name",
}
_UNSYNCABLE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_STOPPED = -1  # in the place of the epochs that a trial had when its attempt began
_LONGEST, _MOST = 80, 6  # characters of a value, and values, in a sentence on what differs
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@contextmanager
def _disk(verb: str, path: Path) -> Iterator[None]:
    """Says in one sentence what the user's disk refuses; anything else is ours and passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        reason = os.strerror(error.errno).lower()
        advice = _ADVICE[error.errno]
        raise DiskError(f"Cannot {verb} {path} ({reason}): {advice}.") from error


def _sync_folder(folder: Path) -> None:
    """Makes the folder's entries survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCABLE:
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def write_atomic(path: str | os.PathLike, data: str | bytes) -> None:
    """Replaces a file as a whole: whatever happens, the path holds the old content or the new.

    Args:
        path: the file; its folder is created when missing.
        data: the new content; text is written as UTF-8.

    Raises:
        UserError: the disk is full or cannot be written; the old file is intact.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _disk("write", path):
        _make_folder(path.parent)
        try:
            with open(temporary, "xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)


def check_place(directory: str | os.PathLike) -> None:
    """Makes sure that a directory can be made, if it is not there, and written to; leaves nothing behind.

    Raises:
        UserError: it cannot; the message says why.
    """
    path, made = Path(directory), []
    try:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        advice = _ADVICE.get(error.errno, _OTHER_PLACE)
        raise UserError(f"Cannot write to {str(path)!r} ({reason}): {advice}.") from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _append(path: Path, data: bytes) -> None:
    """Adds to a file durably; when it fails the file is as long as before."""
    with _disk("write", path), open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def _to_json(value: Any) -> Any:
    """The value in strict JSON's types; NumPy's scalars and arrays by their `tolist`."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return _to_json(value.tolist())
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _canonical(value: Any) -> str:
    """One text for equal values, whatever the order of their keys."""
    return json.dumps(_to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Replaces a JSON file atomically; NaN and the infinities become strings.

    Raises:
        UserError: the disk is full or cannot be written; the old file is intact.
    """
    write_atomic(path, json.dumps(_to_json(content), indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, set_aside: bool = True) -> dict[str, Any] | None:
    """The content of a JSON file; None when it is missing or spoilt, which is never fatal.

    Args:
        path: the file, which should hold one JSON object.
        set_aside: rename a spoilt file to `<name>.corrupt[-n]`, so that it can be written anew;
            it is warned of either way.
    """
    path = Path(path)
    try:
        with _disk("read", path):
            data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return _from_json(content)
    _warn_of_spoilt(path, set_aside)
    return None


def _warn_of_spoilt(path: Path, set_aside: bool) -> None:
    if set_aside:
        aside, n = path.with_name(f"{path.name}.corrupt"), 0
        while aside.exists():
            n += 1
            aside = path.with_name(f"{path.name}.corrupt-{n}")
        with _disk("write", aside):
            os.replace(path, aside)
        warnings.warn(f"{path} is spoilt: set aside as {aside.name}.", stacklevel=3)
    else:
        warnings.warn(f"{path} is spoilt: taken as missing.", stacklevel=3)


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """What differs between two configurations: dotted names, and both values in words."""
    there, here = _by_name(there), _by_name(here)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted({*there, *here}):
            dotted = f"{name}.{key}" if name else key
            yield from _differences(there.get(key, ...), here.get(key, ...), dotted)
    elif there is ... or here is ... or _canonical(there) != _canonical(here):
        yield name, f"{_shown(there)} there and {_shown(here)} here"


def _by_name(value: Any) -> Any:
    """Hyperparameters of a search space by their names; anything else as it is."""
    listed = isinstance(value, list) and value
    if listed and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item.get("values", item.get("value", item)) for item in value}
    return value


def _shown(value: Any) -> str:
    text = "missing" if value is ... else _canonical(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _sentence(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs, each once: a hyperparameter is known by its name, wherever it stands."""
    found: dict[str, str] = {}
    for name, values in _differences(there, here):
        found.setdefault(re.sub(r"^(choices|space)\.", "", name), values)
    if not found and _canonical(there) != _canonical(here):
        return "space has another order or other conditions"
    named = [f"{name} is {values}" for name, values in found.items()]
    more = [f"{len(named) - _MOST} more"] if len(named) > _MOST else []
    return ", ".join(named[:_MOST] + more)


RUN_FILES = ("history.csv", "test.json", "model.keras", "history.png")
"""What train.py puts into an experiment's folder, beside its records."""

_OURS = re.compile(
    r"(experiment\.json|test\.json)(\.corrupt(-\d+)?)?|lock|trials|log|source(-\d+)?\.tar\.gz|report\.html"
    r"|leaderboard\.csv|learning_curves\.png|best_models|" + "|".join(map(re.escape, RUN_FILES))
)


class Experiment:
    """A project folder: its configuration and its trials.

    Args:
        directory: the project's folder; it need not exist yet.
        read_only: never touch a file, not even to set a spoilt one aside.
    """

    def __init__(self, directory: str | os.PathLike, read_only: bool = False) -> None:
        self.path = Path(directory)
        self.read_only = read_only

    def open(
        self, configuration: Mapping[str, Any], about: Mapping[str, Any] | None = None
    ) -> None:
        """Creates `experiment.json`, or makes sure that it holds this very configuration.

        Args:
            configuration: everything that decides the results; it is compared.
            about: what else is worth knowing (versions, commit, direction, ...), written beside
                it when the file is created and never compared.

        Raises:
            UserError: the project was begun with another configuration; nothing is written.
        """
        if self.record():
            self.compare(configuration)
        else:
            write_json(self._file, {**(about or {}), "configuration": configuration})

    def compare(self, configuration: Mapping[str, Any], partly: bool = False) -> None:
        """Makes sure that the project was begun with this configuration; writes nothing.

        Args:
            configuration: the one at hand.
            partly: only the keys that it has count.

        Raises:
            UserError: it was not; the message names everything that differs.
        """
        there = self.record().get("configuration")
        if not isinstance(there, Mapping):
            raise UserError(
                f"{self.path} holds an experiment whose experiment.json does not tell its configuration "
                "any more: give another directory, or --reset_training to start this one anew."
            )
        if partly:
            there = {key: value for key, value in there.items() if key in configuration}
        here = _from_json(_to_json(configuration))
        differing = _sentence(there, here)
        if differing:
            raise UserError(
                f"{self.path} holds an experiment with another configuration ({differing}): "
                "give another directory, or --reset_training to start this one anew."
            )

    def record(self) -> dict[str, Any]:
        """The content of `experiment.json`: `configuration`, versions and so on; {} when absent."""
        return read_json(self._file, set_aside=not self.read_only) or {}

    def exists(self) -> bool:
        """Whether there is something of an experiment, if only its trials."""
        record = read_json(self._file, set_aside=False) or {}
        return "configuration" in record or bool(self._trial_folders())

    def clear(self) -> None:
        """Deletes what bpfree has written; whatever else lies there stays, and so does the folder then.

        Raises:
            UserError: another process is at work on it.
        """
        if not self.exists():
            return
        with self.lock(), _disk("write", self.path):
            for path in self.path.iterdir():
                if _OURS.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            with suppress(OSError):
                self.path.rmdir()

    def trial(self, index: int, hyperparameters: Mapping[str, Any]) -> Trial:
        """The trial of these hyperparameters, as recorded or new; nothing is written yet.

        Args:
            index: its place in the grid, from 0.
            hyperparameters: name to value.
        """
        digest = hashlib.sha256(_canonical(hyperparameters).encode()).hexdigest()[:8]
        folder = self.path / "trials" / f"{index:04d}-{digest}"
        return Trial(folder, hyperparameters, read_only=self.read_only)

    def trials(self) -> list[Trial]:
        """All trials that have a folder, by index.

        `hyperparameters` is empty where `trial.json` was lost; `trial` brings such a trial back
        with its executions.
        """
        trials = [Trial(folder, read_only=self.read_only) for folder in self._trial_folders()]
        return sorted(trials, key=lambda trial: (trial.index, trial.id))

    def progress(self) -> int:
        """Epochs recorded + executions finished + trials ended: it grows while work gets done.

        It falls back only by the epochs since the last checkpoint when an execution is resumed,
        and by one when a trial that had ended is begun again.
        """
        trials = self.trials()
        executions = [execution for trial in trials for execution in trial.executions()]
        ended = sum(trial.state in ("completed", "failed") for trial in trials)
        finished = sum(execution.result_file.exists() for execution in executions)
        return ended + finished + sum(len(execution.history()) for execution in executions)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing to the project; the system frees it at a kill.

        Raises:
            UserError: another process (or another tuner in this one) is at work on it.
        """
        import fcntl  # not on Windows, where records can still be read

        path = self.path / "lock"
        with _disk("write", path):
            _make_folder(self.path)
            file = open(path, "a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path} is in use by {file.read().strip() or 'another process'}: "
                    "wait for it, end it, or give another directory."
                ) from None
            except OSError as error:  # some network file systems cannot lock
                warnings.warn(f"{path} cannot be locked ({error.strerror}).", stacklevel=3)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Removes what a killed process left half-written; safe under the lock alone."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def _trial_folders(self) -> list[Path]:
        folders = (self.path / "trials").glob("*")
        return [folder for folder in folders if re.fullmatch(r"\d{4,}-[0-9a-f]{8}", folder.name)]

    @property
    def _file(self) -> Path:
        return self.path / "experiment.json"


class Trial:
    """One set of hyperparameters and what came of it.

    Attributes:
        id: `<index>-<hash of the hyperparameters>`, the name of its folder.
        index: its place in the grid, from 0.
        hyperparameters: name to value.
        state: "pending", "running", "completed" or "failed".
        score: mean over its executions, or None.
        scores: one per execution.
        failure: the traceback of its last attempt, or None.
        attempts: how many times it was begun.
        deaths: what `killed` was when its last attempt began.
        until: the epoch at which its last attempt was to pause; None: not before the end.
    """

    def __init__(
        self,
        path: Path,
        hyperparameters: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self.id = path.name
        self.index = int(path.name.split("-")[0])
        record = read_json(self._file, set_aside=not read_only) or {}
        if hyperparameters is None:
            hyperparameters = record.get("hyperparameters")
        known = isinstance(hyperparameters, Mapping)
        self.hyperparameters: dict[str, Any] = dict(hyperparameters) if known else {}
        self.state: str = record.get("state", "pending")
        self.score: float | None = record.get("score")
        self.scores: list[float] = record.get("scores", [])
        self.failure: str | None = record.get("failure")
        self.attempts: int = record.get("attempts", 0)
        self.deaths: int = record.get("deaths", 0)
        self.until: int | None = record.get("until")
        self._epochs: int = record.get("epochs", 0)

    def save(self) -> None:
        """Writes `trial.json`."""
        keys = ("id", "index", "hyperparameters", "state", "score", "scores", "failure")
        record = {key: getattr(self, key) for key in (*keys, "attempts", "deaths")}
        if self.until is not None:
            record["until"] = self.until
        write_json(self._file, {**record, "epochs": self._epochs})

    def begin(self, until: int | None = None) -> None:
        """Records that the trial is being run, for the first time or again.

        Args:
            until: the epoch at which it will pause, if not at the end.
        """
        self.deaths, self._epochs = self.killed(), self._recorded()
        self.state, self.score, self.scores, self.failure = "running", None, [], None
        self.attempts += 1
        self.until = until
        self.save()

    def killed(self) -> int:
        """How many attempts in a row, the last one included, were killed before they recorded an epoch.

        Those that were stopped do not count.
        """
        if self.state == "running" and self._epochs == _STOPPED:
            return self.deaths
        killed = self.state == "running" and self._recorded() == self._epochs
        return self.deaths + 1 if killed else 0

    def leave(self) -> None:
        """Records that the present attempt was stopped, which is no death; once."""
        if self._epochs == _STOPPED:
            return
        self.deaths = self.deaths if self._recorded() == self._epochs else 0
        self._epochs = _STOPPED
        self.save()

    def complete(self, score: float, scores: Iterable[float]) -> None:
        """Records that every execution is finished."""
        self.state, self.score, self.scores, self.failure = "completed", score, list(scores), None
        self.save()

    def fail(self, failure: str, scores: Iterable[float] = ()) -> None:
        """Records why the trial could not be run.

        Args:
            failure: the traceback.
            scores: those of the executions that did finish.
        """
        self.state, self.score, self.scores, self.failure = "failed", None, list(scores), failure
        self.save()

    def mend(self) -> None:
        """Takes back what was recorded of it where an execution has lost its history or its result.

        A trial that has failed stays as it is.
        """
        if self.state == "failed":
            return
        lost = [execution.mend() for execution in self.executions()]
        if self.state == "completed":
            lost += [self.execution(k).result() is None for k in range(len(self.scores))]
        if any(lost) and self.state != "pending":
            self.state, self.score, self.scores, self.until = "pending", None, [], None
            self.save()

    def _recorded(self) -> int:
        return sum(len(execution.history()) for execution in self.executions())

    def execution(self, k: int) -> Execution:
        """The k-th execution, as recorded or new; nothing is written yet."""
        return Execution(self.path / f"execution-{k}", read_only=self.read_only)

    def executions(self) -> list[Execution]:
        """The executions that have a folder, in order."""
        names = [folder.name for folder in self.path.glob("execution-*")]
        found = [re.fullmatch(r"execution-(\d+)", name) for name in names]
        return [self.execution(k) for k in sorted(int(match[1]) for match in found if match)]

    @property
    def _file(self) -> Path:
        return self.path / "trial.json"


class Execution:
    """One training run of a trial: its history, its result, and places for its snapshots.

    What another module writes to `checkpoint`, `best_weights`, `final_weights` and `test_file`
    should go through `write_atomic` or `write_json`.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.index = int(path.name.split("-")[1])
        self.history_file = path / "history.csv"
        self.result_file = path / "result.json"
        self.test_file = path / "test.json"
        self.checkpoint = path / "checkpoint"
        self.best_weights = path / "best.weights.npz"
        self.final_weights = path / "final.weights.npz"
        self._tail: tuple[tuple[int, ...], list[str], int] | None = None

    def history(self) -> list[dict[str, float]]:
        """One row per epoch, from 1 without a gap: the sound beginning of `history.csv`.

        A row has no entry for what was not measured in its epoch.
        """
        return self._read()[1]

    def append(self, row: Mapping[str, float]) -> None:
        """Adds the epoch that has just ended, and returns when it is safe on the disk.

        Args:
            row: `epoch`, counted from 1, and the epoch's metrics; new ones may turn up.

        Raises:
            ValueError: `epoch` is not the next one.
            UserError: the disk is full or cannot be written; the history is as before.
        """
        self.extend([row])

    def extend(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds several epochs like `append`, in one go; at least one."""
        columns, epochs = self._repair()
        for epoch, row in enumerate(rows, epochs + 1):
            if row["epoch"] != epoch:
                raise ValueError(f"Epoch {epoch} of {self.path} is next, not {row['epoch']}.")
        named = list(dict.fromkeys(["epoch", *columns, *(name for row in rows for name in row)]))
        if named == columns:
            lines = (_line(_cell(row, column) for column in columns) for row in rows)
            _append(self.history_file, "".join(lines).encode())
        else:
            columns = named
            self._write(columns, [*self.history(), *rows])
        self._tail = self._signature(), columns, epochs + len(rows)

    def cut(self, epochs: int) -> list[dict[str, float]]:
        """Drops all epochs after the given one, and returns those that are left.

        Fewer than `epochs` are left only if the file was damaged: start over then.
        """
        columns, rows, sound = self._read()
        if not sound or len(rows) > epochs:
            self._write(columns, rows[:epochs])
        return rows[:epochs]

    def result(self) -> dict[str, Any] | None:
        """What `finish` recorded; None while the execution is unfinished."""
        return read_json(self.result_file, set_aside=not self.read_only)

    def test(self) -> dict[str, Any] | None:
        """The metrics on the test set, as `test.json` has them; None when it was not used."""
        return read_json(self.test_file, set_aside=not self.read_only)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Records the result, which makes the execution finished; call it last.

        Args:
            result: `score`, `best_epoch`, `epochs`, `seed`, `metrics`, a dictionary of those at the
                best epoch, and what is known of `seconds`, `train_flops`, `energy`, `idle_power`,
                `peak_host_memory` and `peak_device_memory`.
        """
        write_json(self.result_file, result)

    def mend(self) -> bool:
        """Begins a finished execution anew whose history lacks epochs of its result; whether it did.

        It may have more: one that had paused has gone on.
        """
        result = self.result()
        if result is None or result.get("epochs", math.inf) <= len(self.history()):
            return False
        if self.history_file.exists():
            _warn_of_spoilt(self.history_file, set_aside=True)
        self._forget()
        return True

    def restart(self, spoilt: Path) -> None:
        """Begins the execution anew, since this file of it is spoilt, which is set aside."""
        self.cut(0)  # first: a result without its epochs is none, see `mend`
        _warn_of_spoilt(spoilt, set_aside=True)
        self._forget()

    def _forget(self) -> None:
        with _disk("write", self.path):
            for file in (self.result_file, self.checkpoint):
                file.unlink(missing_ok=True)

    def _read(self) -> tuple[list[str], list[dict[str, float]], bool]:
        """Columns and rows up to the first line that is no epoch, and whether that was all."""
        try:
            with _disk("read", self.history_file):
                text = self.history_file.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return [], [], True
        if not text:
            return [], [], True
        *lines, torn = text.split("\n")
        columns, rows = _cells(lines[0]) if lines else [], []
        if columns[:1] != ["epoch"]:
            return [], [], False
        for line in lines[1:]:
            row = _row(columns, line)
            if row is None or row["epoch"] != len(rows) + 1:
                return columns, rows, False
            rows.append(row)
        return columns, rows, not torn

    def _repair(self) -> tuple[list[str], int]:
        """Columns and last epoch of the file, after dropping what is torn."""
        if self._tail and self._tail[0] == self._signature():  # nobody has touched it since
            return self._tail[1:]
        columns, rows, sound = self._read()
        if not sound:
            self._write(columns, rows)
        return columns, len(rows)

    def _signature(self) -> tuple[int, ...] | None:
        with suppress(FileNotFoundError):
            status = self.history_file.stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return None

    def _write(self, columns: Sequence[str], rows: Iterable[Mapping[str, float]]) -> None:
        header = [_line(columns)] if columns else []
        lines = [_line(_cell(row, column) for column in columns) for row in rows]
        write_atomic(self.history_file, "".join(header + lines))


def _cell(row: Mapping[str, float], column: str) -> str:
    """`repr`, which a float reads back exactly; nothing for what was not measured."""
    if column not in row:
        return ""
    return str(int(row[column])) if column == "epoch" else repr(float(row[column]))


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _row(columns: Sequence[str], line: str) -> dict[str, float] | None:
    """The line's values by column; None if one is missing, one too many or not a number."""
    cells = line.split(",")  # numbers are never quoted, and a sweep has many lines
    try:
        row = {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
        return {**row, "epoch": int(cells[0])}
    except ValueError:
        return None
