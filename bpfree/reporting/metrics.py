"""What the names of columns mean to a reader."""

from __future__ import annotations

_SETS = {"val_": "validation", "test_": "test"}
_UNITS = {
    "error": "error (%)",
    "seconds": "time (s)",
    "train_flops": "training FLOPs",
    "energy": "energy (J)",
    "idle_power": "idle power (W)",
    "peak_host_memory": "peak host memory (bytes)",
    "peak_device_memory": "peak device memory (bytes)",
}
_MEASURED_ON_DATA = ("loss", "error", "accuracy", "reg")
_NAMES = {"algorithm": "learning rule", "lr": "learning rate", "arch": "architecture"}


def label(name: str, problem_type: str = "classification") -> str:
    """A column's name in words, with its unit: `val_error` is "validation error (%)".

    In reconstruction an error is a root mean squared one, per pixel and in units of the scaled data.
    """
    if name in _NAMES:
        return _NAMES[name]
    prefix = next((prefix for prefix in _SETS if name.startswith(prefix)), "")
    base = name.removeprefix(prefix)
    words = _UNITS.get(base, base.replace("/", ", ").replace("_", " "))
    if base == "error" and problem_type == "reconstruction":
        words = "RMS error per pixel"
    if prefix:
        return f"{_SETS[prefix]} {words}"
    return f"training {words}" if base in _MEASURED_ON_DATA else words
