"""Tables from files: finished, running, failed and damaged experiments."""

import math
import subprocess
import sys
import textwrap

import pandas as pd
import pytest

from bpfree.errors import UserError
from bpfree.reporting import histories, leaderboard, results
from bpfree.tuning.failures import reason
from bpfree.tuning.records import Experiment, write_json

pytestmark = pytest.mark.once

CONFIGURATION = {
    "dataset": "digits", "objective": "val_error", "score": "best", "seed": 9,
    "num_epochs": 3, "lr": [0.1, 0.01], "use_xla": True, "reg": None,
}  # fmt: skip


def train(trial, k, errors, finish=True, test=None):
    execution = trial.execution(k)
    for epoch, error in enumerate(errors, 1):
        execution.append({"epoch": epoch, "loss": error / 10, "val_error": error})
    best = min(range(len(errors)), key=errors.__getitem__)
    if finish:
        metrics = {"loss": errors[best] / 10, "val_error": errors[best]}
        execution.finish(
            {"score": errors[best], "best_epoch": best + 1, "epochs": len(errors), "seed": 40 + k,
             "metrics": metrics, "seconds": 1.0}
        )  # fmt: skip
    if test is not None:
        write_json(execution.test_file, test)


@pytest.fixture
def runs(tmp_path):
    """Project a: two trials completed, one running, one failed twice over; project b: one trial."""
    a = Experiment(tmp_path / "runs" / "a")
    a.open(CONFIGURATION, {"direction": "min"})
    good, bad, running, failed, stillborn = (
        a.trial(i, {"algorithm": rule, "lr": lr, "seeds": [1]})
        for i, (rule, lr) in enumerate(
            [("dfa", 0.1), ("dfa", 0.01), ("bp", 0.1), ("bp", 0.01), ("drtp", 0.1)]
        )
    )
    train(good, 0, [5.0, 2.0, 3.0], test={"error": 2.5})
    train(good, 1, [5.0, 3.0], test={"test_error": 3.5})
    good.complete(2.5, [2.0, 3.0])
    train(bad, 0, [5.0, 4.0, 4.5])
    bad.complete(4.0, [4.0])
    running.begin()
    train(running, 0, [7.0, 1.0])
    train(running, 1, [6.0], finish=False)
    failed.begin()
    train(failed, 0, [6.0], finish=False)
    failed.fail("Traceback (most recent call last):\n  File x\nValueError: no such thing\n")
    stillborn.fail("MemoryError")
    b = Experiment(tmp_path / "runs" / "b")
    b.open({**CONFIGURATION, "objective": "val_accuracy", "dataset": "mnist"})
    only = b.trial(0, {"algorithm": "bp", "activation": "tanh", "lr": 0.5})
    train(only, 0, [1.0])
    only.complete(1.0, [1.0])
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_one_row_per_execution_in_order(runs):
    frame = results(runs)
    places = frame[["project", "index", "execution"]].to_numpy(object, na_value=None).tolist()
    assert places == [
        ["a", 0, 0], ["a", 0, 1], ["a", 1, 0], ["a", 2, 0], ["a", 2, 1], ["a", 3, 0],
        ["a", 4, None], ["b", 0, 0],
    ]  # fmt: skip
    assert frame["finished"].tolist() == [True, True, True, True, False, False, False, True]
    completed, running, failed = ["completed"], ["running"], ["failed"]
    assert frame["state"].tolist() == completed * 3 + running * 2 + failed * 2 + completed


def test_the_columns_come_in_a_reader_s_order(runs):
    assert list(results(runs)) == [
        "project", "trial", "index", "execution", "state", "finished",
        "algorithm", "lr", "seeds", "activation",
        "dataset", "objective", "num_epochs", "use_xla", "reg",
        "seed", "score", "trial_score", "epochs", "best_epoch",
        "seconds", "train_flops", "energy", "peak_host_memory", "peak_device_memory", "idle_power",
        "loss", "val_error", "test_error", "failure",
    ]  # fmt: skip


