"""From settings to a search: what tune.py and train.py have in common."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from bpfree.cli import backend
from bpfree.cli.flags import Settings
from bpfree.cli.plugin import load_plugin
from bpfree.cli.warm_start import best_rates
from bpfree.data import catalog
from bpfree.errors import UserError
from bpfree.tuning import sharing
from bpfree.tuning.records import Experiment

_MACHINE_ONLY = (
    "experiment_dir",
    "data_dir",
    "device",
    "reset_training",
    "given",
    "plugin",
    "population",
    "lr_from",
    "dry_run",
    "workers",
    "cpus_per_trial",
    "gpus_per_trial",
)
"""Settings that do not decide results, or are recorded by what they stand for."""

SEARCH = {
    "search": "grid",
    "max_trials": None,
    "factor": 3,
    "extend_grid": False,
    "further_objectives": (),
}
"""How the space is searched and what for besides, by default. The flags came later than others, and are
recorded where they differ: an experiment that was begun before goes on."""


def prepare(settings: Settings, choices: Mapping[str, tuple]) -> tuple:
    """Data, hypermodel and configuration of the settings; imports the backend.

    Raises:
        UserError: for whatever in them cannot work; nothing has been written then.
    """
    choose_device(settings.device)
    if settings.workers:  # who may have the same GPU
        for name, value in sharing.ON_DEMAND.items():
            os.environ.setdefault(name, value)
    backend.start(settings.device, tensorflow=catalog.read_by_tensorflow(settings.dataset))
    for plugin in settings.plugin:
        load_plugin(plugin)
    rates = _rates(settings, choices["algorithm"]) if settings.lr_from else {}
    if rates:
        choices = {**choices, "lr": tuple(dict.fromkeys(rates.values()))}
    data = load_data(settings)
    learners = hypermodel(settings, data, choices, rates)
    learners.try_out()
    return data, learners, configuration(settings, choices, rates)


def _rates(settings: Settings, algorithms: Sequence[str]) -> dict[str, float]:
    """Those with which this sweep was begun, whatever has become of the earlier one; else its best."""
    for there in () if settings.reset_training else _projects(settings):
        configuration = there.record().get("configuration")
        kept = configuration.get("rates", {}) if isinstance(configuration, Mapping) else {}
        if set(kept) == set(algorithms):
            now = None
            with suppress(UserError):
                now = best_rates(settings.lr_from, algorithms)
            if now != kept:
                known = ", ".join(f"{rate:g} for {rule}" for rule, rate in kept.items())
                print(
                    f"--lr_from {settings.lr_from} has {'other' if now else 'no'} best learning rates for "
                    f"these rules: the sweep keeps those it was begun with, {known}.",
                    file=sys.stderr,
                )
            return {name: kept[name] for name in algorithms}
    return best_rates(settings.lr_from, algorithms)


def choose_device(device: str | None) -> None:
    """Shows the backend only the chosen device; to be called before it is imported.

    Raises:
        UserError: unless it is `cpu`, `gpu` or `gpu:<index>`.
    """
    if device is None:
        return
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif kind == "gpu" and (index.isdigit() or not index):
        if index:
            os.environ["CUDA_VISIBLE_DEVICES"] = index
    else:
        raise UserError(f"Unknown device {device!r}: choose cpu, gpu or gpu:<index>, e.g. gpu:1.")


def load_data(settings: Settings):
    """The data set that the settings name."""
    from bpfree import data

    return data.load(
        settings.dataset,
        data_dir=settings.data_dir,
        examples_frac=settings.examples_frac,
        validation=settings.validation,
        seed=settings.seed,
    )


def configuration(
    settings: Settings, choices: Mapping[str, tuple], rates: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """All settings that decide results, defaults included."""
    named = {key: value for key, value in vars(settings).items() if key not in _MACHINE_ONLY}
    for key, default in SEARCH.items():
        if named[key] == default:
            del named[key]
    plugins = {Path(path).name: _digest(Path(path).read_bytes()) for path in settings.plugin}
    warm = {"rates": dict(rates)} if rates else {}
    swept = {key: list(values) for key, values in choices.items()}
    return {**named, **warm, "plugin": plugins, "choices": swept}


def project_name(settings: Settings, configuration: Mapping[str, Any]) -> str:
    """`dataset_problem_objective-hash`: readable, and another one for another configuration."""
    text = json.dumps(configuration, sort_keys=True, default=list)
    return f"{_prefix(settings)}-{_digest(text.encode())}"


def claim(settings: Settings, name: str, configuration: Mapping[str, Any]) -> None:
    """Makes sure that the directory holds no other experiment of this data, problem and objective.

    With `reset_training` it deletes those that there are.

    Raises:
        UserError: if there is one; nothing is written.
    """
    for there in _projects(settings):
        if settings.reset_training:
            there.clear()
        elif there.path.name != name and there.exists():
            known = there.record().get("configuration", {})
            later = {key: default for key, default in SEARCH.items() if key in known}
            there.compare({**later, **configuration}, partly=True)


def _projects(settings: Settings) -> list[Experiment]:
    """What the directory holds of this data, problem and objective, to be read."""
    if not settings.experiment_dir:
        return []
    found = Path(settings.experiment_dir).glob(f"{_prefix(settings)}-*")
    return [Experiment(path, read_only=True) for path in sorted(found)]


def hypermodel(settings: Settings, data, choices: Mapping[str, tuple], rates: Mapping[str, float]):
    """The learners that the settings describe, for this data."""
    from bpfree.data.preprocessing import scaler
    from bpfree.tuning.hypermodel import HyperModel

    for name in choices["scaler"]:
        scaler(name, data.x_train.dtype)
    reconstruction = settings.problem_type == "reconstruction"
    return HyperModel(
        data.input_shape,
        math.prod(data.input_shape) if reconstruction else data.classes,
        choices,
        epochs=settings.num_epochs,
        examples=len(data.x_train),
        problem_type=settings.problem_type,
        use_xla=settings.use_xla,
        rates=rates,
    )


def search(
    tuner,
    settings: Settings,
    data,
    configuration: Mapping[str, Any],
    watchers: Sequence = (),
    **how,
) -> None:
    """Runs the search to its end.

    Args:
        tuner: the search.
        settings: of the command line.
        data: the data set.
        configuration: of the settings.
        watchers: Keras callbacks that all executions share.
        **how: `between` and `workers` of `GridSearch.search`.
    """
    tuner.search(
        data,
        epochs=settings.num_epochs,
        callbacks=callbacks(settings, tuner, data, watchers),
        settings=configuration,
        augment=settings.augment,
        problem_type=settings.problem_type,
        early_stopping=settings.use_early_stopping,
        **how,
    )


def callbacks(settings: Settings, tuner, data, watchers: Sequence = ()) -> Callable:
    """What makes the callbacks of an execution: those that the settings name, and the watchers."""
    from bpfree.analysis import trackers
    from bpfree.tuning.tensorboard import Log

    log = Log(tuner, data, settings.histogram_freq)

    def make(model, trial, k):
        chosen = [
            tracker(*tuner.probe(data, trial.hyperparameters, held_out=tracker.held_out))
            for tracker in map(trackers.find, settings.tracker)
        ]
        return [*chosen, *log.callbacks(model, trial, k), *watchers]

    return make


def workers(settings: Settings, page) -> AbstractContextManager:
    """The workers that the settings name, which are there within the context; None if there are none.

    Args:
        settings: of the command line.
        page: kept up to date by what the workers report.

    Raises:
        UserError: when entered, if there are no such workers.
    """
    if settings.workers is None:
        return nullcontext()
    from bpfree.tuning.crew import Crew

    _, _, address = settings.workers.partition(":")
    plugins = {Path(path).name: Path(path).read_text() for path in settings.plugin}
    return Crew(
        address or None,
        settings.cpus_per_trial,
        settings.gpus_per_trial,
        callbacks=partial(callbacks, settings),
        prepare=partial(_define_plugins, plugins),
        heard=partial(_listener, page),
    )


def _listener(page, tuner, data) -> Callable:
    """What is done here as workers report: callbacks are over there, where nobody knows the whole search."""
    from bpfree.tuning.tensorboard import Log

    log = Log(tuner, data)

    def heard(trial, row: Mapping[str, float]) -> None:
        with log.spared():
            log.declare(trial.hyperparameters, row)
        page.on_epoch_end(0)

    return heard


def _define_plugins(plugins: Mapping[str, str]) -> None:
    """Runs plugins in a process that need not have their files, once."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in plugins.items():
            path = Path(folder) / name
            if path.stem not in sys.modules:
                path.write_text(text)
                load_plugin(str(path))


def _prefix(settings: Settings) -> str:
    dataset = "".join(c if c.isalnum() else "-" for c in settings.dataset)
    return f"{dataset}_{settings.problem_type}_{settings.objective}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
