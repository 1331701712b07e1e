"""What executions cost: by fake clocks and meters, alone, resumed and side by side."""

import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import bpfree
from bpfree.costs import Account, Costs, Meter, Reading, RunningAccount, backend, hlo, memory, meter
from bpfree.tuning import GridSearch, population, space
from bpfree.tuning.checkpoint import Checkpoint
from bpfree.tuning.hypermodel import HyperModel

EPOCHS = 3
ON_JAX = keras.backend.backend() == "jax"
MIB = 2**20


class Fake:
    """Energy of 7 J per reading, over an idle power of 3 W."""

    idle_power = 3.0

    def __init__(self):
        self.read = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def joules(self):
        self.read += 1
        return 7.0 * self.read


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.1, seed=0)


def search(data, folder, energy=None, callbacks=(), population="off", epochs=EPOCHS, **choices):
    """Two learning rates with two executions each, which are one program."""
    fixed = {"algorithm": ["dfa"], "arch": ["9-7"], "batch_size": [32], "reg_rate": [0.1]}
    chosen = {**space.single({**fixed, **choices}), "lr": (0.01, 0.001)}
    model = HyperModel(data.input_shape, 10, chosen, epochs, len(data.x_train), use_xla=ON_JAX)
    tuner = GridSearch(model, "val_loss", folder, "p", 2, verbose=0, population=population)
    tuner.meter = Meter(energy or Fake())
    tuner.search(data, epochs, callbacks)
    return tuner


def results(folder):
    files = sorted(Path(folder).glob("p/trials/*/execution-*/result.json"))
    return [json.loads(file.read_text()) for file in files]


def test_an_execution_records_what_it_cost(data, tmp_path, monkeypatch):
    counted, original = [], hlo.flops

    def flops(text):
        counted.append(original(text))
        return counted[-1]

    monkeypatch.setattr(hlo, "flops", flops)
    tuner = search(data, tmp_path)
    steps = len(data.x_train) // 32
    assert len(counted) == 1 and counted[0] > 0  # two trials of two executions are one program
    for result in results(tmp_path):
        assert result["train_flops"] == EPOCHS * steps * counted[0]
        assert result["seconds"] > 0
        assert 10 * MIB < result["peak_host_memory"] < 2**40
        assert "peak_device_memory" not in result or not ON_JAX
        # Read at the beginning, at every epoch's end, and last of all; what is read after counting
        # a program's operations begins anew.
        assert result["energy"] == 7.0 * (EPOCHS + 1)
        assert result["idle_power"] == 3.0
    frame = tuner.results()
    assert frame["train_flops"].tolist() == [EPOCHS * steps * counted[0]] * 4


@pytest.mark.once
def test_without_a_meter_there_is_no_energy(data, tmp_path):
    class None_(Fake):
        idle_power = None

        def joules(self):
            return None

    search(data, tmp_path, None_())
    for result in results(tmp_path):
        assert result.keys() & {"energy", "idle_power"} == set() and result["seconds"] > 0


class Killed(BaseException):
    """Nothing between here and the test catches it."""


