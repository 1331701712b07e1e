"""An extended grid: which learning rates it adds, where it stops, and that a kill changes nothing."""

import math

import pytest
from formula import DATA, Killed, hypermodel, scored, tried

from bpfree.errors import UserError
from bpfree.tuning import GridSearch
from bpfree.tuning.records import Experiment

RATES = [0.01, 0.001, 0.1]


def valley(**best):
    """A score that is least at each rule's best learning rate; rates above 5 fail."""

    def score(values):
        if values["lr"] > 5:
            raise RuntimeError("diverged")
        return abs(math.log10(values["lr"] / best[values["algorithm"]]))

    return score


def search(folder, score, lives=10**6, model=None, **options):
    model = model or hypermodel(algorithm=["bp", "dfa"], lr=RATES)
    options = {"extend_grid": True, "verbose": 0, "seed": 1, **options}
    tuner = scored(GridSearch, score, lives)(
        model, directory=folder, project_name="p", executions_per_trial=1, **options
    )
    tuner.search(DATA, epochs=9)
    return tried(folder / "p")


def rates(trials, rule):
    return [values["lr"] for values, *_ in trials if values["algorithm"] == rule]


@pytest.mark.once
def test_goes_on_until_the_best_has_others_on_either_side(tmp_path):
    trials = search(tmp_path, valley(bp=0.01, dfa=1e-4))
    assert rates(trials, "bp") == RATES
    # Twice: 1e-4 is the best when it is tried, and 1e-5 then shows that it lies inside.
    assert rates(trials, "dfa") == [*RATES, 1e-4, 1e-5]


@pytest.mark.once
def test_rules_go_on_together_and_each_to_its_own_side(tmp_path):
    trials = search(tmp_path, valley(bp=1.0, dfa=1e-4))
    beyond = [(values["algorithm"], values["lr"]) for values, *_ in trials[6:]]
    assert beyond == [("bp", 1.0), ("dfa", 1e-4), ("bp", 10.0), ("dfa", 1e-5)]
    # What fails lies beyond the best as well.
    assert trials[8][1] == "failed"


@pytest.mark.once
@pytest.mark.parametrize(
    ("best", "added"), [(1e-9, [1e-4, 1e-5, 1e-6]), (4.0, [1.0, 10.0]), (4e-4, [1e-4])]
)
def test_at_most_three_at_an_end(best, added, tmp_path):
    assert rates(search(tmp_path, valley(bp=best, dfa=0.01)), "bp") == [*RATES, *added]


@pytest.mark.once
def test_the_ratio_is_that_of_the_outermost(tmp_path):
    model = hypermodel(algorithm=["bp"], lr=[0.2, 0.1, 0.001])
    assert rates(search(tmp_path, valley(bp=0.3), model=model), "bp")[3:] == [0.4, 0.8]


@pytest.mark.once
def test_with_the_best_trials_other_values(tmp_path):
    model = hypermodel(algorithm=["dfa"], lr=RATES, arch=["8", "9"], bw_init=["ortho", "lecun"])

    def score(values):
        return values["lr"] + (values["arch"] == "8") + (values["bw_init"] == "ortho")

    trials = search(tmp_path, score, model=model)
    assert len(trials) == 12 + 3
    assert {(v["arch"], v["bw_init"]) for v, *_ in trials[12:]} == {("9", "lecun")}
    grid = search(tmp_path / "grid", score, model=model, extend_grid=False)
    assert grid == trials[:12]
    assert all(v.keys() == grid[0][0].keys() for v, *_ in trials)


@pytest.mark.once
def test_the_largest_objective_is_the_best(tmp_path):
    trials = search(tmp_path, lambda values: -values["lr"], objective="val_accuracy")
    assert rates(trials, "bp") == [*RATES, 1e-4, 1e-5, 1e-6]


@pytest.mark.once
def test_max_trials_counts_them_all(tmp_path):
    trials = search(tmp_path, valley(bp=1e-9, dfa=1e-9), max_trials=9)
    assert rates(trials, "bp")[3:] == [1e-4, 1e-5] and rates(trials, "dfa")[3:] == [1e-4]


@pytest.mark.once
def test_points_that_cannot_work_are_left_out(tmp_path):
    model = hypermodel(algorithm=["bp", "dfa"], lr=RATES)
    model.admissible = lambda values: values["algorithm"] == "bp" or values["lr"] >= 1e-3
    trials = search(tmp_path, valley(bp=1e-5, dfa=1e-5), model=model)
    assert rates(trials, "bp") == [*RATES, 1e-4, 1e-5, 1e-6]
    assert rates(trials, "dfa") == RATES


@pytest.mark.once
@pytest.mark.parametrize("lives", range(11))
def test_killed_anywhere_it_ends_as_if_undisturbed(lives, tmp_path):
    score = valley(bp=1.0, dfa=1e-9)
    whole = search(tmp_path / "whole", score)
    assert len(whole) == 6 + 2 + 3
    with pytest.raises(Killed):
        search(tmp_path / "killed", score, lives)
    assert search(tmp_path / "killed", score) == whole
    with pytest.raises(Killed):  # what is done is not done again
        search(tmp_path / "killed", score, 0, overwrite=True)


@pytest.mark.once
def test_it_is_part_of_the_configuration(tmp_path):
    score = valley(bp=0.01, dfa=0.01)
    search(tmp_path, score, extend_grid=False)
    with pytest.raises(UserError, match="extend_grid is missing there and true here"):
        search(tmp_path, score)
    recorded = Experiment(tmp_path / "p").record()["configuration"]
    assert "extend_grid" not in recorded  # as in experiments of before there was such a thing


@pytest.mark.once
@pytest.mark.parametrize(
    "model",
    [
        hypermodel(algorithm=["bp"], lr=[0.1]),
        lambda hp: hp.Choice("units", [1, 2]) and None,
        lambda hp: hp.Choice("lr", [0.0, 0.1]) and None,
    ],
)
def test_without_a_ratio_there_is_nothing_to_go_on_by(model, tmp_path):
    if not hasattr(model, "build"):
        model.declare_hyperparameters = model
    with pytest.raises(UserError, match="at least two positive learning rates") as refused:
        search(tmp_path, valley(bp=0.1), model=model)
    assert "\n" not in str(refused.value)
    assert not [*tmp_path.rglob("*.json")]


@pytest.mark.once
def test_the_page_looks_at_what_was_tried_for_the_rule(tmp_path):
    """bp is best at 0.1, the border of the grid, beyond which something was tried for dfa alone."""
    from bpfree.reporting.page.project import Project

    made = Experiment(tmp_path / "p")
    made.open({"objective": "val_error", "choices": {"lr": RATES}}, {"direction": "min"})
    for index, (rule, lr, score) in enumerate(
        [("bp", 0.1, 1.0), ("bp", 0.01, 2.0), ("dfa", 0.1, 1.0), ("dfa", 0.01, 3.0), ("dfa", 1.0, 2.0)]
    ):  # fmt: skip
        trial = made.trial(index, {"algorithm": rule, "lr": lr})
        trial.execution(0).append({"epoch": 1, "val_error": score})
        metrics = {"metrics": {"val_error": score}, "seed": 0, "seconds": 1.0}
        trial.execution(0).finish({"score": score, "best_epoch": 1, "epochs": 1, **metrics})
        trial.complete(score, [score])
    assert Project(Experiment(tmp_path / "p", read_only=True)).edges == {"bp": (0.1, "highest")}
