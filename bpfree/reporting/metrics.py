"""What the names of columns mean to a reader."""

from __future__ import annotations

import math

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
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
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


def scaled(value: float, unit: str = "") -> str:
    """Three digits of a number ≥ 0 with a prefix of the SI; seconds have none."""
    value = float(f"{value:.3g}")
    power = 0 if unit == "s" or value < 1 else min(int(math.log10(value) // 3), len(_PREFIXES) - 1)
    shown = value / 1000**power
    digits = f"{shown:.0f}" if shown >= 100 else f"{shown:.3g}"
    return f"{digits} {_PREFIXES[power]}{unit}".rstrip()