def test_a_finished_execution_has_everything(runs):
    row = results(runs).iloc[0].to_dict()
    expected = {
        "project": "a", "state": "completed", "algorithm": "dfa", "lr": 0.1, "seeds": "[1]",
        "dataset": "digits", "num_epochs": 3, "seed": 40, "score": 2.0, "trial_score": 2.5,
        "epochs": 3, "best_epoch": 2, "loss": 0.2, "val_error": 2.0, "test_error": 2.5,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert pd.isna(row["failure"]) and pd.isna(row["activation"])
    assert results(runs)["test_error"].tolist()[:2] == [2.5, 3.5]


def test_costs_are_numbers_and_missing_where_they_were_not_measured(runs):
    execution = Experiment(runs / "a").trials()[0].execution(0)
    costs = {"train_flops": 12_000_000_000, "energy": 5.5, "peak_host_memory": "spoilt"}
    write_json(execution.result_file, {**execution.result(), **costs})
    frame = results(runs)
    assert frame["seconds"].dropna().tolist() == [1.0] * 5
    assert frame["train_flops"].dropna().tolist() == [1.2e10]
    assert frame["energy"].dropna().tolist() == [5.5]
    for name in ("idle_power", "peak_host_memory", "peak_device_memory"):
        assert frame[name].dtype == float and frame[name].isna().all()


def test_an_unfinished_execution_lacks_what_is_not_known_yet(runs):
    row = results(runs).iloc[4]
    assert (row["epochs"], row["algorithm"]) == (1, "bp")
    assert row[["seed", "score", "trial_score", "best_epoch", "loss", "val_error"]].isna().all()


WRAPPED = """Traceback (most recent call last):
  File "learner.py", line 1, in call
RuntimeError: Exception encountered when calling Learner.call().

\x1b[1mit is broken\x1b[0m

Arguments received by Learner.call():
  • inputs=('tensor', 'tensor')
  • training=True
"""


@pytest.mark.parametrize(
    ("traceback", "expected"),
    [
        (WRAPPED, "RuntimeError: it is broken"),
        ("Traceback\n  File x\nValueError: no such thing\n", "ValueError: no such thing"),
        ("MemoryError", "MemoryError"),
        ("", None),
        (None, None),
    ],
)
def test_the_reason_of_a_failure(traceback, expected):
    assert reason(traceback) == expected


def test_a_failure_is_shown_by_its_last_line(runs):
    frame = results(runs)
    assert frame["failure"].dropna().tolist() == ["ValueError: no such thing", "MemoryError"]
    assert frame["epochs"].tolist()[5:7] == [1, 0]


def test_whole_numbers_stay_whole(runs):
    frame = results(runs)
    for name in ("index", "execution", "seed", "epochs", "best_epoch", "num_epochs"):
        assert pd.api.types.is_integer_dtype(frame[name]), name


def test_a_single_project_may_be_given(runs, monkeypatch):
    assert results(runs / "b")["project"].tolist() == ["b"]
    monkeypatch.chdir(runs / "b")
    assert results(".")["project"].tolist() == ["b"]


def test_histories_have_a_row_per_epoch(runs):
    frame = histories(str(runs))
    assert list(frame)[:5] == ["project", "trial", "index", "execution", "epoch"]
    epochs = [1, 2, 3, 1, 2, 1, 2, 3, 1, 2, 1, 1, 1]
    assert frame["epoch"].tolist() == epochs
    order = ["project", "index", "execution", "epoch"]
    pd.testing.assert_frame_equal(frame, frame.sort_values(order))
    assert frame["val_error"].tolist()[:5] == [5.0, 2.0, 3.0, 5.0, 3.0]
    assert frame["algorithm"].tolist()[8:] == ["bp"] * 5
    assert frame["dataset"].tolist() == ["digits"] * 12 + ["mnist"]


def test_a_metric_that_turned_up_late_is_missing_before(tmp_path):
    execution = Experiment(tmp_path).trial(0, {}).execution(0)
    execution.append({"epoch": 1, "loss": 1.0})
    execution.append({"epoch": 2, "loss": math.inf, "val_loss": 2.0})
    frame = histories(tmp_path)
    assert frame["loss"].tolist() == [1.0, math.inf]
    assert pd.isna(frame["val_loss"][0]) and frame["val_loss"][1] == 2.0


def test_damage_is_survived_and_left_for_its_owner(runs):
    [trial] = (runs / "a" / "trials").glob("0000-*")
    with open(trial / "execution-0" / "history.csv", "a") as file:
        file.write("4,0.")
    (trial / "execution-1" / "result.json").write_text('{"score": 3')
    (runs / "b" / "experiment.json").write_text("")
    with pytest.warns(UserWarning, match="spoilt: taken as missing"):
        frame = results(runs)
    assert frame["finished"].tolist()[:2] == [True, False]
    assert frame["epochs"].tolist()[:2] == [3, 2]
    assert pd.isna(frame["dataset"].iloc[-1])
    assert not list(runs.rglob("*.corrupt*"))


def test_an_experiment_that_has_only_begun_has_empty_frames(tmp_path):
    Experiment(tmp_path).open(CONFIGURATION)
    for frame in (results(tmp_path), histories(tmp_path)):
        assert frame.empty and {"project", "trial", "execution"} <= set(frame)


@pytest.mark.parametrize("table", [results, histories, leaderboard])
def test_no_experiment_gets_a_sentence(tmp_path, table, monkeypatch):
    with pytest.raises(UserError, match=r"There is no folder '.*/x': give [^.]*\.$"):
        table(tmp_path / "x")
    with pytest.raises(UserError, match=r"holds no experiment: give [^\n]*\.$"):
        table(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^'' holds no experiment"):
        table("")


def test_the_leaderboard_holds_each_rules_best_trial(runs):
    board = leaderboard(runs)
    assert board["project"].tolist() == ["a", "b"]  # bp and drtp completed no trial in a
    first = board.iloc[0]
    assert (first["algorithm"], first["lr"], first["n"]) == ("dfa", 0.1, 2)
    assert (first["mean"], first["objective"]) == (2.5, "val_error")
    std, t = math.sqrt(0.5), 12.7062047364  # of 2 and 3; the table's value for 1 degree of freedom
    assert first["std"] == pytest.approx(std, rel=1e-12)
    assert first["interval"] == pytest.approx(t * std / math.sqrt(2), rel=1e-9)
    assert first["summary"] == "2.50 ± 6.35 (n=2)"
    assert first["test_error"] == 3.0
    assert first["test_error_interval"] == pytest.approx(t * std / math.sqrt(2), rel=1e-9)
    assert "seeds" not in board and "activation" not in board  # they do not vary
    assert board.iloc[1]["n"] == 1 and pd.isna(board.iloc[1]["interval"])


def sweep(folder, scores, configuration, about):
    experiment = Experiment(folder)
    experiment.open(configuration, about)
    for index, (rule, score) in enumerate(scores):
        trial = experiment.trial(index, {"algorithm": rule, "lr": float(index)})
        trial.execution(0).finish({"score": score, "metrics": {}})
        trial.complete(score, [score])


SCORES = [("bp", 3.0), ("bp", math.nan), ("dfa", 1.0), ("dfa", 2.0), ("ll", math.nan), ("fa", 2.5)]


@pytest.mark.parametrize(
    ("configuration", "about", "direction"),
    [
        ({}, {"direction": "min"}, "min"),
        ({"objective": "val_loss"}, {"direction": "max"}, "max"),
        ({"objective": "x", "direction": "max"}, {}, "max"),
        ({"objective": {"name": "x", "direction": "max"}}, {}, "max"),
        ({"objective": "val_accuracy"}, {}, "max"),
        ({"objective": "val_error"}, {}, "min"),
        ({}, {}, "min"),
    ],
)
def test_the_direction_decides_what_is_best_and_nan_never_is(
    tmp_path, configuration, about, direction
):
    sweep(tmp_path, SCORES, configuration, about)
    board = leaderboard(tmp_path)
    expected = {"min": ["dfa", "fa", "bp", "ll"], "max": ["bp", "fa", "dfa", "ll"]}[direction]
    assert board["algorithm"].tolist() == expected
    best = board.set_index("algorithm")["mean"]
    assert best["dfa"] == {"min": 1.0, "max": 2.0}[direction] and best["bp"] == 3.0


def test_the_leaderboard_can_rank_something_else(tmp_path):
    sweep(tmp_path, SCORES[:1], {}, {})
    assert leaderboard(tmp_path, by="lr")["lr"].tolist() == [0.0]
    with pytest.raises(UserError, match=r"no column 'arch': choose one of project, trial.*lr.*\.$"):
        leaderboard(tmp_path, by="arch")


def test_a_leaderboard_without_a_completed_trial_gets_a_sentence(tmp_path):
    Experiment(tmp_path).trial(0, {"algorithm": "bp"}).fail("x")
    with pytest.raises(UserError, match=r"No trial is completed yet[^.]*\.$"):
        leaderboard(tmp_path)


def test_reporting_loads_no_training_code(runs):
    code = f"""
        import sys
        import bpfree.reporting
        assert "pandas" not in sys.modules and "matplotlib" not in sys.modules
        bpfree.reporting.leaderboard({str(runs)!r})
        frame = bpfree.reporting.histories({str(runs)!r})
        bpfree.reporting.plot_histories(frame)
        heavy = "keras tensorflow jax keras_tuner matplotlib.pyplot bpfree.rules bpfree.learner"
        print([name for name in heavy.split() if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
