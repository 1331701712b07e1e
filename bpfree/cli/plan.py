"""What a sweep would do, and about how long that takes: `tune.py --dry_run`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import keras
import keras_tuner

from bpfree.cli.flags import Settings
from bpfree.data.batches import feed
from bpfree.data.dataset import Dataset
from bpfree.errors import UserError
from bpfree.tuning import grid
from bpfree.tuning.bayesian import initial_points
from bpfree.tuning.execution import Feed, Regime
from bpfree.tuning.hyperband import brackets
from bpfree.tuning.hypermodel import STEPS_PER_EXECUTION, HyperModel
from bpfree.tuning.objective import direction
from bpfree.tuning.programs import Programs
from bpfree.tuning.progress import duration

_DECIDE_THE_TIME = ("algorithm", "arch", "batch_norm", "batch_size", "optimizer")
"""Hyperparameters by which networks are told apart: the others hardly change how long a step takes."""


@dataclass(frozen=True)
class Pace:
    """What a network takes, in seconds: one step of training, and until the first one is compiled."""

    step: float
    compile: float


def show(settings: Settings, hypermodel: HyperModel, data: Dataset) -> None:
    """Prints the grid, what is left out of it, and an estimate of the time; writes nothing to disk.

    Args:
        settings: of the command line.
        hypermodel: the learners.
        data: the data set; a few training batches are trained on.
    """
    points, refused = walk(hypermodel)
    points = points[: settings.max_trials] if settings.search == "grid" else points
    executions, epochs = settings.executions_per_trial, settings.num_epochs
    trainings = len(points) * executions
    share = _share(settings, points)
    if settings.search != "grid":
        for line in _budget(settings, hypermodel, points):
            print(line)
        print("The whole grid would be ", end="")
    print(f"{_counted(len(points), 'trial')} × {_counted(executions, 'execution')}", end=" = ")
    print(_counted(trainings, "training"), end=", ")
    print(f"each of {epochs} epochs on {len(data.x_train)} examples:")
    for line in _ranges(hypermodel, points):
        print(f"  {line}")
    for reason, count in refused.items():
        print(f"Left out, {_counted(count, 'combination')}: {reason}")
    if settings.extend_grid:
        print(
            "Then up to 3 learning rates more at either end, for each rule whose best one lies at the "
            "border; the time below is without them."
        )
    print("Time, from one step of each network:", flush=True)
    total = 0.0
    for name, alike in _networks(points).items():
        try:
            pace = measure(hypermodel, data, _regime(settings), alike[0])
        except UserError as error:
            failing = _counted(len(alike), "trial")
            print(f"  {name}: cannot be built, {failing} will fail: {error}", flush=True)
            continue
        seconds = _estimate(pace, alike, executions, epochs, hypermodel, data)
        total += seconds
        print(
            f"  {name}: {1000 * pace.step:.2g} ms a step, {pace.compile:.2g} s to compile,", end=" "
        )
        print(f"{_counted(len(alike) * executions, 'training')}, {duration(seconds)}", flush=True)
    if share < 1:
        print(f"The search is {share:.0%} of these epochs, if they take as long as others.")
    print(f"About {duration(share * total)} in all; validation, trackers and records come on top.")
    print("Nothing was written.")


def _budget(
    settings: Settings, hypermodel: HyperModel, points: Sequence[grid.Values]
) -> Iterator[str]:
    """What is known before about a search that is not the whole grid."""
    executions = _counted(settings.executions_per_trial, "execution")
    if settings.search != "hyperband":
        trials = _counted(min(settings.max_trials, len(points)), "trial")
        how = "chosen at random"
        if settings.search == "bayesian":
            first = initial_points(_space(hypermodel), settings.max_trials)
            how = f"{first} of each rule at random and the others by the outcomes of those before"
        yield f"{trials} × {executions}, {how}, as many of each rule."
        return
    yield f"Of each rule, × {executions}, as far as there are points:"
    for bracket in brackets(settings.num_epochs, settings.factor):
        rungs = [f"{rung.trials} until epoch {rung.epochs}" for rung in bracket]
        yield f"  {', the best '.join(rungs)}"


def _share(settings: Settings, points: Sequence[grid.Values]) -> float:
    """The share of the whole grid's epochs that the search trains for, at most 1."""
    if settings.search == "grid":
        return 1.0
    if settings.search != "hyperband":
        return min(1.0, settings.max_trials / len(points))
    rules = len({point["algorithm"] for point in points})
    trained = 0
    for bracket in brackets(settings.num_epochs, settings.factor):
        done = [0, *(rung.epochs for rung in bracket)]
        trained += sum(r.trials * (r.epochs - d) for r, d in zip(bracket, done, strict=False))
    return min(1.0, rules * trained / (len(points) * settings.num_epochs))


