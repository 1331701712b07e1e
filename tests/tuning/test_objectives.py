"""Several objectives: ParEGO's score by hand, searches that repeat and go on, and what is refused."""

import math
import subprocess
import sys
from dataclasses import fields
from itertools import product

import keras_tuner
import numpy as np
import pytest
from formula import DATA, Killed, hypermodel, scored, trained, tried
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial

from bpfree.cli import flags, train
from bpfree.cli.experiment import claim, configuration, project_name
from bpfree.costs import Costs
from bpfree.errors import UserError
from bpfree.tuning import BayesianOptimization, GridSearch, Hyperband, RandomSearch, parego
from bpfree.tuning.objective import COSTS, measured
from bpfree.tuning.oracle import objectives
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.once

BOTH = ["val_loss", "seconds"]
OPTIONS = {"objective": BOTH, "num_initial_points": 5}


# -- the score ----------------------------------------------------------------------------------

THREE = objectives(["val_error", keras_tuner.Objective("speed", "max"), "seconds"])


def trials(rows, status="COMPLETED"):
    """Trials of Keras Tuner with these values of THREE; None is not measured."""
    found = []
    for index, (score, *others) in enumerate(rows):
        trial = Trial(keras_tuner.HyperParameters(), f"{index}", status)
        trial.score = score
        for objective, value in zip(THREE[1:], others, strict=True):
            if value is not None:
                trial.metrics.register(objective.name, objective.direction)
                trial.metrics.update(objective.name, value)
        found.append(trial)
    return found


def by_hand(rows, weights):
    """max w f + 0.05 Σ w f, with f from 0 at the best value to 1 at the worst one."""
    best = [min(r[0] for r in rows), max(r[1] for r in rows), min(r[2] for r in rows)]
    worst = [max(r[0] for r in rows), min(r[1] for r in rows), max(r[2] for r in rows)]
    for row in rows:
        f = [(v - b) / (w - b) if w != b else 0.0 for v, b, w in zip(row, best, worst, strict=True)]
        weighted = [w * x for w, x in zip(weights, f, strict=True)]
        yield max(weighted) + 0.05 * sum(weighted)


def weights_of(seed, number):
    """Those of a proposal, from the scores of trials that are the worst in one objective alone.

    Their score is 1.05 w, and the weights are 1 in all.
    """
    scores = parego.scored(
        trials([(1, 9, 2), (0, 4, 2), (0, 9, 5), (0, 9, 2)]), THREE, seed, number
    )
    return [trial.score / 1.05 for trial in scores[:3]]


@pytest.mark.parametrize("number", range(5))
def test_the_score_is_the_augmented_chebyshev_function(number):
    rows = np.random.default_rng(number).normal(size=(20, 3)).tolist()
    rows += [rows[3]]
    weights = weights_of(7, number)
    assert math.isclose(sum(weights), 1) and min(weights) > 0
    found = [trial.score for trial in parego.scored(trials(rows), THREE, 7, number)]
    np.testing.assert_allclose(found, [*by_hand(rows, weights)], rtol=1e-12)


def test_an_objective_in_which_all_are_alike_is_no_matter():
    rows = [(float(n), 3.0, -float(n)) for n in range(4)]
    found = [trial.score for trial in parego.scored(trials(rows), THREE, 1, 2)]
    np.testing.assert_allclose(found, [*by_hand(rows, weights_of(1, 2))], rtol=1e-12)


def test_weights_follow_from_seed_and_number_and_cover_the_simplex():
    drawn = np.array([weights_of(3, number) for number in range(300)])
    assert weights_of(3, 5) == drawn[5].tolist() != weights_of(4, 5)
    assert len(np.unique(drawn, axis=0)) == 300
    np.testing.assert_allclose(drawn.mean(axis=0), 1 / 3, atol=0.05)
    for corner, least in product(range(3), (0.02, 0.7)):  # even: P(w < a) = 1 - (1 - a)²
        share = (drawn[:, corner] < least).mean()
        assert share == pytest.approx(1 - (1 - least) ** 2, abs=0.06)


def test_the_least_score_is_never_that_of_a_bettered_trial():
    rows = np.random.default_rng(0).integers(0, 4, (40, 3)).astype(float)
    costs = rows * [1, -1, 1]
    for number in range(100):
        scores = [trial.score for trial in parego.scored(trials(rows.tolist()), THREE, 0, number)]
        best = costs[int(np.argmin(scores))]
        assert not [c for c in costs if all(c <= best) and any(c < best)]


