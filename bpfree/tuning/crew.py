"""Crew: trials of a search trained by the workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from bpfree.errors import UserError
from bpfree.tuning import remote, sharing
from bpfree.tuning.execution import Regime, ended
from bpfree.tuning.populations import groups
from bpfree.tuning.progress import Silence, label
from bpfree.tuning.records import Trial

_MAX_DEATHS = 3
_CALLS = 20  # units per process on a CPU: backends keep a part of what they compiled
_ROUND = 10.0  # seconds to wait for news, at most
_PATIENCE = 600.0  # seconds without a sign of life, which a worker gives every few


class Crew:
    """Workers that train a search's trials, to be given to `GridSearch.search`; a context manager.

    Ray decides where and when a trial is trained. Trials that are one program on JAX go to one worker
    together, so that the results are those of one process. Only this process reads and writes the
    experiment, and it alone gives a trial to another worker when one has died: Ray's own retry would not
    know which executions are on record by then.

    Args:
        address: of an existing cluster, `<host>:<port>` or `auto`; None starts one on this machine.
        cpus: of a worker, > 0; a fraction lets several share a core.
        gpus: of a worker, ≥ 0, likewise.
        callbacks: `(tuner, data) -> callbacks`, called on the worker; None: none.
        prepare: called on the worker first; None: nothing.
        heard: `(tuner, data) -> (trial, row) -> None`, called here; what it returns is, when a worker has
            begun a trial (without a row) and for every epoch; None: nothing.

    Raises:
        UserError: when entered: there is no cluster at the address, or no machine of it has what a worker
            needs.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        callbacks: Callable | None = None,
        prepare: Callable[[], None] | None = None,
        heard: Callable | None = None,
    ):
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.callbacks = callbacks or _no_callbacks
        self.prepare, self.heard = prepare or _nothing, heard or _deaf
        self._noted: set[str] = set()

    def __enter__(self) -> Crew:
        import ray

        before = signal.getsignal(signal.SIGTERM)
        try:
            _reach(self.address)
            _connect(self.address, self.gpus)
        except (OSError, ValueError, RuntimeError) as error:
            reason = [*str(error).strip().splitlines(), type(error).__name__][0].rstrip(".")
            raise UserError(
                f"There is no Ray cluster at {self.address or 'this machine'} ({reason}): start one with "
                "`ray start --head`, or give --workers ray for one on this machine alone."
            ) from error
        finally:
            signal.signal(signal.SIGTERM, before)  # which Ray takes over
        try:
            self._check_resources(ray.nodes())
        except UserError:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *error) -> None:
        import ray

        ray.shutdown()

    def train(
        self, tuner, points: Mapping[int, dict[str, Any]], data, progress: Silence
    ) -> Iterator[Trial]:
        """Brings the trials of all points to their ends, and gives each with its outcome, in any order."""
        import ray

        hand_out = self._task(tuner, data)
        progress = _Told(progress, self.heard(tuner, data), self._noted)
        running: dict[Any, _Unit] = {}

        def start(unit: _Unit) -> None:
            trials = [tuner.experiment.trial(*point) for point in unit.points.items()]
            unit.ledger = remote.Ledger(trials, progress)
            unit.silence = None
            running[hand_out(unit.points, remote.pack(trials, tuner.regime))] = unit

        for indices in groups(tuner, points):
            unit = _Unit({index: points[index] for index in indices})
            trials = [tuner.experiment.trial(*point) for point in unit.points.items()]
            over = [trial for trial in trials if ended(trial, tuner.regime)]
            yield from over
            if len(over) < len(trials):
                start(unit)
        while running:
            events = _with_news(running, progress)
            if events is None:
                continue
            unit = running.pop(events)
            try:
                happened = ray.get(next(events))
            except StopIteration:
                continue
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, UserError):
                    raise
                raise UserError(f"A worker could not go on: {error.cause}") from error
            except ray.exceptions.RayError:
                yield from unit.died(progress, tuner.regime)
                if unit.left(tuner.regime):
                    start(unit)
                continue
            running[events] = unit  # as the last, so that all have their turns
            unit.silence = 0.0
            yield from unit.ledger.take(happened)
            unit.deaths = 0 if any(event[0] == "row" for event in happened) else unit.deaths

    def _task(self, tuner, data) -> Callable:
        """What gives trials to a worker: `(points, files) -> events`."""
        import ray

        task = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            num_returns="streaming",
            max_retries=0,
            # A worker keeps the GPU that it first had.
            max_calls=1 if self.gpus else _CALLS,
        )(remote.work)
        plan = ray.put(remote.plan(tuner, self.callbacks, self.prepare))
        data = ray.put(data)
        return lambda points, files: task.remote(plan, points, files, data)

    def _check_resources(self, nodes) -> None:
        needed = {"CPU": self.cpus, "GPU": self.gpus}
        for node in nodes:
            there = node["Resources"]
            if node["Alive"] and all(there.get(key, 0) >= n for key, n in needed.items()):
                return
        raise UserError(
            f"No machine of the Ray cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a worker: "
            "lower --cpus_per_trial or --gpus_per_trial."
        )


