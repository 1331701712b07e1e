"""Energy, from meters that are files in a temporary folder and a module that stands in for NVIDIA's."""

import sys
from types import SimpleNamespace

import pytest

from bpfree.costs import energy
from bpfree.costs.energy import Energy, processors

pytestmark = pytest.mark.once

RANGE = 1_000_000_000  # microjoules


class Zone:
    """A folder as Linux has one per zone."""

    def __init__(self, powercap, folder, name, counted):
        self.path = powercap / folder
        self.path.mkdir(parents=True)
        (self.path / "name").write_text(f"{name}\n")
        (self.path / "max_energy_range_uj").write_text(f"{RANGE}\n")
        self.counted = counted
        self.use(0)

    def use(self, microjoules):
        self.counted = (self.counted + microjoules) % (RANGE + 1)
        (self.path / "energy_uj").write_text(f"{self.counted}\n")


@pytest.fixture
def zones(tmp_path):
    """Two packages with parts, the platform, and the second interface to a package."""
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    return {folder: Zone(tmp_path, folder, name, 999_000_000) for folder, name in names.items()}


def test_every_joule_counts_once(zones, tmp_path):
    meter = Energy(processors(tmp_path))
    for zone in zones.values():
        zone.use(250_000)
    assert meter.joules() == pytest.approx(3 * 0.25)  # two packages and a memory


def test_a_counter_that_begins_anew_goes_on(zones, tmp_path):
    [counter] = [c for c in processors(tmp_path) if c._file.parent.name == "intel-rapl:0"]
    zone, total = zones["intel-rapl:0"], 0
    for used in (900_000, 300_000, 0, RANGE, 7):
        zone.use(used)
        total += used
        assert counter.joules() == pytest.approx(total / 1e6, abs=1e-9)


def test_zones_that_may_not_be_read_are_left_out(zones, tmp_path):
    (zones["intel-rapl:0"].path / "energy_uj").unlink()
    (zones["intel-rapl:0"].path / "energy_uj").mkdir()  # which root cannot read either
    (zones["intel-rapl:0:1"].path / "energy_uj").write_text("?")
    meter = Energy(processors(tmp_path))
    for zone in zones.values():
        zone.use(0) if zone.path.name.startswith("intel-rapl:1") else None
    zones["intel-rapl:1"].use(40_000)
    assert meter.joules() == pytest.approx(0.04)
    assert processors(tmp_path / "nowhere") == []


class Constant:
    """So many watts, by a clock of its own: a second per reading."""

    def __init__(self, watts):
        self.watts, self.now = watts, 0

    def joules(self):
        self.now += 1
        return self.watts * self.now


def test_the_baseline_is_power_before_the_first_training(monkeypatch):
    clock = iter([10.0, 12.0])
    slept = []
    monkeypatch.setattr(
        energy, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=slept.append)
    )
    with Energy([Constant(30.0), Constant(50.0)], baseline=0.5) as meter:
        assert meter.idle_power == (30.0 + 50.0) / 2.0
    assert slept == [0.5]


def test_without_a_meter_nothing_is_claimed_and_nothing_waited_for(monkeypatch):
    monkeypatch.setattr(energy, "time", None)
    with Energy([]) as meter:
        assert meter.idle_power is None and meter.joules() is None


def test_a_meter_that_fails_says_nothing_from_then_on():
    class Failing(Constant):
        def joules(self):
            if self.now == 1:
                raise RuntimeError("GPU is lost")
            return super().joules()

    meter = Energy([Constant(1.0), Failing(1.0)])
    assert meter.joules() == 2.0
    assert meter.joules() is None and meter.joules() is None


class Pynvml:
    """Two devices; the second has no counter where that is asked for."""

    class NVMLError(Exception):
        pass

    def __init__(self, driver=True, counters=2):
        self.driver, self.counters = driver, counters
        self.millijoules = [5_000_000, 9_000_000]

    def nvmlInit(self):
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        if index not in (0, 1):
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return ["GPU-a", "GPU-b"].index(name)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if handle >= self.counters:
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]


@pytest.mark.parametrize(
    ("visible", "joules"),
    [(None, 3.0), ("0", 1.0), ("1,0", 3.0), ("GPU-b", 2.0), ("", None), ("-1", None), ("MIG-x", None)],
)  # fmt: skip
def test_the_devices_that_the_process_may_use(monkeypatch, visible, joules):
    nvml = Pynvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = Energy(energy.devices())
    nvml.millijoules = [5_001_000, 9_002_000]
    assert meter.joules() == joules


@pytest.mark.parametrize("nvml", [None, Pynvml(driver=False), Pynvml(counters=1)])
def test_no_module_no_driver_or_no_counter_is_no_meter(monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert energy.devices() == []
