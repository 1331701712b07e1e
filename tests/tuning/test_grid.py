"""The grid's points: Keras Tuner's walk, conditions, steps, refusals."""

import itertools

import keras_tuner
import pytest
from keras_tuner.oracles import GridSearchOracle

from bpfree.errors import UserError
from bpfree.tuning import grid, space
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.oracle import GridOracle


def parameters(declare):
    hp = keras_tuner.HyperParameters()
    declare(hp)
    return hp


def points(declare):
    return list(grid.points(parameters(declare).space))


def upstream_walk(hp, folder):
    """The values that Keras Tuner's own serial grid search proposes, one trial after another."""
    oracle = GridSearchOracle(keras_tuner.Objective("val", "min"), hyperparameters=hp)
    oracle._set_project_dir(str(folder), "walk")
    walked = []
    while True:
        trial = oracle.create_trial("tuner")
        if trial.status == "STOPPED":
            return walked
        walked.append(dict(trial.hyperparameters.values))
        oracle.update_trial(trial.trial_id, {"val": 0.0})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)


def several(hp):
    hp.Choice("rule", ["bp", "dfa", "ll"], default="dfa")
    hp.Boolean("norm")
    hp.Fixed("batch", 64)
    hp.Int("depth", 1, 3, step=1)
    hp.Choice("lr", [0.1, 0.01])


def defaults_that_are_not_first(hp):
    hp.Boolean("norm", default=True)
    hp.Int("depth", 1, 7, step=2, default=5)
    hp.Choice("act", ["tanh", "relu"], default="relu")


@pytest.mark.parametrize("declare", [several, defaults_that_are_not_first])
def test_walks_like_keras_tuner(declare, tmp_path):
    expected = upstream_walk(parameters(declare), tmp_path)
    assert len(expected) > 10
    assert points(declare) == expected


def test_default_first_and_last_fastest():
    def declare(hp):
        hp.Choice("a", ["x", "y"], default="y")
        hp.Choice("b", [1, 2])

    pairs = [(point["a"], point["b"]) for point in points(declare)]
    assert pairs == [("y", 1), ("y", 2), ("x", 1), ("x", 2)]


def test_conditions_decide_what_exists():
    def declare(hp):
        hp.Choice("algo", ["bp", "dfa", "ll"])
        with hp.conditional_scope("algo", ["dfa", "ll"]):
            hp.Choice("F", ["ortho", "lecun"])
        with hp.conditional_scope("algo", ["ll"]):
            hp.Choice("loss", ["cce", "mse"])
        hp.Choice("lr", [0.1, 0.01])

    found = points(declare)
    expected = [{"algo": "bp", "lr": lr} for lr in (0.1, 0.01)]
    expected += [
        {"algo": "dfa", "F": f, "lr": lr}
        for f, lr in itertools.product(("ortho", "lecun"), (0.1, 0.01))
    ]
    expected += [
        {"algo": "ll", "F": f, "loss": loss, "lr": lr}
        for f, loss, lr in itertools.product(("ortho", "lecun"), ("cce", "mse"), (0.1, 0.01))
    ]
    assert len(found) == 2 + 4 + 8
    assert found == expected