def _space(hypermodel: HyperModel) -> keras_tuner.HyperParameters:
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    return hp


def walk(hypermodel: HyperModel) -> tuple[list[grid.Values], Counter]:
    """The points that a search would try, in order, and how often each reason leaves one out."""
    points, refused = [], Counter()
    for values in grid.points(_space(hypermodel).space):
        reason = hypermodel.refusal(values)
        if reason is None:
            points.append(values)
        else:
            refused[reason] += 1
    return points, refused


def measure(
    hypermodel: HyperModel, data: Dataset, regime: Regime, values: Mapping[str, Any]
) -> Pace:
    """Trains a few batches; a sequential schedule is timed as a simultaneous one, which takes longer."""
    values = {**values, "schedule": "simultaneous"}
    steps = min(STEPS_PER_EXECUTION, max(1, len(data.x_train) // values["batch_size"]))
    rows = slice(steps * values["batch_size"])
    few = replace(data, x_train=data.x_train[rows], y_train=data.y_train[rows])
    hp = keras_tuner.HyperParameters()
    hp.values = dict(values)
    started = time.monotonic()
    model = Programs().model("", lambda: hypermodel.build(hp), data.input_shape)
    watch = _Stopwatch()
    batches = Feed(few, regime.for_trial(values)).train(0)
    model.fit(**feed(batches, [watch]), epochs=3, verbose=0)
    first, *others = watch.ends
    passes = [end - begin for begin, end in zip(watch.ends, others, strict=False)]
    return Pace(min(passes) / steps, max(0.0, first - started - min(passes)))


class _Stopwatch(keras.callbacks.Callback):
    """When each epoch ended."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(time.monotonic())


def _estimate(pace, points, executions, epochs, hypermodel, data) -> float:
    """Seconds that the trainings of these points take."""
    steps = sum(max(1, len(data.x_train) // values["batch_size"]) for values in points)
    keys = (json.dumps(hypermodel.program(values), sort_keys=True) for values in points)
    compilations = sum(1 for _ in groupby(keys))
    return compilations * pace.compile + executions * epochs * steps * pace.step


def _networks(points: Sequence[grid.Values]) -> dict[str, list[grid.Values]]:
    """The points of each network, by a name that tells the networks apart."""
    different = [name for name in _DECIDE_THE_TIME if len({point[name] for point in points}) > 1]
    found: dict[str, list[grid.Values]] = {}
    for point in points:
        named = [str(point[name]) for name in ("algorithm", "arch")]
        named += [
            f"{name} {point[name]}" for name in different if name not in ("algorithm", "arch")
        ]
        found.setdefault(" ".join(named), []).append(point)
    return found


def _ranges(hypermodel: HyperModel, points: Sequence[grid.Values]) -> Iterator[str]:
    """Every hyperparameter with its values in the grid, those that vary first."""
    fixed = []
    for name in hypermodel.choices:
        values = list(dict.fromkeys(point[name] for point in points if name in point))
        if len(values) < 2:
            fixed += [f"{name} {value}" for value in values]
            continue
        only = list(dict.fromkeys(point["algorithm"] for point in points if name in point))
        everywhere = all(name in point for point in points)
        where = "" if everywhere else f" (of {', '.join(only)} only)"
        yield f"{name}: {', '.join(map(str, values))}{where}"
    yield f"fixed: {', '.join(fixed)}"


def _regime(settings: Settings) -> Regime:
    objective = keras_tuner.Objective(settings.objective, direction(settings.objective))
    return Regime(
        settings.num_epochs,
        objective,
        settings.score,
        augment=settings.augment,
        problem_type=settings.problem_type,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
