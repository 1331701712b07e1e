"""Energy in joules, from the meters that a machine has.

They measure the machine, not the process: what other programs do on it is in the figure. Processors
(with their memory) are measured by RAPL, which Linux shows under `/sys/class/powercap` to whom it allows
to read it; NVIDIA's devices by NVML, through the extra `bpfree[energy]`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_POWERCAP = Path("/sys/class/powercap")
_OFTEN = 60.0  # seconds between readings at most: a counter may begin anew after some minutes
_BASELINE = 1.0  # seconds


class Counter(Protocol):
    """Something that counts energy."""

    def joules(self) -> float:
        """Since it was made."""


class Rapl:
    """One zone of a processor.

    Args:
        zone: its folder, with `energy_uj` and `max_energy_range_uj`.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no number.
    """

    def __init__(self, zone: Path):
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last, self._total = self._read(), 0

    def joules(self) -> float:
        """Since it was made, if it was asked at least once in every turn of the counter."""
        now = self._read()
        self._total += now - self._last
        if now < self._last:  # it has begun anew, having reached its range
            self._total += self._range + 1
        self._last = now
        return self._total / 1e6

    def _read(self) -> int:
        return int(self._file.read_text())


class Nvml:
    """One of NVIDIA's devices, by the counter that it has since Volta.

    Args:
        pynvml: the module, initialised.
        device: its handle.

    Raises:
        pynvml.NVMLError: the device has no such counter.
    """

    def __init__(self, pynvml, device):
        self._pynvml, self._device = pynvml, device
        self._first = self._read()

    def joules(self) -> float:
        """Since it was made."""
        return (self._read() - self._first) / 1e3

    def _read(self) -> int:
        return self._pynvml.nvmlDeviceGetTotalEnergyConsumption(self._device)


def processors(powercap: Path = _POWERCAP) -> list[Counter]:
    """The packages, and their memory where it is counted apart; none that may not be read.

    Parts of a package are in its figure already, and so is everything else in that of `psys`.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                found.append(Rapl(zone))
        except (OSError, ValueError):
            continue
    return found


def devices() -> list[Counter]:
    """NVIDIA's devices that this process may use; none without the extra, a driver or a counter.

    `CUDA_VISIBLE_DEVICES` is followed; its numbers are taken as NVML's, which are in the order of
    `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # without a driver, what is raised depends on the installation
        return []
    try:
        return [Nvml(pynvml, handle) for handle in _handles(pynvml)]
    except (pynvml.NVMLError, ValueError):
        return []


def _handles(pynvml) -> list:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        numbers = range(pynvml.nvmlDeviceGetCount())
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [
        pynvml.nvmlDeviceGetHandleByUUID(name)
        if name.startswith("GPU-")
        else pynvml.nvmlDeviceGetHandleByIndex(int(name))
        for name in names
    ]


class Energy:
    """The energy that all meters count together, and what they count while nothing is trained.

    To be entered before the first training: the baseline takes a second, if there is a meter.

    Args:
        counters: those of the machine by default.
        baseline: how long the baseline is measured, in seconds.

    Attributes:
        idle_power: in watts; None without a meter.
    """

    def __init__(self, counters: Sequence[Counter] | None = None, baseline: float = _BASELINE):
        self._counters = [*processors(), *devices()] if counters is None else list(counters)
        self._baseline, self.idle_power = baseline, None
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> Energy:
        if self._counters:
            self.idle_power = self._power()
            self._over = threading.Event()
            threading.Thread(target=self._keep_reading, args=[self._over], daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()

    def joules(self) -> float | None:
        """Since the meters were found; None without any, or when one of them fails."""
        with self._lock:
            try:
                counted = [counter.joules() for counter in self._counters]
            except Exception:  # whatever a driver may raise: a training must not end by it
                self._counters = counted = []
            return sum(counted) if counted else None

    def _power(self) -> float | None:
        started, before = time.monotonic(), self.joules()
        time.sleep(self._baseline)
        seconds, after = time.monotonic() - started, self.joules()
        return None if before is None or after is None else (after - before) / seconds

    def _keep_reading(self, over: threading.Event) -> None:
        while not over.wait(_OFTEN):
            self.joules()
