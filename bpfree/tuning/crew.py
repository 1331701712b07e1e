"""Crew: trials of a search trained by the workers of a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import keras

from bpfree.errors import UserError
from bpfree.tuning import remote
from bpfree.tuning.execution import Regime, ended
from bpfree.tuning.populations import groups
from bpfree.tuning.progress import Silence, label
from bpfree.tuning.records import Trial

_MAX_DEATHS = 3
_CALLS = 20  # units per process on a CPU: backends keep a part of what they compiled


def check_installed() -> None:
    """Raises a UserError unless Ray is installed."""
    if find_spec("ray") is None:
        raise UserError(
            "--workers ray needs Ray, which is not installed: pip install 'bpfree[ray]'."
        )


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
        heard: called here whenever workers have reported; None: nothing.

    Raises:
        UserError: when entered: Ray is not installed, there is no cluster at the address, or no machine
            of it has what a worker needs.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        callbacks: Callable | None = None,
        prepare: Callable[[], None] | None = None,
        heard: Callable[[], None] | None = None,
    ):
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.callbacks = callbacks or _no_callbacks
        self.prepare, self.heard = prepare or _nothing, heard or _nothing

    def __enter__(self) -> Crew:
        check_installed()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        here = {} if self.address else {"include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        try:
            _reach(self.address)
            ray.init(
                self.address or "local",
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": _environment()},
                **here,
            )
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

        def start(unit: _Unit) -> None:
            trials = [tuner.experiment.trial(*point) for point in unit.points.items()]
            unit.ledger = remote.Ledger(trials, progress)
            running[task.remote(plan, unit.points, remote.pack(trials, tuner.regime), data)] = unit

        progress = _Once(progress)
        running: dict[Any, _Unit] = {}
        for indices in groups(tuner, points):
            unit = _Unit({index: points[index] for index in indices})
            trials = [tuner.experiment.trial(*point) for point in unit.points.items()]
            over = [trial for trial in trials if ended(trial, tuner.regime)]
            yield from over
            if len(over) < len(trials):
                start(unit)
        while running:
            (events,), _ = ray.wait([*running], num_returns=1)
            unit = running[events]
            try:
                happened = ray.get(next(events))
            except StopIteration:
                del running[events]
                continue
            except ray.exceptions.RayTaskError as error:
                raise UserError(f"A worker could not go on: {error.cause}") from error
            except ray.exceptions.RayError:
                del running[events]
                yield from unit.died(progress, tuner.regime)
                if unit.left(tuner.regime):
                    start(unit)
                continue
            yield from unit.ledger.take(happened)
            unit.deaths = 0 if any(event[0] == "row" for event in happened) else unit.deaths
            self.heard()

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
    """Trials that one worker trains, and how often in a row one has died without an epoch of them."""

    def __init__(self, points: Mapping[int, dict[str, Any]]):
        self.points, self.deaths = points, 0
        self.ledger: remote.Ledger | None = None

    def left(self, regime: Regime) -> list[Trial]:
        """Those that have not come to their ends."""
        return [trial for trial in self.ledger.trials.values() if not ended(trial, regime)]

    def died(self, progress: Silence, regime: Regime) -> list[Trial]:
        """Takes note of a worker's death; the trial that seems to be the reason, if any."""
        self.deaths += 1
        first, *_ = self.left(regime)
        progress.note(f"A worker died in {label(first)}; another one goes on.")
        if self.deaths < _MAX_DEATHS:
            return []
        self.deaths = 0
        first.fail(f"The worker died {_MAX_DEATHS} times in this trial without finishing an epoch.")
        return [first]


class _Once(Silence):
    """Shows what workers tell, but no note twice."""

    def __init__(self, progress: Silence):
        self.trial_began, self.epoch_ended = progress.trial_began, progress.epoch_ended
        self._note, self._noted = progress.note, Counter()

    def note(self, text: str) -> None:
        self._noted[text] += 1
        if self._noted[text] == 1:
            self._note(text)


def _reach(address: str | None) -> None:
    """Raises an OSError or ValueError unless somebody listens there: Ray itself would wait for long."""
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _environment() -> dict[str, str]:
    """Of workers: this backend, and of a GPU's memory only what is needed, since several may share one."""
    return {
        "KERAS_BACKEND": keras.backend.backend(),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def _no_callbacks(tuner, data) -> tuple:
    return ()


def _nothing() -> None:
    return None
