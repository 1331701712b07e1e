"""Hyperband: Keras Tuner's brackets, promotion within each rule, and that a pause changes nothing."""

import itertools
import json
from collections import Counter

import keras
import keras_tuner
import numpy as np
import pytest
from formula import DATA, Killed, hypermodel, trained, tried
from keras_tuner.oracles import HyperbandOracle
from measured import MEASURED
from test_population import _cache  # noqa: F401  what is compiled once is not compiled again

import bpfree
from bpfree.errors import UserError
from bpfree.tuning import GridSearch, Hyperband, population, space
from bpfree.tuning.hyperband import Rung, brackets
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.member import Member
from bpfree.tuning.records import Experiment


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def upstream_rounds(epochs, factor, folder):
    """How many trials Keras Tuner's own oracle trains, by bracket, round and epochs."""
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0.0, 1.0)
    objective = keras_tuner.Objective("val", "min")
    oracle = HyperbandOracle(objective, epochs, factor, hyperparameters=hp, seed=1)
    oracle.verbose = 0
    oracle._set_project_dir(str(folder), "brackets")
    rounds = Counter()
    while (trial := oracle.create_trial("tuner")).status != "STOPPED":
        values = trial.hyperparameters.values
        rounds[values["tuner/bracket"], values["tuner/round"], values["tuner/epochs"]] += 1
        oracle.update_trial(trial.trial_id, {"val": values["x"]})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return rounds


@pytest.mark.once
@pytest.mark.parametrize(
    ("epochs", "factor"), [(9, 3), (10, 3), (27, 3), (3, 3), (2, 2), (11, 2), (5, 4)]
)
def test_the_brackets_are_keras_tuners(epochs, factor, tmp_path):
    ours = brackets(epochs, factor)
    found = Counter()
    for number, bracket in enumerate(reversed(ours)):
        for rung, (trials, until) in enumerate((r.trials, r.epochs) for r in bracket):
            found[number, rung, until] += trials
    assert found == upstream_rounds(epochs, factor, tmp_path)
    assert [bracket[-1].epochs for bracket in ours] == [epochs] * len(ours)


def course(values, epoch):
    """Larger rates get ahead, smaller ones overtake them; dfa is the slower rule throughout."""
    begin = {"bp": 10.0, "dfa": 100.0}[values["algorithm"]]
    return begin - values["lr"] * 9 / epoch**2 + values["lr"] * epoch / 3


RATES = [round(0.02 * n, 2) for n in range(1, 41)]


def search(folder, course=course, lives=10**6, model=None, **options):
    options = {"verbose": 0, "seed": 2, "executions_per_trial": 2, **options}
    model = model or hypermodel(algorithm=["bp", "dfa"], lr=RATES)
    kind = trained(Hyperband, course, lives)
    tuner = kind(model, directory=folder, project_name="p", **options)
    tuner.search(DATA, epochs=9)
    return tuner


def epochs(project):
    """Epochs recorded by each trial's executions, by index."""
    return [[len(e.history()) for e in t.executions()] for t in Experiment(project).trials()]


def records(project):
    """The trials, and every execution's history and result."""
    files = sorted(
        path for name in ("history.csv", "result.json") for path in project.glob(f"trials/*/*/{name}")
    )  # fmt: skip
    return tried(project), {path.relative_to(project): path.read_bytes() for path in files}


@pytest.mark.once
def test_the_best_of_each_rule_go_on(tmp_path):
    project = search(tmp_path).experiment.path
    trials, lengths = tried(project), epochs(project)
    assert brackets(9, 3)[0] == [Rung(9, 1), Rung(3, 3), Rung(1, 9)]
    first = [(v["algorithm"], v["lr"]) for v, *_ in trials[:18]]
    for rule in ("bp", "dfa"):
        rates = {lr: lengths[i][0] for i, (name, lr) in enumerate(first) if name == rule}
        assert len(rates) == 9
        # After an epoch the largest rates lead; of these, after three, the smallest.
        promoted = sorted(rates)[-3:]
        loss = {
            lr: min(course({"algorithm": rule, "lr": lr}, e) for e in (1, 2, 3)) for lr in promoted
        }
        winner = min(loss, key=loss.get)
        assert rates == {lr: 9 if lr == winner else 3 if lr in promoted else 1 for lr in rates}
    assert len(trials) == 2 * (9 + 5 + 3)
    assert Counter(map(tuple, lengths)) == {(1, 1): 12, (3, 3): 4 + 6, (9, 9): 2 + 4 + 6}
    assert not [*project.glob("trials/*/*/checkpoint")]


