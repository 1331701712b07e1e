"""What an experiment says about itself: configuration, versions, and the source that ran."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from gzip import GzipFile
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from bpfree.data.dataset import Dataset
from bpfree.tuning.objective import direction
from bpfree.tuning.records import write_atomic

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("bpfree", "keras", "keras-tuner", "tensorflow", "jax", "numpy", "scikit-learn")
_SCRIPTS = ("tune.py", "train.py", "train.bash", "pyproject.toml", "constraints.txt")


def configuration(tuner, data: Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides an experiment's results; resuming with another one is refused."""
    regime = vars(tuner.regime).copy()
    objective = regime.pop("objective")
    del regime["until"]
    return {
        **settings,
        "backend": keras.backend.backend(),
        "objective": objective.name,
        **_further(tuner.oracle.further_objectives),
        "executions_per_trial": tuner.executions_per_trial,
        "seed": tuner.seed,
        "max_trials": tuner.oracle.max_trials,
        **tuner.oracle.described(),
        "regime": {**regime, "augment": list(regime["augment"])},
        "data": {
            "name": data.name,
            "input_shape": list(data.input_shape),
            "train": len(data.x_train),
            "validation": len(data.x_val),
            "test": len(data.x_test),
        },
        "space": [_described(parameter) for parameter in tuner.oracle.get_space().space],
    }


def versions() -> dict[str, Any]:
    """Versions, commit, command and time of the start."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "host": platform.node(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def archive_source(project: Path) -> None:
    """Puts the source that runs into `source.tar.gz`, and later versions beside it, numbered."""
    content = _archive()
    existing = sorted(project.glob("source*.tar.gz"), key=lambda path: path.stat().st_mtime_ns)
    if existing and existing[-1].read_bytes() == content:
        return
    suffix = f"-{len(existing) + 1}" if existing else ""
    write_atomic(project / f"source{suffix}.tar.gz", content)


def _archive() -> bytes:
    """A tar of the package and the scripts beside it, the same bytes for the same source."""
    files = sorted((_ROOT / "bpfree").rglob("*.*"))
    paths = [path for path in files if path.suffix in (".py", ".html", ".css", ".js")]
    paths += [path for name in _SCRIPTS if (path := _ROOT / name).exists()]
    buffer = io.BytesIO()
    with GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped:
        with tarfile.open(fileobj=zipped, mode="w") as tar:
            for path in paths:
                entry = tarfile.TarInfo(str(path.relative_to(_ROOT)))
                content = path.read_bytes()
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _further(objectives) -> dict[str, list]:
    """Objectives beside the first, if any: experiments that were begun before there could be some go on."""
    named = [
        o.name if o.direction == direction(o.name) else {"name": o.name, "direction": o.direction}
        for o in objectives
    ]
    return {"further_objectives": named} if named else {}


def _described(parameter) -> dict[str, Any]:
    """A hyperparameter's configuration, conditions included, as JSON."""
    config = {key: value for key, value in parameter.get_config().items() if key != "conditions"}
    conditions = [condition.get_config() for condition in parameter.conditions]
    return {"type": type(parameter).__name__, **config, "conditions": conditions}


def _commit() -> str | None:
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