def test_what_was_not_measured():
    whole = [(1.0, 2.0, 3.0), (2.0, 4.0, 1.0), (3.0, 3.0, 2.0)]
    expected = [(t.trial_id, t.score) for t in parego.scored(trials(whole), THREE, 0, 0)]
    lacking = trials([*whole, (0.0, None, 0.0), (math.nan, 9.0, 0.0), (0.0, 9.0, math.inf)])
    failed = trials([(-9.0, 99.0, -9.0)], "FAILED")
    found = parego.scored([*lacking, *failed], THREE, 0, 0)
    assert [(t.trial_id, t.score) for t in found] == expected  # such trials are left out …
    nobody = [(score, None, seconds) for score, _, seconds in whole]
    two = parego.scored(trials(nobody), [THREE[0], THREE[2]], 0, 0)
    found = parego.scored(trials(nobody), THREE, 0, 0)
    assert [t.score for t in found] == [t.score for t in two]  # … and an objective nobody has
    assert parego.scored(trials([(1.0, None, 2.0), (1.0, 2.0, None)]), THREE, 0, 0) == []
    assert parego.scored([], THREE, 0, 0) == parego.scored(failed, THREE, 0, 0) == []


def test_the_trials_keep_their_own_scores():
    given = trials([(1.0, 2.0, 3.0), (2.0, 1.0, 4.0)])
    assert [t.score for t in parego.scored(given, THREE, 0, 0)] != [t.score for t in given]
    assert [t.score for t in given] == [1.0, 2.0]


def test_a_trial_has_what_all_its_executions_have(tmp_path):
    trial = Experiment(tmp_path).trial(0, {})
    for k in range(2):
        metrics = {"val_error": 3.0 + k, "reg": [1.0, math.nan][k], "late": "spoilt", "energy": 7.0}
        result = {"score": 1.0, "metrics": metrics, "seconds": 10 + k, "test_error": 1.0}
        trial.execution(k).finish(result | ({"train_flops": 5} if k else {}))
    names = ["val_error", "seconds", "train_flops", "energy", "reg", "late", "test_error"]
    assert measured(trial, names) == {}  # it is not over
    trial.complete(1.0, [1.0, 1.0])
    assert measured(trial, names) == {"val_error": 3.5, "seconds": 10.5}


# -- searches -----------------------------------------------------------------------------------


def place(values):
    """Of a learning rate between 0.1 (0) and 1e-5 (1)."""
    return (-1 - math.log10(values["lr"])) / 4


def model(steps, **more):
    return hypermodel(lr=[10 ** (-1 - 4 * n / steps) for n in range(steps + 1)], **more)


def costs(values):
    """Seconds are least at 0.7; energy is measured of no trial, and memory of some."""
    memory = {"peak_device_memory": 5} if place(values) > 0.2 else {}
    return {"seconds": 3 + (place(values) - 0.7) ** 2, **memory}


def search(kind, folder, objective, lives=10**6, built=None, **options):
    """The loss is least at 0.3, `speed` is greatest at 0.7."""

    class Costly(scored(kind, lambda values: (place(values) - 0.3) ** 2, lives)):
        def run_trial(self, trial, data, callbacks=(), report=None):
            (score,) = super().run_trial(trial, data)
            values = trial.hyperparameters
            metrics = {"val_loss": score, "speed": -((place(values) - 0.7) ** 2)}
            trial.execution(0).finish({"score": score, "metrics": metrics, **costs(values)})
            return [score]

    options = {"verbose": 0, "seed": 3, "executions_per_trial": 1, "max_trials": 14, **options}
    built = built or model(9, algorithm=["bp", "dfa"])
    tuner = Costly(built, objective, directory=folder, project_name="p", **options)
    tuner.search(DATA, epochs=9)
    return tried(folder / "p")


@pytest.fixture
def proposed(monkeypatch):
    """In the place of Keras Tuner's model, one that depends on every score, and lists what it is given."""
    given = []

    def populate_space(self, trial_id):
        done = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
        given.append((self.objective, {t.trial_id: t.score for t in done}))
        space = {p.name: p for p in self.get_space().space}
        sensitive = math.fsum(t.score * 1e6 * (n + 1) for n, t in enumerate(done))
        rates = space["lr"].values
        values = {name: p.default for name, p in space.items() if not p.conditions}
        return {"values": {**values, "lr": rates[int(sensitive) % len(rates)]}}

    monkeypatch.setattr(oracles.BayesianOptimizationOracle, "populate_space", populate_space)
    return given