@pytest.mark.once
def test_scores_are_those_of_all_epochs_so_far(tmp_path):
    tuner = search(tmp_path)
    for trial in tuner.experiment.trials():
        best = [min(row["val_loss"] for row in e.history()) for e in trial.executions()]
        assert trial.scores == best and trial.score == sum(best) / 2
        assert tuner.oracle.trials[trial.id].score == trial.score
    assert tuner.experiment.record()["trials"] == 34


@pytest.mark.once
def test_what_is_planned_is_what_there_are_points_for(tmp_path):
    """bp has 40 rates, dfa 11: its second bracket, of 5 trials, has 2 left, and its third none."""
    model = hypermodel(algorithm=["bp", "dfa"], lr=RATES)
    model.admissible = lambda values: values["algorithm"] == "bp" or values["lr"] <= RATES[10]
    tuner = search(tmp_path, model=model, executions_per_trial=1)
    assert brackets(9, 3)[1:] == [[Rung(5, 3), Rung(2, 9)], [Rung(3, 9)]]
    assert tuner.oracle.planned(9) == [
        (9 + 9, 0, 1), (3 + 3, 1, 3), (1 + 1, 3, 9), (5 + 2, 0, 3), (2 + 2, 3, 9), (3 + 0, 0, 9)
    ]  # fmt: skip
    lengths = Counter(length for (length,) in epochs(tuner.experiment.path))
    assert lengths == {1: 18 - 6, 3: (6 - 2) + (7 - 4), 9: 2 + 4 + 3}
    assert tuner.experiment.record()["trials"] == 18 + 7 + 3


def breaking(values, epoch):
    """Most large rates raise or diverge at once, others in the rung that they are promoted to."""
    if values["lr"] > 0.6:
        raise RuntimeError("too large")
    if values["lr"] > 0.4 and epoch > 2:
        return float("nan")
    return course(values, epoch)


@pytest.mark.once
def test_what_fails_is_not_promoted_and_the_others_are(tmp_path):
    project = search(tmp_path, breaking).experiment.path
    trials, lengths = tried(project), epochs(project)
    assert {state for _, state, _ in trials} == {"completed", "failed"}
    for rule in ("bp", "dfa"):
        first = [i for i, (v, *_) in enumerate(trials[:18]) if v["algorithm"] == rule]
        sound = [i for i in first if trials[i][0]["lr"] <= 0.6]
        assert 3 < len(sound) < 9
        assert sum(lengths[i][0] > 1 for i in sound) == 3
    assert ("failed", 3) in {(state, *lengths[i][:1]) for i, (_, state, _) in enumerate(trials)}


@pytest.mark.once
@pytest.mark.parametrize(("course", "score"), [(course, "last"), (breaking, "best")])
def test_killed_anywhere_it_ends_as_if_undisturbed(course, score, tmp_path):
    """Of those that were promoted, many look worse or have failed by the time that the search goes on."""
    options = {"score": score}
    whole = records(search(tmp_path / "whole", course, **options).experiment.path)
    for lives in (0, 41, 77, 130):
        with pytest.raises(Killed):
            search(tmp_path / f"{lives}", course, lives, **options)
        resumed = search(tmp_path / f"{lives}", course, **options)
        assert records(resumed.experiment.path) == whole


