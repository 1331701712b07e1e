"""--lr_from: learning rates of an earlier experiment, from its records alone."""

import pytest

from bpfree.cli.warm_start import best_rates
from bpfree.errors import UserError
from bpfree.tuning import grid, space
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.once

SCORES = {("bp", 0.1): 9.0, ("bp", 0.001): 2.0, ("dfa", 0.1): 3.0, ("dfa", 0.001): 4.0}


def experiment(path, scores=SCORES):
    made = Experiment(path)
    made.open({"objective": "val_error", "seed": 0}, {"direction": "min"})
    for index, ((rule, lr), score) in enumerate(scores.items()):
        trial = made.trial(index, {"algorithm": rule, "lr": lr})
        execution = trial.execution(0)
        execution.append({"epoch": 1, "val_error": score})
        execution.finish(
            {"score": score, "best_epoch": 1, "epochs": 1, "seed": 0, "seconds": 1.0}
            | {"metrics": {"val_error": score}}
        )
        trial.complete(score, [score])
    return path


def test_every_rule_gets_the_rate_of_its_own_best_trial(tmp_path):
    """bp's is not that of the least learning rate or of the best of all."""
    experiment(tmp_path / "project")
    assert best_rates(tmp_path, ["dfa", "bp"]) == {"dfa": 0.1, "bp": 0.001}


def test_a_sweep_meets_each_rule_at_its_rate_alone():
    rates = {"bp": 0.001, "dfa": 0.1}
    given = {"arch": ["8"], "activation": ["tanh"], "batch_norm": [False], "bw_init": ["ortho"]}
    choices = space.choices({**given, "algorithm": ["bp", "dfa"]}, "classification", "loss")
    choices = {**choices, "lr": (0.001, 0.1)}
    model = HyperModel((6,), 3, choices, 1, 10, rates=rates)
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    model.declare_hyperparameters(hp)
    kept = [p for p in grid.points(hp.space) if model.admissible(p)]
    assert [(p["algorithm"], p["lr"]) for p in kept] == [("bp", 0.001), ("dfa", 0.1)]


def test_a_rule_that_was_not_tuned_is_named(tmp_path):
    experiment(tmp_path / "project")
    with pytest.raises(UserError, match="no completed trial of drtp, only of bp, dfa"):
        best_rates(tmp_path, ["bp", "drtp"])


def test_of_several_projects_one_is_to_be_named(tmp_path):
    for name in "ab":
        experiment(tmp_path / name)
    with pytest.raises(UserError, match="several projects, a, b"):
        best_rates(tmp_path, ["bp"])
    assert best_rates(tmp_path / "b", ["bp"]) == {"bp": 0.001}
