"""Pareto fronts against the definition, trial by trial; and where they are shown."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bpfree.cli import conclusion
from bpfree.errors import UserError
from bpfree.reporting import page, pareto, pareto_front
from bpfree.reporting.page import tables
from bpfree.reporting.page.project import Project
from bpfree.tuning.records import Experiment, write_json

pytestmark = pytest.mark.once

HOSTILE = "<b onload=x>dfa</b>"
AIMS = {"val_error": "min", "speed": "max", "seconds": "min"}
CONFIGURATION = {
    "objective": "val_error", "problem_type": "classification",
    "further_objectives": [{"name": "speed", "direction": "max"}, "seconds"],
}  # fmt: skip


def bettered(one, other, directions):
    """Whether the other is as good in all objectives and better in one."""
    pairs = list(zip(one, other, directions, strict=True))
    at_least = all(b >= a if way == "max" else b <= a for a, b, way in pairs)
    return at_least and any(b > a if way == "max" else b < a for a, b, way in pairs)


def by_definition(rows, directions):
    """The places of the rows that no other row betters, the best first objective first."""
    kept = [
        place
        for place, row in enumerate(rows)
        if not any(bettered(row, other, directions) for other in rows)
    ]
    sign = -1 if directions[0] == "max" else 1
    return sorted(kept, key=lambda place: sign * rows[place][0])


def frame_of(rows, names):
    """`results` of trials with two executions each, whose means are the rows."""
    return pd.DataFrame(
        [
            {"project": "p", "algorithm": "bp", "trial": f"{index:04d}", "score": row[0] + delta}
            | {name: value + delta for name, value in zip(names, row, strict=True)}
            for index, row in enumerate(rows)
            for delta in (-0.25, 0.25)
        ]
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_that_of_the_definition(seed):
    """Few values, so that there are ties and equals; every direction."""
    generator = np.random.default_rng(seed)
    names = [f"m{n}" for n in range(generator.integers(1, 4))]
    directions = generator.choice(["min", "max"], len(names)).tolist()
    rows = generator.integers(0, generator.integers(2, 9), (25, len(names))).tolist()
    further = [{"name": n, "direction": d} for n, d in zip(names[1:], directions[1:], strict=True)]
    configuration = {"objective": names[0], "further_objectives": further}
    record = {"direction": directions[0], "configuration": configuration}
    found = pareto.front(frame_of(rows, names), record, [])
    expected = by_definition(rows, directions)
    assert sorted(found["trial"]) == [f"{place:04d}" for place in sorted(expected)]
    assert found[names[0]].tolist() == [rows[place][0] for place in expected]
    for row in found.to_dict("records"):
        assert [row[name] for name in names] == rows[int(row["trial"])]


# -- files --------------------------------------------------------------------------------------

# Algorithm, lr, then error, speed and seconds of each execution.
TRIALS = [
    ("bp", 0.1, [(3.0, 5.0, 20.0), (5.0, 5.0, 20.0)]),  # on the front: 4, 5, 20
    (HOSTILE, 0.1, [(2.0, 1.0, 30.0), (2.0, 1.0, 32.0)]),  # least error: 2, 1, 31
    ("bp", 0.2, [(4.0, 5.0, 21.0), (4.0, 5.0, 21.0)]),  # as the first, but slower
    (HOSTILE, 0.2, [(9.0, 9.0, 40.0), (9.0, 7.0, 40.0)]),  # greatest speed: 9, 8, 40
    ("bp", 0.3, [(8.0, 2.0, 9.0), (8.0, 2.0, 11.0)]),  # least seconds: 8, 2, 10
    ("bp", 0.4, [(1.0, 99.0, None), (1.0, 99.0, 1.0)]),  # not measured in one execution
    ("bp", 0.5, [(4.0, 5.0, 20.0), (4.0, 5.0, 20.0)]),  # equal to the first
]  # fmt: skip
ON = [1, 0, 6, 4, 3]


def write(folder, trials=TRIALS, configuration=CONFIGURATION):
    """The trials, one that failed and one that is running: both better than all."""
    project = Experiment(folder)
    project.open(configuration, {"direction": "min"})
    best = [("bp", 0.6, [(0.0, 100.0, 0.0)]), ("bp", 0.7, [(0.0, 100.0, 0.0)])]
    for index, (rule, lr, executions) in enumerate([*trials, *best]):
        trial = project.trial(index, {"algorithm": rule, "lr": lr, "arch": "8"})
        trial.begin()
        for k, (error, speed, seconds) in enumerate(executions):
            metrics = {"val_error": error, "loss": 1 / (1 + error), "speed": speed}
            execution = trial.execution(k)
            execution.append({"epoch": 1, **metrics})
            result = {"score": error, "best_epoch": 1, "epochs": 1, "seed": k, "metrics": metrics}
            execution.finish(result | ({} if seconds is None else {"seconds": seconds}))
        if index < len(trials):
            trial.complete(np.mean([e[0] for e in executions]), [e[0] for e in executions])
            write_json(trial.execution(0).test_file, {"error": 0.5})
        elif index == len(trials):
            trial.fail("MemoryError")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "p")


def test_the_table_of_the_recorded_objectives(project):
    front = pareto_front(project.path)
    assert list(front) == ["project", "algorithm", "trial", "lr", *AIMS]
    assert [int(trial[:4]) for trial in front["trial"]] == ON
    assert front["algorithm"].tolist() == [TRIALS[n][0] for n in ON]
    assert front["lr"].tolist() == [TRIALS[n][1] for n in ON]
    means = [np.mean(TRIALS[n][2], axis=0).tolist() for n in ON]
    assert front[[*AIMS]].to_numpy().tolist() == means
    assert set(front["project"]) == {"p"}


def test_others_may_be_named(project):
    front = pareto_front(project.path, ["seconds", "speed"])  # speed is to grow, as recorded
    assert [int(trial[:4]) for trial in front["trial"]] == [4, 0, 6, 3]
    assert list(front)[-2:] == ["seconds", "speed"]
    (best,) = pareto_front(project.path, ["loss"]).to_dict("records")  # which is least at error 9
    assert best["loss"] == pytest.approx(0.1) and best["lr"] == 0.2
    assert pareto_front(project.path, "val_error")["val_error"].tolist() == [1.0]
    assert pareto_front(project.path, ["val_error", "lr"])["lr"].tolist() == [0.4, 0.1]


def test_every_project_has_its_own(tmp_path):
    write(tmp_path / "a")
    one = {"objective": "val_error"}
    write(tmp_path / "b", TRIALS[:5], one)
    write(tmp_path / "c", [], one)
    front = pareto_front(tmp_path)
    assert front["project"].tolist() == ["a"] * 5 + ["b"]
    assert front["val_error"].tolist() == [2.0, 4.0, 4.0, 8.0, 9.0, 2.0]
    assert front["seconds"].isna().tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        (["val_error", "test_error"], "'test_error' is measured on the test set, by which nothing"),
        (["val_error", "val_eror"], "There is no column 'val_eror': choose one of .*val_error"),
        (["val_error", "energy"], "No completed trial of p has a value of energy, so there is no"),
        (["seconds", "algorithm"], "has a value of algorithm, so"),
    ],
)
def test_what_is_no_objective_gets_a_sentence(objectives, words, project):
    with pytest.raises(UserError, match=words) as refused:
        pareto_front(project.path, objectives)
    assert "\n" not in str(refused.value)


def test_no_experiment_and_no_completed_trial_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        pareto_front(tmp_path / "x")
    write(tmp_path / "p", [])
    with pytest.raises(UserError, match="No trial is completed yet"):
        pareto_front(tmp_path)


@pytest.mark.parametrize("further", [None, 5, "seconds", [3, None, {}, ["x"]], [{"name": 1}]])
def test_a_foreign_record_has_one_objective(further, tmp_path):
    write(tmp_path / "p", TRIALS[:2], {**CONFIGURATION, "further_objectives": further})
    assert pareto_front(tmp_path)["val_error"].tolist() == [2.0]


# -- the terminal -------------------------------------------------------------------------------


def concluded(project, objectives, monkeypatch, capsys):
    """What the end of a sweep prints."""
    monkeypatch.setattr(conclusion, "picture", lambda path: "curves.png")
    monkeypatch.setattr(conclusion, "Console", lambda **_: Console(soft_wrap=True, width=200))
    first, *further = (SimpleNamespace(name=name) for name in objectives)
    board = conclusion.reporting.leaderboard(project.path)
    tuner = SimpleNamespace(
        leaderboard=lambda data: board,
        experiment=project,
        oracle=SimpleNamespace(objective=first, further_objectives=tuple(further)),
    )
    conclusion.conclude(tuner, None, save_models=False)
    return capsys.readouterr().out


def test_the_conclusion_has_a_second_table(project, monkeypatch, capsys):
    said = concluded(project, AIMS, monkeypatch, capsys)
    first, second = said.split("No other trial is better in val_error, speed and seconds at once")
    assert "chosen by val_error" in first
    rows = [re.split(r" *│ *", line.strip("│ ")) for line in second.splitlines() if "│" in line]
    assert [(int(row[1][:4]), *row[2:]) for row in rows] == [
        (1, "0.1", "2", "1", "31"),
        (0, "0.1", "4", "5", "20"),
        (6, "0.5", "4", "5", "20"),
        (4, "0.3", "8", "2", "10"),
        (3, "0.2", "9", "8", "40"),
    ]


def test_brackets_in_a_rule_s_options_are_no_markup(project, capsys):
    """[relu] would vanish, and [/x] end the sweep with a traceback."""
    board = conclusion.reporting.leaderboard(project.path)
    board["algorithm"] = ["mine:a=[relu],b=[/x],c=:x:"] * len(board)
    conclusion._console().print(conclusion.table(board))
    assert "mine:a=[relu],b=[/x],c=:x:" in capsys.readouterr().out


def test_the_conclusion_of_one_objective_has_one_table(project, monkeypatch, capsys):
    assert "No other trial" not in concluded(project, ["val_error"], monkeypatch, capsys)


def test_the_conclusion_says_what_was_not_measured(tmp_path, monkeypatch, capsys):
    aims = ["val_error", "energy"]
    project = write(tmp_path / "p", configuration={**CONFIGURATION, "further_objectives": aims[1:]})
    said = concluded(project, aims, monkeypatch, capsys)
    assert "No completed trial of p has a value of energy, so there is no such Pareto" in said


# -- the page -----------------------------------------------------------------------------------


def section(html):
    """The text of the section on the front, and its rows of cells."""
    (found,) = re.findall(r"<h2>Pareto front</h2>(.*?)</section>", html, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
    return found, [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def test_the_page_has_the_same_table(project):
    found, (heads, *rows) = section(page.render([project.path]))
    assert "No other trial is better in validation error (%), speed and time at once." in found
    texts = [re.sub("<.*?>", "", head) for head in heads]
    assert texts == ["rule", "trial", "learning rate", "validation error (%)", "speed", "time"]
    assert all("<button" in head for head in heads)  # by which the others are sorted, too
    assert [int(row[1][:4]) for row in rows] == ON
    assert [row[3].split(" ±")[0] for row in rows] == ["2.00", "4.00", "4.00", "8.00", "9.00"]
    assert [row[5] for row in rows] == ["31 s", "20 s", "20 s", "10 s", "40 s"]
    assert re.findall(r'data-v="([^"]+)">(\d+) s', found)[0] == ("31.0", "31")
    assert "&lt;b onload" in found and "<b onload" not in found


def test_one_objective_has_no_such_section(tmp_path):
    project = write(tmp_path / "p", TRIALS[:2], {"objective": "val_error"})
    assert tables.front(Project(project)) is None


def test_the_page_says_what_was_not_measured(tmp_path):
    configuration = {**CONFIGURATION, "further_objectives": ["energy"]}
    found, rows = section(page.render([write(tmp_path / "p", TRIALS[:2], configuration).path]))
    assert "No completed trial of p has a value of energy" in found and not rows


def test_a_sweep_that_has_just_begun_has_no_such_section(tmp_path):
    assert "Pareto front</h2>" not in page.render([write(tmp_path / "p", []).path])


def test_the_page_of_a_record_without_rules(tmp_path):
    """Where a project's trials have no `algorithm`, as those of a notebook may."""
    project = Experiment(tmp_path / "p")
    project.open({"objective": "loss", "further_objectives": ["seconds"]})
    for index in range(3):
        trial = project.trial(index, {"units": index})
        trial.execution(0).finish({"score": 3.0 - index, "metrics": {}, "seconds": 1.0 + index})
        trial.complete(3.0 - index, [3.0 - index])
    front = pareto_front(project.path)
    assert list(front) == ["project", "trial", "units", "loss", "seconds"]
    assert front["units"].tolist() == [2, 1, 0]
    assert len(section(page.render([project.path]))[1]) == 4
