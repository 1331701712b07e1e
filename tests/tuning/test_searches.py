"""Random search and Bayesian optimisation: what they try, again with the same seed, and after a kill."""

import math
from collections import Counter

import keras_tuner
import pytest
from formula import DATA, Killed, hypermodel, scored, tried

from bpfree.errors import UserError
from bpfree.tuning import BayesianOptimization, GridSearch, RandomSearch, bayesian
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.once

RATES = [10.0**-n for n in range(1, 7)]
KINDS = [RandomSearch, BayesianOptimization]


def model():
    return hypermodel(algorithm=["bp", "dfa"], arch=["8", "9"], bw_init=["ortho", "he"], lr=RATES)


def valley(values):
    """Least at lr 1e-4, on the wider network, with he for feedback."""
    steps = abs(math.log10(values["lr"]) + 4)
    return 1 + steps + (values["arch"] == "8") + (values.get("bw_init") == "ortho")


def search(kind, folder, formula=valley, lives=10**6, built=None, run=None, **options):
    options = {"verbose": 0, "seed": 3, "max_trials": 12, "executions_per_trial": 1, **options}
    place = {"directory": folder, "project_name": "p"}
    tuner = scored(kind, formula, lives)(built or model(), **place, **options)
    tuner.search(DATA, epochs=9, **(run or {}))
    return tried(folder / "p")


def points(trials):
    return [values for values, *_ in trials]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return points(search(GridSearch, tmp_path_factory.mktemp("grid"), max_trials=None))


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_the_grid_each_once_and_as_many_of_each_rule(kind, grid, tmp_path):
    found = points(search(kind, tmp_path))
    assert len(found) == 12
    assert all(point in grid for point in found)
    assert all(found.count(point) == 1 for point in found)
    assert Counter(point["algorithm"] for point in found) == {"bp": 6, "dfa": 6}


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind, tmp_path):
    more = {"num_initial_points": 5} if kind is BayesianOptimization else {}
    one, other, zero, zero_again = (
        search(kind, tmp_path / f"{index}", seed=seed, **more)
        for index, seed in enumerate([3, 4, 0, 0])
    )
    assert zero == zero_again
    assert points(one) != points(other) and points(one) != points(zero)


@pytest.mark.parametrize("kind", KINDS)
def test_all_there_are_if_these_are_fewer(kind, grid, tmp_path):
    """Also those that random draws miss: 36 points, of which each must come once."""
    options = {"num_initial_points": 23} if kind is BayesianOptimization else {}
    found = points(search(kind, tmp_path, max_trials=1000, **options))
    assert len(found) == len(grid) == 36
    assert all(point in found for point in grid)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("most", "total"), [(1000, 24), (20, 20)])
def test_the_total_on_record_is_that_of_trials(kind, most, total, tmp_path):
    """bp has 12 points; of dfa's 24 half are left out."""
    built = model()
    built.admissible = lambda values: values["algorithm"] == "bp" or values["lr"] < 1e-3
    options = {"num_initial_points": 11} if kind is BayesianOptimization else {}
    found = search(kind, tmp_path, built=built, max_trials=most, **options)
    assert len(found) == Experiment(tmp_path / "p").record()["trials"] == total


@pytest.mark.parametrize("kind", KINDS)
def test_points_that_cannot_work_are_left_out(kind, tmp_path):
    built = model()
    built.admissible = lambda values: values["algorithm"] == "bp" or values["lr"] < 1e-3
    found = points(search(kind, tmp_path, built=built, max_trials=19))
    assert len(found) == 19 and all(built.admissible(point) for point in found)
    built.admissible = lambda values: False
    with pytest.raises(UserError, match="no combination can work"):
        search(kind, tmp_path / "none", built=built)


FEW = {
    RandomSearch: {"max_trials": 12},
    BayesianOptimization: {"max_trials": 12, "num_initial_points": 4},
}