class Kill(keras.callbacks.Callback):
    """In the midst of the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise Killed


@pytest.mark.once
def test_what_a_killed_process_spent_is_not_forgotten(data, tmp_path):
    with pytest.raises(Killed):
        search(data, tmp_path, callbacks=[Kill()])
    file = next(tmp_path.glob("p/trials/*/execution-0/checkpoint"))
    kept = Checkpoint(file).costs()
    assert kept.energy == 7.0 and kept.seconds > 0 and kept.train_flops > 0
    search(data, tmp_path)
    first, second, *_ = results(tmp_path)
    assert first["train_flops"] == second["train_flops"] == EPOCHS * kept.train_flops
    assert first["energy"] == second["energy"]  # one reading more, one less for its last epoch
    assert first["seconds"] > kept.seconds


def test_a_snapshot_of_an_older_version_makes_no_claims(data, tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert checkpoint.costs() == Costs()
    checkpoint.write({}, [], 3, False)
    account = Account(Meter(Fake()), checkpoint.costs())
    account.add(Reading(2.0, 5.0))
    assert account.costs.record() == {"seconds": 2.0, "idle_power": 3.0}


@pytest.mark.slow
@pytest.mark.skipif(not population.AVAILABLE, reason="populations need JAX")
def test_a_member_has_its_share_and_the_operations_of_a_lone_run(data, tmp_path, monkeypatch):
    search(data, tmp_path / "alone")
    together = []
    original = population.Program.epoch

    def epoch(self, values, best, improved, orders):
        together.append(len(orders))
        return original(self, values, best, improved, orders)

    monkeypatch.setattr(population.Program, "epoch", epoch)
    search(data, tmp_path / "together", population="auto")
    assert together == [4] * EPOCHS
    alone, members = results(tmp_path / "alone"), results(tmp_path / "together")
    assert [r["train_flops"] for r in members] == [r["train_flops"] for r in alone]
    for result in members:
        assert result["energy"] == pytest.approx(7.0 / 4 * EPOCHS, abs=1e-3)
        assert result["seconds"] > 0 and result["idle_power"] == 3.0
        assert result.keys() & {"peak_host_memory", "peak_device_memory"} == set()


@pytest.mark.slow
def test_blocks_in_turn_cost_less_than_all_at_once(data, tmp_path):
    options = {"algorithm": ["lw"], "arch": ["30-30"]}
    search(data, tmp_path / "all", **options)
    search(data, tmp_path / "turns", **options, schedule=["sequential"])
    (all_at_once, *_), (in_turn, *_) = results(tmp_path / "all"), results(tmp_path / "turns")
    assert 0 < in_turn["train_flops"] < all_at_once["train_flops"]


@pytest.mark.slow
@pytest.mark.once
def test_a_count_that_fails_ends_no_training(data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(backend, "step_hlo", fail)
    search(data, tmp_path)
    assert len(results(tmp_path)) == 4
    assert all("train_flops" not in result for result in results(tmp_path))


@pytest.mark.once
def test_seconds_leave_the_counting_of_operations_out(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter.time, "monotonic", lambda: clock.now)
    measuring = Meter(Fake())

    def count(model, batches):
        clock.now += 1000.0
        return 5

    monkeypatch.setattr(measuring, "epoch_flops", count)
    account = RunningAccount(measuring, Costs())
    for _ in range(2):
        clock.now += 10.0
        account.epoch_ended(None, None)
    clock.now += 1.0
    account.close(None)
    assert account.costs.seconds == 21.0 and account.costs.train_flops == 10


class Model:
    pass


@pytest.mark.once
@pytest.mark.parametrize("forgets", [True, False], ids=["TensorFlow", "JAX"])
def test_the_peak_on_the_device_is_that_of_the_model_at_hand(monkeypatch, forgets):
    """JAX knows the highest mark only: that of a smaller model, which comes later, does not show."""
    device = SimpleNamespace(peak=100)
    monkeypatch.setattr(backend, "device_peak", lambda: device.peak)

    def reset():
        device.peak = 0 if forgets else device.peak
        return device.peak

    monkeypatch.setattr(backend, "reset_device_peak", reset)
    measuring, large, small = Meter(Fake()), Model(), Model()

    def train(model, needed):
        account = RunningAccount(measuring, Costs())
        device.peak = max(device.peak, needed)
        account.close(model)
        return account.costs.peak_device_memory

    assert [train(large, 700), train(large, 700)] == [700, 700]
    assert train(small, 300) == (300 if forgets else None)
    assert train(large, 700) == 700


@pytest.mark.once
def test_peak_memory_on_the_host_is_forgotten_before_an_execution():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux forgets it")
    memory.reset_host_peak()
    before = memory.host_peak()
    block = np.ones(96 * MIB // 8)
    peak = memory.host_peak()
    assert 80 * MIB < peak - before < 120 * MIB
    del block
    memory.reset_host_peak()
    assert memory.host_peak() < peak - 60 * MIB


@pytest.mark.once
def test_where_nothing_can_be_reset_it_is_that_of_the_whole_process(monkeypatch, tmp_path):
    import resource

    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    memory.reset_host_peak()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory.host_peak() == pytest.approx(peak, rel=0.01)