@pytest.mark.parametrize(("direction", "sign"), [("min", 1), ("max", -1)])
def test_the_model_is_given_one_score_of_both(direction, sign, proposed, tmp_path):
    aims = [keras_tuner.Objective("val_loss", direction), "seconds"]
    found = search(BayesianOptimization, tmp_path, **{**OPTIONS, "objective": aims})
    names = [path.name for path in sorted(tmp_path.glob("p/trials/*"))]
    values = {
        name: (sign * score, costs(values)["seconds"])
        for name, (values, _, score) in zip(names, found, strict=True)
    }
    weights = []
    for objective, scores in proposed:
        assert objective.direction == "min" and len(scores) >= 5
        f = np.array([values[name] for name in scores])
        f = (f - f.min(axis=0)) / (f.max(axis=0) - f.min(axis=0))
        # One weight fits all scores: w of the first objective, 1 - w of the other.
        w = np.linspace(0, 1, 20001)[:, None]
        terms = w * f[:, 0], (1 - w) * f[:, 1]
        errors = np.abs(np.maximum(*terms) + 0.05 * sum(terms) - [*scores.values()]).max(axis=1)
        assert errors.min() < 1e-4
        weights.append(float(w[errors.argmin(), 0]))
    # Two proposals for each of two rules, which have the same weights in turn.
    assert weights[0] == pytest.approx(weights[1], abs=1e-3)
    assert weights[2] == pytest.approx(weights[3], abs=1e-3)
    assert weights[0] != pytest.approx(weights[2], abs=0.01)


def test_the_seed_decides_and_killed_anywhere_it_ends_as_if_undisturbed(proposed, tmp_path):
    whole = search(BayesianOptimization, tmp_path / "whole", **OPTIONS)
    assert search(BayesianOptimization, tmp_path / "other", seed=4, **OPTIONS) != whole
    for lives in (3, 11):
        with pytest.raises(Killed):
            search(BayesianOptimization, tmp_path / f"{lives}", lives=lives, **OPTIONS)
        assert search(BayesianOptimization, tmp_path / f"{lives}", **OPTIONS) == whole


@pytest.mark.parametrize("objective", ["energy", "peak_device_memory"])
def test_what_no_or_not_every_trial_has_ends_no_search(objective, proposed, tmp_path):
    found = search(
        BayesianOptimization, tmp_path, ["val_loss", objective], num_initial_points=4, max_trials=10
    )
    assert [state for _, state, _ in found] == ["completed"] * 10
    names = [path.name for path in sorted(tmp_path.glob("p/trials/*"))]
    having = {n for n, (v, *_) in zip(names, found, strict=True) if objective in costs(v)} or {
        *names
    }
    assert all(scores and {*scores} <= having for _, scores in proposed)


def test_proposals_lie_between_the_best_of_one_objective_and_of_the_other(tmp_path):
    """The front is from 0.3, where the loss is least, to 0.7, where speed is greatest."""
    aims = ["val_loss", keras_tuner.Objective("speed", "max")]
    options = {"built": model(100, algorithm=["bp"]), "num_initial_points": 8, "max_trials": 12}
    found = search(BayesianOptimization, tmp_path, aims, **options)
    where = [place(values) for values, *_ in found[8:]]
    assert sum(0.28 < x < 0.72 for x in where) >= 3, where


@pytest.mark.parametrize("kind", [GridSearch, RandomSearch])
def test_other_searches_try_what_they_try_for_one(kind, tmp_path):
    one, several = (
        search(kind, tmp_path / str(len(aims)), aims, max_trials=4) for aims in (["val_loss"], BOTH)
    )
    assert one == several and len(one) == 4


def test_the_first_objective_alone_promotes(tmp_path):
    def course(values, epoch):
        return (place(values) - 0.3) ** 2 + 1 / epoch

    found = []
    for number, objective in enumerate(["val_loss", BOTH]):
        options = {"directory": tmp_path, "project_name": f"{number}", "executions_per_trial": 1}
        tuner = trained(Hyperband, course)(
            model(20, algorithm=["bp"]), objective=objective, verbose=0, **options
        )
        tuner.search(DATA, epochs=3)
        found.append(tried(tmp_path / f"{number}"))
    assert found[0] == found[1]


def test_a_trial_s_line_has_every_objective(tmp_path, capsys):
    search(GridSearch, tmp_path, [*BOTH, "energy"], max_trials=1, verbose=1)
    said = capsys.readouterr().out
    assert "val_loss 0.09, seconds 3.49, energy not measured" in said


# -- the record ---------------------------------------------------------------------------------


def recorded(folder):
    return Experiment(folder / "p").record()["configuration"]


def test_one_objective_is_recorded_as_it_always_was(tmp_path):
    search(GridSearch, tmp_path, ["val_loss"], max_trials=1)
    assert recorded(tmp_path)["objective"] == "val_loss"
    assert "further_objectives" not in recorded(tmp_path)
    assert search(GridSearch, tmp_path, "val_loss", max_trials=1)
    with pytest.raises(UserError, match=r'further_objectives is missing there and \["seconds"\]'):
        search(GridSearch, tmp_path, BOTH, max_trials=1)


