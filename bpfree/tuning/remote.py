"""Training trials of a search in a process that shares no disk with it: what goes there and comes back.

The other process has a project of its own in a temporary folder, and trains in it by the code that trains
here. What it has on record comes back as events: beginnings and epochs while it works, then every finished
execution and every trial with its outcome, as the very files. The search alone writes to its project.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import keras

from bpfree.data.dataset import Dataset
from bpfree.errors import UserError
from bpfree.tuning import about
from bpfree.tuning.execution import Regime, ended, outcome, pauses
from bpfree.tuning.progress import Silence
from bpfree.tuning.records import Execution, Experiment, Trial, write_atomic

_PAUSE = 0.3  # seconds between two lots of events
_PULSE = 5.0  # seconds between two signs of life

Files = dict[str, bytes]
"""Contents by path, relative to a project, a trial or an execution."""
Points = Mapping[int, dict[str, Any]]
"""Hyperparameters by a trial's index."""
Event = tuple
"""What happened: its kind, then what `Ledger` has under this name for arguments."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a search have in common.

    Attributes:
        search: arguments of `GridSearch`, but for its place.
        regime: how executions train.
        callbacks: `(tuner, data) -> callbacks`, as `GridSearch.search` takes them; called there.
        prepare: called there first; defines plugins, for example.
        versions: of the packages that decide the results.
    """

    search: dict[str, Any]
    regime: Regime
    callbacks: Callable
    prepare: Callable[[], None]
    versions: dict[str, Any]


def plan(tuner, callbacks: Callable, prepare: Callable) -> Plan:
    """That of a search which has its regime."""
    names = ("hypermodel", "executions_per_trial", "seed", "score", "population")
    search = {name: getattr(tuner, name) for name in names}
    search["objective"] = tuner.oracle.objective
    return Plan(search, tuner.regime, callbacks, prepare, versions())


def versions() -> dict[str, Any]:
    """Of what decides results: packages and the backend."""
    return {**about.versions()["versions"], "backend": keras.backend.backend()}


def pack(trials: Iterable[Trial], regime: Regime) -> Files:
    """What is on record of trials; of an ended one only how long it was trained."""
    files = {}
    for trial in trials:
        over = ended(trial, regime)
        for path in trial.path.glob("**/*"):
            if path.is_file() and not (over and path.suffix not in (".json", ".csv")):
                files[str(path.relative_to(trial.path.parents[1]))] = path.read_bytes()
    return files


def work(plan: Plan, points: Points, files: Files, data: Dataset) -> Iterator[list[Event]]:
    """Trains some trials of the plan, and gives what happened, now and then; nothing is a sign of life.

    Args:
        plan: the search's.
        points: the values of each, by the trial's index.
        files: what is on record of them.
        data: the data set.

    Raises:
        UserError: if other versions of the packages are installed here.
    """
    _check(plan.versions)
    plan.prepare()
    box: SimpleQueue[Event] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        project = Path(folder) / "project"
        for name, content in files.items():
            write_atomic(project / name, content)
        training = thread.submit(_train, plan, points, data, project, box.put)
        outcomes = _Outcomes(Experiment(project), points, plan.regime)
        over, told = False, time.monotonic()
        while not over:
            over = not wait([training], _PAUSE).not_done
            # An execution's epochs were put into the box before it ended.
            new = [*outcomes.new()]
            events = [*_taken(box), *new]
            if events or time.monotonic() > told + _PULSE:
                told = time.monotonic()
                yield events
        training.result()


