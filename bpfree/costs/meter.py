"""Meter: what executions cost, whether they train alone or share a population."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras

from bpfree.costs import backend, hlo, memory
from bpfree.costs.energy import Energy


@dataclass
class Costs:
    """What an execution has cost so far, over all its processes; None where that was not measured.

    Attributes:
        seconds: from its beginning, or from the last snapshot of an earlier process, on.
        train_flops: floating-point operations of the training steps, see `bpfree.costs.hlo`.
        energy: in joules, of the whole machine, what it takes when idle included.
        idle_power: watts that the same meters showed before the first training.
        peak_host_memory: bytes.
        peak_device_memory: bytes.
    """

    seconds: float | None = 0.0
    train_flops: int | None = 0
    energy: float | None = 0.0
    idle_power: float | None = None
    peak_host_memory: int | None = 0
    peak_device_memory: int | None = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Costs:
        """From what `record` gave; what is not there was not measured."""
        return cls(**{field.name: record.get(field.name) for field in fields(cls)})

    def record(self) -> dict[str, float]:
        """What was measured, by name."""
        record = {name: value for name, value in asdict(self).items() if value is not None}
        return record | {name: round(record[name], 3) for name in _ROUNDED if name in record}


_ROUNDED = ("seconds", "energy", "idle_power")


@dataclass(frozen=True)
class Reading:
    """Seconds and joules, counted from any beginning; joules are None without a meter."""

    seconds: float
    joules: float | None

    def __sub__(self, earlier: Reading) -> Reading:
        known = self.joules is not None and earlier.joules is not None
        joules = self.joules - earlier.joules if known else None
        return Reading(self.seconds - earlier.seconds, joules)

    def share(self, members: int) -> Reading:
        """That of one of several that trained side by side."""
        joules = None if self.joules is None else self.joules / members
        return Reading(self.seconds / members, joules)


class Meter:
    """Measures for the executions of a search; enter it before the first training.

    A step's operations are counted once per program, and take no part in the seconds.

    Args:
        energy: the machine's meters by default.
    """

    def __init__(self, energy: Energy | None = None):
        self.energy = energy or Energy()
        self._steps: weakref.WeakKeyDictionary[keras.Model, dict] = weakref.WeakKeyDictionary()
        self._greatest: weakref.ref | None = None  # the model that took the device's peak so far

    def __enter__(self) -> Meter:
        self.energy.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.energy.__exit__(*error)

    def read(self) -> Reading:
        """The present state of clock and meters."""
        return Reading(time.monotonic(), self.energy.joules())

    def epoch_flops(self, model: keras.Model, batches) -> int | None:
        """The operations of an epoch of training at the model's present stage.

        Args:
            model: one that has been trained on these batches.
            batches: its training batches, all of a size.

        Returns:
            None where they cannot be counted.
        """
        counted = self._steps.setdefault(model, {})
        key = (getattr(model, "stage", None), int(batches.bounds[1]))
        if key not in counted:
            counted[key] = _step_flops(model, batches)
        step = counted[key]
        return None if step is None else step * len(batches)

    def device_peak(self, model: keras.Model, floor: int) -> int | None:
        """The peak of the device's memory, if it is this model's.

        Where a backend cannot forget an earlier peak, that of a smaller model does not show.

        Args:
            model: the one that was trained.
            floor: from `backend.reset_device_peak`, before.
        """
        peak = backend.device_peak()
        if peak is None:
            return None
        if peak > floor:
            self._greatest = weakref.ref(model)
        return peak if self._greatest is not None and self._greatest() is model else None


class Account:
    """Adds up what one execution costs.

    Args:
        meter: measures.
        costs: what earlier processes have spent on it.
    """

    def __init__(self, meter: Meter, costs: Costs):
        self.meter, self.costs = meter, costs
        costs.idle_power = meter.energy.idle_power

    def add(self, spent: Reading) -> None:
        """Time and energy."""
        self.costs.seconds = _sum(self.costs.seconds, spent.seconds)
        self.costs.energy = _sum(self.costs.energy, spent.joules)

    def add_epoch(self, model: keras.Model, batches) -> None:
        """The operations of an epoch, see `Meter.epoch_flops`."""
        flops = self.meter.epoch_flops(model, batches)
        self.costs.train_flops = _sum(self.costs.train_flops, flops)


class RunningAccount(Account):
    """The account of an execution that has process and device to itself, open from now on."""

    def __init__(self, meter: Meter, costs: Costs):
        super().__init__(meter, costs)
        memory.reset_host_peak()
        self._floor = backend.reset_device_peak()
        self._read = meter.read()

    def epoch_ended(self, model: keras.Model, batches) -> None:
        """Books the epoch that has just been trained."""
        self.close(model)
        self.add_epoch(model, batches)
        self._read = self.meter.read()  # counting is no part of the training

    def close(self, model: keras.Model) -> None:
        """Books what was spent since the last time."""
        now = self.meter.read()
        self.add(now - self._read)
        self._read = now
        costs = self.costs
        costs.peak_host_memory = _most(costs.peak_host_memory, memory.host_peak())
        device = self.meter.device_peak(model, self._floor)
        costs.peak_device_memory = _most(costs.peak_device_memory, device)


def _step_flops(model: keras.Model, batches) -> int | None:
    try:
        return hlo.flops(backend.step_hlo(model, *batches[0]))
    except Exception:  # whatever a compiler or its text may bring: a training must not end by it
        return None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _most(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