def test_several_are_recorded_in_order_and_with_a_direction_of_their_own(tmp_path):
    aims = ["val_loss", keras_tuner.Objective("speed", "max"), "seconds", "accuracy"]
    search(GridSearch, tmp_path, aims, max_trials=1)
    speed = {"name": "speed", "direction": "max"}
    assert recorded(tmp_path)["further_objectives"] == [speed, "seconds", "accuracy"]
    for other in (aims[:3], [aims[0], *aims[:0:-1]], ["val_loss", "speed", *aims[2:]]):
        with pytest.raises(UserError, match="further_objectives is"):
            search(GridSearch, tmp_path, other, max_trials=1)


# -- the command line ---------------------------------------------------------------------------


def parse(*arguments):
    return flags.parse(["tune.py", *arguments], "a program")


TWO = ["--objective=val_error", "--objective=seconds"]


def test_the_first_flag_is_the_objective():
    assert (parse().objective, parse().further_objectives) == ("val_loss", ())
    settings = parse(*TWO, "--objective=val_loss")
    assert settings.objective == "val_error"
    assert settings.further_objectives == ("seconds", "val_loss")


def test_the_configuration_is_another_one_only_with_several():
    one, two = parse(TWO[0]), parse(*TWO)
    assert "further_objectives" not in configuration(one, {})
    assert configuration(two, {}) == {**configuration(one, {}), "further_objectives": ("seconds",)}
    assert project_name(one, configuration(one, {})) != project_name(two, configuration(two, {}))


@pytest.mark.parametrize("first", [TWO, TWO[:1]])
def test_one_directory_holds_the_one_or_the_other(first, tmp_path):
    settings, *others = (parse(f"--experiment_dir={tmp_path}", *f) for f in (first, TWO, TWO[:1]))
    name = project_name(settings, configuration(settings, {}))
    Experiment(tmp_path / name).open(configuration(settings, {}))
    claim(settings, name, configuration(settings, {}))
    (other,) = (o for o in others if o != settings)
    there = configuration(other, {})
    with pytest.raises(UserError, match="further_objectives is"):
        claim(other, project_name(other, there), there)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seconds"], ["first objective", "'seconds'", "val_error"]),
        (["seconds", "val_error"], ["first objective", "'seconds'"]),
        (["val_error", "secnods"], ["secnods", "val_loss", "seconds", "peak_device_memory"]),
        (["val_eror", "seconds"], ["val_eror", "val_error"]),
        (["val_error", "val_error"], ["'val_error'", "twice"]),
        (["loss", "seconds", "seconds"], ["'seconds'", "twice"]),
        (["error", "idle_power"], ["idle_power"]),
        (["error", "test_error"], ["test_error"]),
    ],
)
def test_mistakes_are_one_sentence(arguments, words):
    with pytest.raises(UserError) as refused:
        parse(*(f"--objective={name}" for name in arguments))
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


def test_a_validation_metric_needs_validation_data_wherever_it_stands():
    with pytest.raises(UserError, match="'val_loss' needs validation data"):
        parse("--validation=0", "--objective=error", "--objective=val_loss")


def test_a_cost_is_no_first_choice():
    """What is named in the sentence about an unknown first objective can be chosen."""
    with pytest.raises(UserError) as refused:
        parse("--objective=x")
    assert not [name for name in COSTS if name in str(refused.value)]


def test_train_takes_one():
    with pytest.raises(UserError, match="takes one --objective, received .*seconds.*tune.py"):
        train.main(["train.py", *TWO])


def test_mistakes_are_answered_before_anything_heavy_is_imported():
    script = """
import sys
from bpfree.cli import answer, tune
print(answer.run(tune.main, ["tune.py", "--experiment_dir=x", "--objective=seconds"]))
heavy = {"tensorflow", "keras", "jax", "keras_tuner", "sklearn", "matplotlib", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "[]"] and done.stderr.count("\n") == 1


# -- Python -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GridSearch, RandomSearch, BayesianOptimization, Hyperband])
@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (["seconds", "val_loss"], "first objective .* 'seconds'"),
        ("energy", "first objective .* 'energy'"),
        (["val_loss", "val_loss"], "'val_loss' is named twice"),
        (["val_loss", keras_tuner.Objective("val_loss", "max")], "'val_loss' is named twice"),
        ([], "An objective is a name"),
        (None, "An objective is a name"),
        (["val_loss", 3], "An objective is a name"),
    ],
)
def test_mistakes_in_python(kind, objective, words, tmp_path):
    with pytest.raises(UserError, match=words):
        kind(model(9), objective=objective, directory=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_costs_are_what_trainings_record():
    assert {*COSTS} == {field.name for field in fields(Costs)} - {"idle_power"}