class _Unit:
    """Trials that one worker trains.

    Attributes:
        ledger: of its events.
        deaths: how often in a row a worker has died without an epoch of them.
        silence: the seconds for which it has given no sign of life; None before the first: Ray may not have
            begun it.
    """

    def __init__(self, points: Mapping[int, dict[str, Any]]):
        self.points = points
        self.ledger: remote.Ledger | None = None
        self.deaths, self.silence = 0, None

    def left(self, regime: Regime) -> list[Trial]:
        """Those that have not come to their ends."""
        return [trial for trial in self.ledger.trials.values() if not ended(trial, regime)]

    def silent(self, seconds: float) -> bool:
        """Whether it has been for so much longer that it is given up."""
        if self.silence is None:
            return False
        self.silence += seconds
        if self.silence <= _PATIENCE:
            return False
        self.silence = None
        return True

    def died(self, progress: Silence, regime: Regime) -> list[Trial]:
        """Takes note of a worker's death; the trial that seems to be the reason, if any."""
        left = self.left(regime)
        if not left:  # it had told all
            return []
        first, self.deaths = left[0], self.deaths + 1
        progress.note(f"A worker died in {label(first)}; another one goes on.")
        if self.deaths < _MAX_DEATHS:
            return []
        self.deaths = 0
        first.fail(f"The worker died {_MAX_DEATHS} times in this trial without finishing an epoch.")
        return [first]


class _Told(Silence):
    """Shows what workers tell, but no note twice, and passes it on."""

    def __init__(self, progress: Silence, heard: Callable, noted: set[str]):
        self._progress, self._heard, self._noted = progress, heard, noted

    def trial_began(self, trial: Trial) -> None:
        self._progress.trial_began(trial)
        self._heard(trial, {})

    def epoch_ended(self, trial: Trial, k: int, row: dict) -> None:
        self._progress.epoch_ended(trial, k, row)
        self._heard(trial, row)

    def note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.note(text)


def _with_news(running: Mapping[Any, _Unit], progress: Silence) -> Any | None:
    """The events of one that has something to tell, if any within a while."""
    import ray

    began = time.monotonic()
    told, untold = ray.wait([*running], num_returns=1, timeout=_ROUND)
    # At most: what this process itself was stopped for is nobody's silence.
    passed = min(time.monotonic() - began, _ROUND)
    for events in untold:
        if running[events].silent(passed):
            progress.note(f"A worker was silent for {_PATIENCE:.0f} s: it is ended.")
            ray.cancel(events, force=True)  # its events end with an error
    return told[0] if told else None


def _reach(address: str | None) -> None:
    """Raises an OSError or ValueError unless somebody listens there: Ray itself would wait for long."""
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _connect(address: str | None, gpus: float) -> None:
    """Makes this process a part of the cluster there, or of one that it starts."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {} if address else {"include_dashboard": False}
    if not address:
        # It tells that its token can be done without: nobody asked, of a cluster of one's own.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # JAX's, when a process forks: these begin other programs at once.
        warnings.simplefilter("ignore", RuntimeWarning)
        ray.init(
            address or "local",
            configure_logging=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": {"KERAS_BACKEND": keras.backend.backend(), **sharing.environment(gpus)}
            },
            **here,
        )


def _no_callbacks(tuner, data) -> tuple:
    return ()


def _nothing() -> None:
    return None


def _deaf(tuner, data) -> Callable:
    return lambda trial, row: None
