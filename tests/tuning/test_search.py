"""GridSearch from Python: what it trains, records, refuses, reuses and does not do twice."""

import itertools
import json
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from formula import DATA, hypermodel, trained
from measured import MEASURED

import bpfree
from bpfree.errors import DiskError, UserError
from bpfree.tuning import GridSearch, space
from bpfree.tuning.hypermodel import HyperModel

SEED, EPOCHS, EXECUTIONS = 7, 2, 2
# Without XLA, JAX would run step by step; on TensorFlow compiling takes longer than these runs.
ON_JAX = keras.backend.backend() == "jax"


@pytest.fixture(scope="module")
def data():
    return bpfree.data.load("digits", examples_frac=0.2, seed=0)


def compiled(units=6, lr=0.01, metrics=("accuracy",)):
    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(units, activation="tanh"), layers.Dense(10)]
    )
    model.compile(
        keras.optimizers.SGD(lr, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
    )
    return model


class Build:
    """A user's plain `build(hp)`, which counts its calls and the seeds that it was given."""

    def __init__(self, rates=(0.03, 0.003)):
        self.rates = list(rates)
        self.seeds = []

    def __call__(self, hp):
        self.seeds.append(hp.values.get("seed"))
        return compiled(lr=hp.Choice("lr", self.rates))


def tuner(build, folder, **options):
    defaults = {"executions_per_trial": EXECUTIONS, "seed": SEED, "verbose": 0}
    return GridSearch(build, directory=folder, project_name="p", **{**defaults, **options})


@pytest.fixture(scope="module")
def search(data, tmp_path_factory):
    """A finished search for the largest validation accuracy."""
    folder, build = tmp_path_factory.mktemp("search"), Build()
    made = tuner(build, folder, objective="val_accuracy")
    made.search(data, epochs=EPOCHS)
    return SimpleNamespace(tuner=made, build=build, folder=folder, project=folder / "p")


def histories(project):
    """history.csv by trial index and execution, read by pandas alone."""
    files = sorted(project.glob("trials/*/execution-*/history.csv"))
    key = [(int(f.parts[-3].split("-")[0]), int(f.parts[-2].split("-")[1])) for f in files]
    return dict(zip(key, map(pd.read_csv, files), strict=True))


def contents(folder):
    """Every file's bytes and time of change."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(project):
    """history.csv and result.json, without time, memory and energy that they took, by their place."""
    found = {}
    for path in sorted(project.glob("trials/*/execution-*/*")):
        if path.name == "history.csv":
            found[path.relative_to(project)] = path.read_bytes()
        if path.name == "result.json":
            result = json.loads(path.read_text())
            assert result["seconds"] > 0
            result = {key: value for key, value in result.items() if key not in MEASURED}
            found[path.relative_to(project)] = result
    return found


def trial_records(project):
    return [json.loads(path.read_text()) for path in sorted(project.glob("trials/*/trial.json"))]


def test_results_have_a_row_per_execution(search):
    frame = search.tuner.results()
    assert len(frame) == 2 * EXECUTIONS
    assert sorted(frame["lr"]) == [0.003, 0.003, 0.03, 0.03]
    assert set(frame["state"]) == {"completed"}
    assert sorted(frame["seed"]) == [SEED, SEED, SEED + 1, SEED + 1]


def test_only_the_best_trial_keeps_its_weights(search, data):
    """Also after the search is called again, which meets the finished trials once more."""
    scores = {record["id"]: record["score"] for record in trial_records(search.project)}
    best = max(scores, key=scores.get)
    for _ in range(2):
        kept = sorted(path.parts[-3] for path in search.project.glob("trials/*/*/best.weights.npz"))
        assert kept == [best] * EXECUTIONS
        search.tuner.search(data, epochs=EPOCHS)


def test_scores_are_means_of_each_execution_at_its_best_epoch(search):
    table = histories(search.project)
    assert set(table) == {(trial, k) for trial in range(2) for k in range(EXECUTIONS)}
    for trial, record in enumerate(trial_records(search.project)):
        best = [table[trial, k]["val_accuracy"].max() for k in range(EXECUTIONS)]
        assert record["scores"] == best
        assert record["score"] == pytest.approx(np.mean(best), rel=1e-12)


def test_executions_differ_and_trials_share_their_seeds(search):
    table = histories(search.project)
    assert not table[0, 0].equals(table[0, 1])
    # Before Keras Tuner knew the space it built models without a seed.
    assert [seed for seed in search.build.seeds if seed is not None] == [SEED, SEED + 1] * 2


def test_the_largest_accuracy_is_the_best(search):
    by_rate = {r["hyperparameters"]["lr"]: r["score"] for r in trial_records(search.project)}
    assert len(set(by_rate.values())) == 2
    best = max(by_rate, key=by_rate.get)
    first, second = search.tuner.get_best_hyperparameters(2)
    assert (first["lr"], second["lr"]) == (best, ({0.03, 0.003} - {best}).pop())


def test_best_model_has_the_recorded_metric(search, data):
    (model,) = search.tuner.get_best_models()
    x = (data.x_val.astype("float32") - 127.5) / 127.5
    scores = model.predict(x, verbose=0)
    accuracy = np.mean(scores.argmax(1) == data.y_val)
    best = max(trial_records(search.project), key=lambda r: r["score"])
    assert accuracy == pytest.approx(max(best["scores"]), abs=1e-6)


def test_a_finished_search_does_nothing_again(search, data):
    before = contents(search.project)
    build = Build()
    again = tuner(build, search.folder, objective="val_accuracy")
    again.search(data, epochs=EPOCHS)
    after = contents(search.project)
    after.pop(search.project / "lock"), before.pop(search.project / "lock")
    assert after == before
    assert set(build.seeds) <= {None}
    best = search.tuner.get_best_hyperparameters()[0]["lr"]
    assert again.get_best_hyperparameters()[0]["lr"] == best


@pytest.mark.parametrize(
    ("named", "options", "run"),
    [
        ("seed", {"seed": SEED + 1}, {}),
        ("executions_per_trial", {"executions_per_trial": 3}, {}),
        ("epochs", {}, {"epochs": EPOCHS + 1}),
        ("batch_size", {}, {"batch_size": 16}),
        ("lr is .* there and .* here[)]", {"hypermodel": Build([0.03, 0.003, 0.3])}, {}),
        ("score", {"score": "last"}, {}),
        ("dropout", {}, {"settings": {"dropout": 0.5}}),
    ],
)
def test_another_configuration_is_refused_by_name(search, data, named, options, run):
    before = contents(search.project)
    build = options.pop("hypermodel", Build()) if "hypermodel" in options else Build()
    with pytest.raises(UserError, match=named) as refused:
        other = tuner(build, search.folder, **{"objective": "val_accuracy", **options})
        other.search(data, **{"epochs": EPOCHS, **run})
    assert "\n" not in str(refused.value)
    assert contents(search.project) == before


def test_same_seed_same_numbers_elsewhere_and_after_an_interruption(search, data, tmp_path):
    """The second search is interrupted in its third execution and goes on from there."""

    class Stop(keras.callbacks.Callback):
        seen = itertools.count(1)

        def on_epoch_begin(self, epoch, logs=None):
            if next(self.seen) == 6:
                raise KeyboardInterrupt

    first = tuner(Build(), tmp_path, objective="val_accuracy")
    with pytest.raises(KeyboardInterrupt):
        first.search(data, epochs=EPOCHS, callbacks=lambda model, trial, k: [Stop()])
    states = [record["state"] for record in trial_records(tmp_path / "p")]
    assert states == ["completed", "running"]
    build = Build()
    tuner(build, tmp_path, objective="val_accuracy").search(data, epochs=EPOCHS)
    assert [seed for seed in build.seeds if seed is not None] == [SEED, SEED + 1]
    assert records(tmp_path / "p") == records(search.project)


def formulaic(folder, trainings):
    """A search of one trial, which may take so many epochs."""
    kind = trained(GridSearch, lambda values, epoch: values["lr"] / epoch, trainings)
    model = hypermodel(EPOCHS, algorithm=["bp"], lr=[0.1])
    return kind(model, "val_loss", folder, "p", EXECUTIONS, population="off", verbose=0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "spoil", "trainings"),
    [
        ("result.json", lambda content: content[:30], 0),  # it follows from the history
        ("history.csv", lambda content: content.splitlines()[0] + b"\n", EPOCHS),
        ("history.csv", lambda content: content[:-9], EPOCHS),
        ("history.csv", lambda content: b"\xff\x00\xfe" * 20, EPOCHS),
        ("history.csv", lambda content: b"", EPOCHS),
    ],
)
def test_a_spoilt_file_of_a_finished_execution_is_made_again(name, spoil, trainings, tmp_path):
    formulaic(tmp_path, EXECUTIONS * EPOCHS).search(DATA, epochs=EPOCHS)
    (file,) = tmp_path.glob(f"p/trials/*/execution-1/{name}")
    whole = histories(tmp_path / "p")
    file.write_bytes(spoil(file.read_bytes()))
    again = formulaic(tmp_path, trainings)
    with pytest.warns(UserWarning, match=f"{name} is spoilt: set aside"):
        again.search(DATA, epochs=EPOCHS)
    assert [*again.leaderboard()["mean"]] == [pytest.approx(0.1 / EPOCHS)]
    assert all(frame.equals(whole[key]) for key, frame in histories(tmp_path / "p").items())
    assert set(again.results()["finished"]) == {True}


@pytest.mark.once
def test_spoilt_weights_are_trained_again(data, tmp_path):
    build = Build([0.01])
    tuner(build, tmp_path).search(data, epochs=EPOCHS)
    whole = records(tmp_path / "p")
    files = [*tmp_path.glob("p/trials/*/execution-*/best.weights.npz")]
    weights = [np.load(file)["0"] for file in files]
    assert len(files) == EXECUTIONS
    for file in files:
        file.write_bytes(file.read_bytes()[:-99])
    again = tuner(build, tmp_path)
    with pytest.raises(UserError, match="is spoilt: search again"):
        again.get_best_models()
    with pytest.warns(UserWarning, match="best.weights.npz is spoilt: set aside"):
        again.search(data, epochs=EPOCHS)
    assert again.leaderboard(data, by="lr")["test_loss"].notna().all()
    assert records(tmp_path / "p") == whole
    for file, values in zip(files, weights, strict=True):
        np.testing.assert_array_equal(np.load(file)["0"], values)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "epochs"), [({"lr": [0.2]}, EPOCHS), ({"seed": 1}, EPOCHS), ({}, EPOCHS + 1)]
)
def test_without_its_configuration_an_experiment_still_tells_another_one(options, epochs, tmp_path):
    formulaic(tmp_path, EXECUTIONS * EPOCHS).search(DATA, epochs=EPOCHS)
    file = tmp_path / "p" / "experiment.json"
    file.write_text(file.read_text()[:99])
    seed, rates = options.get("seed", 0), options.get("lr", [0.1])
    other = GridSearch(
        hypermodel(epochs, algorithm=["bp"], lr=rates),
        directory=tmp_path,
        project_name="p",
        executions_per_trial=EXECUTIONS,
        seed=seed,
    )
    with pytest.warns(UserWarning, match="is spoilt"), pytest.raises(UserError, match="is lost"):
        other.search(DATA, epochs=epochs)
    formulaic(tmp_path, 0).search(DATA, epochs=EPOCHS)
    assert "configuration" in json.loads(file.read_text())


@pytest.mark.once
def test_a_lost_result_of_an_execution_that_stopped_early_is_trained_again(tmp_path):
    formulaic(tmp_path, EXECUTIONS * EPOCHS).search(DATA, epochs=EPOCHS)
    (file,) = tmp_path.glob("p/trials/*/execution-1/result.json")
    file.write_text("{")
    history = file.with_name("history.csv")
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:EPOCHS]))
    again = formulaic(tmp_path, EPOCHS)
    with pytest.warns(UserWarning, match="result.json is spoilt"):
        again.search(DATA, epochs=EPOCHS)
    assert set(again.results()["finished"]) == {True}


def moody(hp):
    kind = hp.Choice("kind", ["good", "raises", "explodes", "fine"])
    if kind == "raises" and "seed" in hp.values:
        raise RuntimeError("no such layer today")
    return compiled(lr=float("nan") if kind == "explodes" else 0.01)


@pytest.mark.once
def test_failures_are_recorded_and_the_others_complete(data, tmp_path):
    made = tuner(moody, tmp_path, executions_per_trial=1)
    made.search(data, epochs=EPOCHS)
    good, raises, explodes, fine = trial_records(tmp_path / "p")
    assert (good["state"], fine["state"]) == ("completed", "completed")
    assert (raises["state"], explodes["state"]) == ("failed", "failed")
    assert "Traceback" in raises["failure"]
    assert "RuntimeError: no such layer today" in raises["failure"]
    assert "loss is" in explodes["failure"]
    before = contents(tmp_path / "p" / "trials")
    tuner(moody, tmp_path, executions_per_trial=1).search(data, epochs=EPOCHS)
    assert contents(tmp_path / "p" / "trials") == before
    assert made.get_best_hyperparameters()[0]["kind"] in ("good", "fine")


@pytest.mark.once
def test_an_objective_that_is_not_logged_is_one_sentence(data, tmp_path):
    """It names what there is, and no further trial is begun: none could have it."""
    made = tuner(Build(), tmp_path, objective="val_acuracy", executions_per_trial=1)
    with pytest.raises(UserError, match="'val_acuracy' is not logged.*val_accuracy"):
        made.search(data, epochs=1)
    (record,) = trial_records(tmp_path / "p")
    assert record["failure"] is None


@pytest.mark.once
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143), DiskError("full")])
def test_a_trial_does_not_die_of_what_it_was_stopped_for(stop, tmp_path):
    """Before its first epoch's end, again and again: by a queue's TERM, or on a disk that stays full."""
    full = [True]

    def course(values, epoch):
        if full[0]:
            raise stop
        return values["lr"]

    def search():
        kind = trained(GridSearch, course)
        model = hypermodel(EPOCHS, algorithm=["bp"], lr=[0.1])
        place = {"directory": tmp_path, "project_name": "p", "population": "off"}
        tuner = kind(model, executions_per_trial=EXECUTIONS, verbose=0, **place)
        tuner.search(DATA, epochs=EPOCHS)

    for _ in range(6):
        with pytest.raises(type(stop)):
            search()
    (record,) = trial_records(tmp_path / "p")
    assert (record["state"], record["attempts"]) == ("running", 6)
    full[0] = False
    search()
    (record,) = trial_records(tmp_path / "p")
    assert (record["state"], record["deaths"], record["score"]) == ("completed", 0, 0.1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"executions_per_trial": 0}, "executions_per_trial"),
        ({"score": "median"}, "median"),
        ({"keep_weights": "none"}, "keep_weights"),
        ({"objective": []}, "objective"),
    ],
)
def test_impossible_arguments(options, word, tmp_path):
    with pytest.raises(UserError, match=word):
        tuner(Build(), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_objectives_know_their_direction():
    from bpfree.tuning.objective import direction

    larger = ("val_accuracy", "accuracy", "auc", "val_precision", "bp_cosine/block_1")
    smaller = ("val_loss", "loss", "val_error", "mean_squared_error")
    assert {direction(name) for name in larger} == {"max"}
    assert {direction(name) for name in smaller} == {"min"}


# -- one program for several trials -----------------------------------------------------------


class Counted(bpfree.rules.Rule):
    """Learns in the head alone; counts how often its surrogates are traced."""

    name = "counted-in-test-search"
    traces = 0

    def surrogates(self, trace):
        type(self).traces += 1
        return [0.0 * keras.ops.sum(h) for h in trace.activations]


def sweep(data, **given):
    small = {"arch": ["8-6"], "activation": ["tanh"], "batch_norm": [True], "batch_size": [32]}
    choices = space.choices({**small, **given}, "classification", "val_loss")
    return HyperModel(data.input_shape, 10, choices, EPOCHS, len(data.x_train), use_xla=ON_JAX)


class Unshared(HyperModel):
    """Every model is a program of its own."""

    def program(self, values, fresh=itertools.count()):  # noqa: B008
        return {"number": next(fresh)}


VARYING = {"algorithm": ["dfa"], "bw_init": ["ortho"], "lr": [0.01, 0.001], "reg_rate": [0.1, 0.5]}


@pytest.mark.slow
def test_a_shared_program_changes_no_number(data, tmp_path):
    """Against every model alone, the second seed's: none of them was ever the first of a program."""
    options = {"max_trials": 3, "population": "off"}
    shared = tuner(sweep(data, **VARYING), tmp_path / "shared", **options)
    shared.search(data, epochs=EPOCHS)
    model = sweep(data, **VARYING)
    model.__class__ = Unshared
    options |= {"seed": SEED + 1, "executions_per_trial": 1}
    alone = tuner(model, tmp_path / "alone", **options)
    alone.search(data, epochs=EPOCHS)

    def history(trial, k):
        return trial.execution(k).history_file.read_bytes()

    found = {trial.id: history(trial, 1) for trial in shared.experiment.trials()}
    assert found == {trial.id: history(trial, 0) for trial in alone.experiment.trials()}
    assert len(set(found.values())) == 3


def test_what_differs_in_values_alone_is_traced_once(data, tmp_path):
    """Two learning rates, two dropout rates and two seeds; another optimizer is traced again."""
    model = sweep(data, **{**VARYING, "algorithm": [Counted.name], "optimizer": ["sgd", "adam"]})
    model.admissible = lambda values: values["lr"] == 0.01 or values["reg_rate"] == 0.1
    made, seen = tuner(model, tmp_path, population="off"), []

    def note(model, trial, k):
        seen.append(Counted.traces)
        return ()

    Counted.traces = 0
    made.search(data, epochs=1, callbacks=note)
    assert len(seen) == 2 * 3 * EXECUTIONS
    changes = np.diff([*seen, Counted.traces])
    assert [int(i) for i in np.flatnonzero(changes)] == [0, 3 * EXECUTIONS]