@pytest.mark.once
def test_a_finished_search_does_nothing_again(tmp_path):
    before = records(search(tmp_path).experiment.path)
    assert records(search(tmp_path, lives=0).experiment.path) == before


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*is spoilt")
@pytest.mark.parametrize(("name", "lives"), [("result.json", 0), ("history.csv", 10**6)])
def test_spoilt_files_of_a_finished_search_are_made_again(name, lives, tmp_path):
    """Whichever rung a trial came to, all promotions are those of before."""
    project = search(tmp_path).experiment.path
    trials, lengths = tried(project), epochs(project)
    for file in tmp_path.rglob(name):
        file.write_text("{")
    search(tmp_path, lives=lives)
    assert (tried(project), epochs(project)) == (trials, lengths)
    assert all(e.result() for t in Experiment(project).trials() for e in t.executions())


@pytest.mark.once
def test_too_few_epochs_for_a_rung(tmp_path):
    with pytest.raises(UserError, match="received 9: give at least 10 epochs"):
        search(tmp_path, factor=10)
    with pytest.raises(UserError, match="factor must be at least 2, received 1"):
        search(tmp_path, factor=1)
    assert not [*tmp_path.rglob("*.json")]


@pytest.mark.once
def test_blocks_that_learn_in_turn_are_refused(tmp_path):
    model = hypermodel(algorithm=["lw"], schedule=["simultaneous", "sequential"])
    with pytest.raises(UserError, match="a sequential schedule trains the first block alone"):
        search(tmp_path, model=model)
    assert not [*tmp_path.rglob("*.json")]


# -- with networks ----------------------------------------------------------------------------

ON_JAX = keras.backend.backend() == "jax"
GIVEN = {
    "algorithm": ["dfa"], "arch": ["8-6"], "activation": ["tanh"], "batch_norm": [True], "bw_init": ["ortho"],
    "reg_rate": [0.2], "batch_size": [32], "lr": [0.1, 0.03, 0.01, 0.003], "lr_schedule": ["cosine"],
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.1, seed=0)


def real(kind, folder, data, lr=None, run=None, optimizer="adam", **options):
    given = {**GIVEN, "optimizer": [optimizer], **({"lr": [lr]} if lr else {})}
    choices = space.choices(given, "classification", "val_loss")
    model = HyperModel(data.input_shape, 10, choices, 4, len(data.x_train), use_xla=ON_JAX)
    options = {"executions_per_trial": 2, "seed": 5, "verbose": 0, "keep_weights": "all", **options}
    tuner = kind(model, directory=folder, project_name="p", **options)
    tuner.search(data, epochs=4, **(run or {}))
    return tuner.experiment


def outcomes(trial):
    """Histories and results but for what is measured."""
    found = []
    for execution in trial.executions():
        result = json.loads(execution.result_file.read_text())
        result = {key: value for key, value in result.items() if key not in MEASURED}
        found.append((execution.history_file.read_bytes(), result))
    return found


def assert_as_at_once(experiment, folder, data, way):
    """Every trial that came to the last epoch, against a search that trains it to there in one go."""
    done = [t for t in experiment.trials() if len(t.execution(0).history()) == 4]
    promoted = [t for t in done if t.index < 6]
    assert promoted
    for trial in promoted:
        lr = trial.hyperparameters["lr"]
        (alone,) = real(GridSearch, folder / f"{lr}", data, lr, population=way).trials()
        assert outcomes(trial) == outcomes(alone)


@pytest.mark.slow
def test_a_promoted_trial_equals_one_trained_at_once(data, tmp_path):
    """With a cosine schedule, dropout and batch normalisation."""
    experiment = real(Hyperband, tmp_path / "rungs", data, factor=2, population="off")
    assert {t.state for t in experiment.trials()} == {"completed"}
    assert_as_at_once(experiment, tmp_path, data, "off")


on_jax = pytest.mark.skipif(not population.AVAILABLE, reason="populations need JAX")


def numbers(experiment):
    """The histories of each trial, by its learning rate."""
    return {
        t.hyperparameters["lr"]: [
            np.array([list(row.values()) for row in e.history()]) for e in t.executions()
        ]
        for t in experiment.trials()
    }


