"""--lr_from: learning rates of an earlier experiment, from its records alone."""

import shutil

import pytest

from bpfree.cli import experiment as cli
from bpfree.cli import flags
from bpfree.cli.warm_start import best_rates
from bpfree.errors import UserError
from bpfree.tuning import grid, space
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.once

SWEEP = ["--algorithm=bp", "--algorithm=dfa", "--arch=8", "--activation=tanh", "--nobatch_norm"]
SWEEP += ["--reg_rate=0", "--bw_init=ortho", "--num_epochs=1", "--examples_frac=0.1"]
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


@pytest.mark.parametrize("values", [{"algorithm": "bp", "learning_rate": 0.1}, None])
def test_without_rates_on_record_there_is_nothing_to_start_from(values, tmp_path):
    made = Experiment(tmp_path / "project")
    made.open({"objective": "val_error", "seed": 0}, {"direction": "min"})
    if values:
        trial = made.trial(0, values)
        trial.execution(0).append({"epoch": 1, "val_error": 1.0})
    with pytest.raises(UserError, match="has no trial with an algorithm and an lr on record"):
        best_rates(tmp_path, ["bp"])


def begun(folder, earlier, *more):
    """The rates of a sweep with this command, once it has begun."""
    settings = flags.parse(
        ["tune.py", f"--experiment_dir={folder}", f"--lr_from={earlier}", *SWEEP, *more], ""
    )
    choices = space.choices(settings.given, settings.problem_type, settings.objective)
    _, learners, configuration = cli.prepare(settings, choices)
    name = cli.project_name(settings, configuration)
    cli.claim(settings, name, configuration)
    Experiment(folder / name).open(configuration)
    return learners.rates


def test_a_sweep_keeps_the_rates_that_it_was_begun_with(tmp_path, capsys):
    """Whatever becomes of the earlier experiment: a sweep of days is begun again by a crash or a queue."""
    first, sweep = tmp_path / "first", tmp_path / "sweep"
    experiment(first / "project")
    kept = {"bp": 0.001, "dfa": 0.1}
    assert begun(sweep, first) == kept
    shutil.rmtree(first)
    experiment(first / "project", {**SCORES, ("dfa", 0.001): 1.0})
    assert capsys.readouterr().err == ""
    assert begun(sweep, first) == kept
    assert "keeps those it was begun with, 0.001 for bp, 0.1 for dfa." in capsys.readouterr().err
    experiment(first / "another")
    assert begun(sweep, first) == kept
    shutil.rmtree(first)
    assert begun(sweep, first) == kept
    assert "first has no best learning rates for these rules" in capsys.readouterr().err
    experiment(first / "project", {**SCORES, ("dfa", 0.001): 1.0})
    assert begun(sweep, first, "--reset_training") == {"bp": 0.001, "dfa": 0.001}
    assert capsys.readouterr().err == ""


def test_a_sweep_may_lie_beside_the_one_that_it_starts_from(tmp_path):
    experiment(tmp_path / "project")
    for _ in range(2):  # the second time there are two projects
        assert begun(tmp_path, tmp_path) == {"bp": 0.001, "dfa": 0.1}