class Ledger:
    """Takes events into the records of the search, and tells its progress of them.

    Args:
        trials: those that are being trained.
        progress: as `bpfree.tuning.progress` has it.
    """

    def __init__(self, trials: Iterable[Trial], progress: Silence):
        self.trials = {trial.id: trial for trial in trials}
        self.progress = progress

    def take(self, events: Sequence[Event]) -> list[Trial]:
        """The trials that have come to their ends."""
        over = []
        # The rows of an execution in one go: each is waited for until it is on the disk.
        for key, alike in groupby(events, lambda event: event[:3] if event[0] == "row" else None):
            if key:
                self._epochs(*key[1:], [event[3] for event in alike])
                continue
            for kind, *what in alike:
                trial = getattr(self, f"_{kind}")(*what)
                over += [trial] if trial else []
        return over

    def _note(self, text: str) -> None:
        self.progress.note(text)

    def _began(self, id: str, until: int | None) -> None:
        self.trials[id].begin(until)
        self.progress.trial_began(self.trials[id])

    def _epochs(self, id: str, k: int, rows: Sequence[dict]) -> None:
        execution, before = self.trials[id].execution(k), rows[0]["epoch"] - 1
        # An execution that is run again repeats its epochs.
        if len(execution.cut(before)) == before:
            execution.extend(rows)
        for row in rows:
            self.progress.epoch_ended(self.trials[id], k, row)

    def _execution(self, id: str, k: int, files: Files) -> None:
        execution = self.trials[id].execution(k)
        last = execution.result_file.name  # which makes it finished
        for name in sorted(files, key=lambda name: name == last):
            write_atomic(execution.path / name, files[name])
        for path in execution.path.iterdir():
            if path.name not in files:
                path.unlink()

    def _logs(self, files: Files) -> None:
        project = next(iter(self.trials.values())).path.parents[1]
        for name, content in files.items():
            write_atomic(project / name, content)

    def _trial(self, id: str, executions: Collection[int], record: bytes) -> Trial:
        trial = self.trials[id]
        for execution in trial.executions():
            if execution.index not in executions:
                shutil.rmtree(execution.path)
        write_atomic(trial.path / "trial.json", record)
        self.trials[id] = Trial(trial.path, trial.hyperparameters)
        return self.trials[id]


class _Outcomes:
    """What has come to its end in a project, in events, each given once."""

    def __init__(self, experiment: Experiment, points: Points, regime: Regime):
        self.experiment, self.regime = experiment, regime
        trials = [experiment.trial(*point) for point in points.items()]
        self.waiting = [trial for trial in trials if not ended(trial, regime)]
        self.sent = {
            done.path for trial in trials for done in trial.executions() if self._over(done)
        }

    def new(self) -> Iterator[Event]:
        """Those since the last call; logs first, which nobody sends of what is finished."""
        found = [*self._found()]
        if any(event[0] == "execution" for event in found):
            # Those of executions, in folders: what says something of the whole search is not for one worker.
            logs = _contents(self.experiment.path / "log")
            yield "logs", {f"log/{name}": logs[name] for name in logs if "/" in name}
        yield from found

    def _found(self) -> Iterator[Event]:
        for known in [*self.waiting]:
            trial = self.experiment.trial(known.index, known.hyperparameters)
            over, executions = ended(trial, self.regime), trial.executions()
            for done in executions:
                if done.path not in self.sent and (over or self._over(done)):
                    self.sent.add(done.path)
                    yield "execution", trial.id, done.index, self._files(done)
            if over:
                self.waiting.remove(known)
                record = (trial.path / "trial.json").read_bytes()
                yield "trial", trial.id, [done.index for done in executions], record

    def _files(self, execution: Execution) -> Files:
        """Without a checkpoint that is about to be deleted; one that a failure left says that it was none."""
        files, result = _contents(execution.path), execution.result()
        if self._over(execution) and not pauses(result, self.regime):
            files.pop(execution.checkpoint.name, None)
        return files

    def _over(self, execution: Execution) -> bool:
        return outcome(execution, self.regime) is not None


class _Wire(Silence):
    """Puts what a search shows into events."""

    def __init__(self, put: Callable[[Event], None]):
        self.put = put

    def trial_began(self, trial):
        self.put(("began", trial.id, trial.until))

    def epoch_ended(self, trial, k, row):
        self.put(("row", trial.id, k, row))

    def note(self, text):
        self.put(("note", text))


def _train(plan: Plan, points, data: Dataset, project: Path, put) -> None:
    from bpfree.tuning.searches import GridSearch

    place = {"directory": project.parent, "project_name": project.name}
    tuner = GridSearch(**plan.search, **place, keep_weights="all", verbose=0)
    tuner.regime = plan.regime
    callbacks = plan.callbacks(tuner, data)
    for _ in tuner.train(points, data, callbacks, _Wire(put)):
        pass


def _contents(folder: Path) -> Files:
    files = {}
    for path in folder.glob("**/*"):
        with suppress(FileNotFoundError):  # deleted in the meantime
            if path.is_file() and not path.name.startswith("."):
                files[str(path.relative_to(folder))] = path.read_bytes()
    return files


def _taken(box: SimpleQueue) -> Iterator[Event]:
    while True:
        try:
            yield box.get_nowait()
        except Empty:
            return


def _check(wanted: dict[str, Any]) -> None:
    here = versions()
    for name, version in wanted.items():
        if here.get(name) != version:
            raise UserError(
                f"A worker has {name} {here.get(name)}, and this process {version}: install the same "
                "on every machine."
            )