@on_jax
@pytest.mark.slow
def test_promoted_members_of_a_population_equal_lone_runs(data, tmp_path):
    # Some pixels are constant, and what comes of them batch norm takes away: those weights' gradients are
    # rounding, which differs between programs, and Adam would make whole steps of it.
    options = {"factor": 2, "seed": 5, "optimizer": "momentum"}
    beside = real(Hyperband, tmp_path / "beside", data, population="auto", **options)
    alone = real(Hyperband, tmp_path / "alone", data, population="off", **options)
    found, wanted = numbers(beside), numbers(alone)
    assert {len(histories[0]) for histories in wanted.values()} >= {1, 4}
    assert found.keys() == wanted.keys()
    for lr, histories in wanted.items():
        for one, other in zip(found[lr], histories, strict=True):
            np.testing.assert_allclose(one, other, 1e-4, 1e-5)
    assert len(files(beside)) == len(files(alone)) > 0


def files(experiment):
    return sorted(p for p in experiment.path.glob("trials/*/*/*") if p.is_file())


@pytest.mark.slow
@on_jax
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("epoch_ended", 13),
        ("save", 9),
        ("save", 12),
    ],
)
def test_a_population_killed_between_rungs_goes_on_to_the_bit(
    data, name, call, tmp_path, monkeypatch
):
    options = {"factor": 2, "population": "auto"}
    whole = real(Hyperband, tmp_path / "whole", data, **options)
    calls, original = itertools.count(1), getattr(Member, name)

    def method(self, *arguments):
        original(self, *arguments)
        if next(calls) == call:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Member, name, method)
        with pytest.raises(Killed):
            real(Hyperband, tmp_path / "killed", data, **options)
    resumed = real(Hyperband, tmp_path / "killed", data, **options)
    assert [outcomes(t) for t in resumed.trials()] == [outcomes(t) for t in whole.trials()]
    assert (
        max(t.attempts for t in resumed.trials()) <= 4
    )  # a rung is not begun again for the one before
    assert [f.name for f in files(resumed)] == [f.name for f in files(whole)]


class FailsInTheSecondRung(keras.callbacks.Callback):
    """In the first execution of each trial, at epoch 2; of no consequence to the second."""

    reads_weights = False

    def __init__(self, k):
        super().__init__()
        self.k = k

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and self.k == 0:
            raise RuntimeError("nothing to see")


@pytest.mark.slow
@on_jax
def test_what_fails_when_promoted_leaves_the_records_of_a_lone_run(data, tmp_path):
    """The second execution stands where it stood, since alone it would not have gone on."""
    run = {"callbacks": lambda model, trial, k: [FailsInTheSecondRung(k)]}
    for way in ("off", "auto"):
        real(Hyperband, tmp_path / way, data, factor=2, population=way, run=run)
    kept = {}
    for way in ("off", "auto"):
        trials = Experiment(tmp_path / way / "p").trials()
        kept[way] = [
            (t.id, t.state, [len(e.history()) for e in t.executions()], len(t.scores))
            for t in trials
        ]
    assert kept["auto"] == kept["off"]
    assert ("failed", [1, 1]) in [(state, lengths) for _, state, lengths, _ in kept["off"]]


@pytest.mark.slow
def test_what_stops_early_in_a_rung_is_over(data, tmp_path, monkeypatch):
    """With the patience of one epoch; promoted, it has nothing more to do, and competes as it is."""
    from bpfree.tuning import execution

    def stopping(regime, model):
        return [keras.callbacks.EarlyStopping("val_loss", mode="min", min_delta=10.0, patience=1)]

    monkeypatch.setattr(execution, "early_stopping", stopping)
    experiment = real(Hyperband, tmp_path, data, factor=2)
    assert {t.state for t in experiment.trials()} == {"completed"}
    # The first epoch is the best by 10; the second is one too many.
    assert {len(e.history()) for t in experiment.trials() for e in t.executions()} <= {1, 2}
    again = real(Hyperband, tmp_path, data, factor=2)
    assert [outcomes(t) for t in again.trials()] == [outcomes(t) for t in experiment.trials()]