def rough(values):
    """The valley, in which large learning rates fail."""
    if values["lr"] > 0.05:
        raise RuntimeError("diverged")
    return valley(values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {kind: search(kind, folder / kind.__name__, rough, **FEW[kind]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lives", [3, 9, 10])
def test_killed_anywhere_it_ends_as_if_undisturbed(kind, lives, whole, tmp_path, monkeypatch):
    assert {state for _, state, _ in whole[kind]} == {"completed", "failed"}
    with pytest.raises(Killed):
        search(kind, tmp_path, rough, lives, **FEW[kind])
    proposed, original = [], bayesian._Rule.propose

    def propose(self):
        proposed.append(original(self))
        return proposed[-1]

    monkeypatch.setattr(bayesian._Rule, "propose", propose)
    assert search(kind, tmp_path, rough, **FEW[kind]) == whole[kind]
    if kind is BayesianOptimization:  # of what was recorded, nothing is worked out again
        assert proposed == [values for values, *_ in whole[kind]][max(8, lives + 1) :]


def test_bayesian_optimisation_finds_the_best_where_chance_does_not(tmp_path):
    """200 learning rates, one of them best: 6 random trials, then 8 by a model."""
    rates = [10 ** (-1 - n / 40) for n in range(200)]
    built = hypermodel(algorithm=["bp"], lr=rates)

    def narrow(values):
        return (math.log10(values["lr"]) + 3.3) ** 2

    found = [
        min(score for *_, score in search(kind, tmp_path / kind.__name__, narrow, built=built, **more))
        for kind, more in [
            (RandomSearch, {"max_trials": 14}),
            (BayesianOptimization, {"max_trials": 14, "num_initial_points": 6}),
        ]
    ]  # fmt: skip
    assert found[1] < 1e-3 < found[0]


def test_a_rule_with_one_learning_rate_is_a_space_without_the_others(tmp_path, monkeypatch):
    """A model of the outcomes would look where it knows least: at rates that the rule never meets."""
    admitted = []
    built = hypermodel(
        algorithm=["bp", "dfa"],
        arch=[f"{n}" for n in range(8, 38)],
        lr=[0.1, 0.001],
        rates={"bp": 0.1, "dfa": 0.001},
    )

    def admissible(values, asked=built.admissible):
        admitted.append(asked(values))
        return admitted[-1]

    monkeypatch.setattr(built, "admissible", admissible)

    def wide(values):
        return abs(int(values["arch"]) - 20)

    options = {"max_trials": 24, "num_initial_points": 4}
    found = search(BayesianOptimization, tmp_path, wide, built=built, **options)
    assert {(p["algorithm"], p["lr"]) for p in points(found)} == {("bp", 0.1), ("dfa", 0.001)}
    assert admitted and all(admitted)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_varies_each_rule_has_its_one_point(kind, tmp_path):
    built = hypermodel(algorithm=["bp", "dfa"], lr=[0.1, 0.001], rates={"bp": 0.1, "dfa": 0.001})
    found = points(search(kind, tmp_path, built=built))
    assert [(p["algorithm"], p["lr"]) for p in found] == [("bp", 0.1), ("dfa", 0.001)]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_looked_after_between_any_two_trials(kind, tmp_path):
    """Also where every wave is of one trial alone."""
    looked = []
    options = {"max_trials": 6, "built": hypermodel(algorithm=["bp"], lr=RATES)}
    if kind is BayesianOptimization:
        options["num_initial_points"] = 1
    search(kind, tmp_path, run={"between": lambda: looked.append(1)}, **options)
    assert len(looked) == 6 - 1


@pytest.mark.parametrize(
    ("most", "random"),
    # bp has lr and arch to vary, dfa bw_init as well: three of each are 9 for either, if that leaves half.
    [(100, 9), (36, 9), (35, 8), (12, 3), (3, 1), (1, 1)],
)
def test_half_of_the_trials_at_least_are_chosen_by_outcomes(most, random):
    space = keras_tuner.HyperParameters()
    model().declare_hyperparameters(space)
    assert bayesian.initial_points(space, most) == random


def test_it_is_the_largest_objective_that_is_looked_for(tmp_path):
    options = {"max_trials": 14, "num_initial_points": 6, "objective": "val_accuracy"}
    built = hypermodel(algorithm=["bp"], lr=[10 ** (-1 - n / 40) for n in range(200)])

    def hill(values):
        return -((math.log10(values["lr"]) + 3.3) ** 2)

    trials = search(BayesianOptimization, tmp_path, hill, built=built, **options)
    assert max(score for *_, score in trials) > -1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_any_space_of_keras_tuner(kind, tmp_path):
    """Without rules, and with a number of which there is no grid."""

    class Free(keras_tuner.HyperModel):
        def declare_hyperparameters(self, hp):
            hp.Float("lr", 1e-4, 1e-1, sampling="log")
            hp.Int("units", 1, 90)

    options = {"num_initial_points": 3} if kind is BayesianOptimization else {}
    found = points(
        search(
            kind, tmp_path, lambda v: v["lr"] * v["units"], built=Free(), max_trials=6, **options
        )
    )
    assert len({(point["lr"], point["units"]) for point in found}) == 6
    assert all(1e-4 <= point["lr"] <= 1e-1 and 1 <= point["units"] <= 90 for point in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stepped_number_is_one_point_however_it_is_rounded(kind, tmp_path):
    """Keras Tuner draws 0.30000000000000004 where the grid has 0.3."""

    class Stepped(keras_tuner.HyperModel):
        def declare_hyperparameters(self, hp):
            hp.Float("lr", 0.0, 0.5, step=0.1)
            hp.Int("units", 1, 3)

    def formula(values):
        return values["lr"] * values["units"]

    found = points(search(kind, tmp_path, formula, built=Stepped(), max_trials=30))
    assert len(found) == len({(round(p["lr"], 6), p["units"]) for p in found}) == 6 * 3


def test_another_search_is_another_configuration(tmp_path):
    search(RandomSearch, tmp_path)
    with pytest.raises(UserError, match='search is "random" there and "bayesian" here'):
        search(BayesianOptimization, tmp_path)
    with pytest.raises(UserError, match="max_trials is 12 there and 13 here"):
        search(RandomSearch, tmp_path, max_trials=13)
    assert Experiment(tmp_path / "p").record()["trials"] == 12


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (RandomSearch, {"max_trials": 0}, "max_trials must be at least 1, received 0"),
        (GridSearch, {"max_trials": 0}, "max_trials must be at least 1, received 0"),
        (BayesianOptimization, {"num_initial_points": 0}, "num_initial_points .* at least 1"),
    ],
)
def test_impossible_arguments(kind, options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        search(kind, tmp_path, **options)
    assert not [*tmp_path.rglob("*.json")]