@pytest.mark.parametrize(
    ("declare", "expected"),
    [
        (
            lambda hp: hp.Float("v", 1e-4, 1e-1, step=10, sampling="log"),
            [1e-4, 1e-3, 1e-2, 1e-1],
        ),
        (lambda hp: hp.Float("v", 0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (lambda hp: hp.Float("v", 0.0, 0.35, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (lambda hp: hp.Int("v", 2, 16, step=2, sampling="log"), [2, 4, 8, 16]),
        (lambda hp: hp.Int("v", 1, 6, step=2), [1, 3, 5]),
        (lambda hp: hp.Int("v", -3, -1), [-3, -2, -1]),
        (lambda hp: hp.Int("v", -2, 0), [-2, -1, 0]),
        (lambda hp: hp.Int("v", 10**10, 10**10 + 2), [10**10, 10**10 + 1, 10**10 + 2]),
        (lambda hp: hp.Float("v", -0.3, 0.0, step=0.1), [-0.3, -0.2, -0.1, 0.0]),
        (lambda hp: hp.Float("v", -0.3, 0.15, step=0.1), [-0.3, -0.2, -0.1, 0.0, 0.1]),
        (lambda hp: hp.Float("v", -0.7, -0.1, step=0.2), [-0.7, -0.5, -0.3, -0.1]),
        (lambda hp: hp.Float("v", 1e-11, 1e-9, step=10, sampling="log"), [1e-11, 1e-10, 1e-9]),
        (
            lambda hp: hp.Float("v", 1e-4, 1e-3, step=10**0.5, sampling="log"),
            [1e-4, 3.16227766017e-4, 1e-3],
        ),
        (lambda hp: hp.Boolean("v"), [False, True]),
        (lambda hp: hp.Boolean("v", default=True), [True, False]),
        (lambda hp: hp.Fixed("v", 0.1), [0.1]),
    ],
)
def test_values_are_exact(declare, expected):
    found = [point["v"] for point in points(declare)]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize(
    "declare",
    [
        lambda hp: hp.Choice("v", [1, 2, 1]),
        lambda hp: hp.Float("v", 0.0, 1.0),
        lambda hp: hp.Float("v", 1e-4, 1e-1, sampling="log"),
        lambda hp: hp.Float("v", 1e-4, 1e-1, step=10, sampling="reverse_log"),
    ],
)
def test_what_has_no_grid_is_refused(declare):
    with pytest.raises(UserError, match="'v'") as refused:
        points(declare)
    assert "\n" not in str(refused.value)


def oracle(declare, **options):
    return GridOracle("val_loss", hyperparameters=parameters(declare), **options)


def test_max_trials_takes_the_first_points():
    everything = points(several)
    assert oracle(several).points() == everything
    assert oracle(several, max_trials=5).points() == everything[:5]


def test_admissible_leaves_points_out_before_max_trials():
    some = oracle(several, admissible=lambda values: values["depth"] != 2, max_trials=7)
    expected = [point for point in points(several) if point["depth"] != 2][:7]
    assert some.points() == expected


def test_populate_space_proposes_the_first_point_without_trial(tmp_path):
    known = oracle(several)
    known._set_project_dir(str(tmp_path), "project")
    first, *_ = points(several)
    assert known.populate_space("0")["values"] == first
    for trial in range(len(points(several))):
        known.create_trial(f"tuner{trial}")
    tried = [trial.hyperparameters.values for trial in known.trials.values()]
    assert tried == points(several)
    assert known.populate_space("end")["status"] == "STOPPED"


def sweep(problem_type, given, objective="loss"):
    choices = space.choices(given, problem_type, objective)
    model = HyperModel((8, 8, 1), 10, choices, 2, 100, problem_type)
    hp = keras_tuner.HyperParameters()
    model.declare_hyperparameters(hp)
    return GridOracle(objective, admissible=model.admissible, hyperparameters=hp).points()


SMALL = {"arch": ["20"], "activation": ["tanh"], "batch_norm": [False]}


@pytest.mark.once
@pytest.mark.parametrize("architectures", [["20", "tower:99-5"], ["tower:99-5", "20"]])
def test_one_network_that_can_be_built_is_enough(architectures):
    given = {**SMALL, "arch": architectures, "algorithm": ["bp", "dfa"]}
    HyperModel((8, 8, 1), 10, space.choices(given, "classification", "loss"), 2, 100).try_out()


@pytest.mark.once
def test_where_no_network_can_be_built_the_first_reason_is_told():
    given = {**SMALL, "arch": ["tower:99-5", "CONV_4_3_1_1_FC_7"], "algorithm": ["bp", "dfa"]}
    model = HyperModel((8, 8, 1), 10, space.choices(given, "classification", "loss"), 2, 100)
    with pytest.raises(UserError, match="tower:99-5"):
        model.try_out()


def test_reconstruction_leaves_out_rules_that_need_labels():
    found = {point["algorithm"] for point in sweep("reconstruction", SMALL)}
    assert found == {"bp", "dfa", "mse"}


@pytest.mark.once
def test_default_sweep_has_as_many_points_as_counted_by_hand():
    """bp has no feedback, three rules have 2 initialisers of it; 4 learning rates."""
    found = sweep("classification", SMALL)
    assert len(found) == (1 + 3 * 2) * 4
    assert {"bw_init" in point for point in found if point["algorithm"] == "bp"} == {False}
    everything = sweep("classification", {}, "val_loss")
    assert len(everything) == (1 + 3 * 2) * 6 * 4 * 2 * 4 * 4


@pytest.mark.once
def test_a_vit_meets_no_batch_normalisation():
    """It has none: half of the grid would be the other half once more."""
    given = {**SMALL, "arch": ["vit", "20"], "batch_norm": [False, True], "algorithm": ["bp"]}
    found = {(point["arch"], point["batch_norm"]) for point in sweep("classification", given)}
    assert found == {("vit", False), ("20", False), ("20", True)}
    given |= {"arch": ["vit"], "batch_norm": [True]}
    with pytest.raises(UserError, match="A vit has layer normalisation"):
        sweep("classification", given)
