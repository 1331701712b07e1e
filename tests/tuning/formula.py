"""Searches whose trials are scored by a formula instead of training: milliseconds, whatever the backend."""

import json
from types import SimpleNamespace

import numpy as np

from bpfree.costs import Costs
from bpfree.tuning import execution, space
from bpfree.tuning.callbacks import check
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.records import write_atomic

DATA = SimpleNamespace(
    name="none",
    input_shape=(6,),
    classes=3,
    **{f"{part}_{kind}": np.zeros((9, 6), "uint8") for part in "xy" for kind in ("train", "val", "test")},
)  # fmt: skip


class Killed(BaseException):
    """Stands in for a kill: nothing between here and the test catches it."""


def hypermodel(epochs=9, rates=None, **given):
    small = {"arch": ["8"], "activation": ["tanh"], "batch_norm": [False], "bw_init": ["ortho"]}
    choices = space.choices({**small, "reg_rate": [0.0], **given}, "classification", "val_loss")
    return HyperModel((6,), 3, choices, epochs, 9, rates=rates)


def scored(kind, formula, lives=10**6):
    """A subclass of a search in which `formula(values)` is a trial's score, or raises.

    Args:
        kind: the class.
        formula: from values to score.
        lives: after so many trials it is `Killed` within one.
    """

    class Scored(kind):
        def run_trial(self, trial, data, callbacks=(), report=None):
            nonlocal lives
            lives -= 1
            if lives < 0:
                raise Killed
            return [formula(trial.hyperparameters)]

    return Scored


def trained(kind, course, lives=10**6):
    """A subclass of a search that records epochs like a training: `course(values, epoch)` is the objective.

    Args:
        kind: the class.
        course: from values and epoch to the objective's value, or raises.
        lives: after so many epochs it is `Killed`.
    """

    class Trained(kind):
        def run_trial(self, trial, data, callbacks=(), report=None):
            scores = []
            for k in range(self.executions_per_trial):
                done = trial.execution(k)
                if not (result := execution.outcome(done, self.regime)):
                    self._train(trial, done)
                    result = execution.finish(done, self.regime, k, Costs())
                scores.append(result["score"])
            return scores

        def _train(self, trial, done):
            nonlocal lives
            for epoch in range(len(done.history()) + 1, self.regime.last + 1):
                lives -= 1
                if lives < 0:
                    raise Killed
                row = {"epoch": epoch, "val_loss": course(trial.hyperparameters, epoch)}
                done.append(row)
                write_atomic(done.checkpoint, "here")
                check(row, "val_loss")

    return Trained


def tried(project):
    """Values of all trials, with their states and scores, by index."""
    files = sorted(project.glob("trials/*/trial.json"))
    records = [json.loads(file.read_text()) for file in files]
    assert [record["index"] for record in records] == [*range(len(records))]
    return [(r["hyperparameters"], r["state"], r["score"]) for r in records]
