"""The report page: its numbers, its escaping, its honesty about what is missing, and a real browser."""

import asyncio
import base64
import gzip
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from scipy import stats

from bpfree.cli import answer, report
from bpfree.errors import UserError
from bpfree.reporting import page
from bpfree.tuning.records import Experiment, write_json

pytestmark = pytest.mark.once

HOSTILE = "</script><img src=x onerror=hacked=1><b>$$x$$"
RATES = [0.001, 0.01, 0.1]
CONFIGURATION = {
    "dataset": "digits", "problem_type": "classification", "objective": "val_error",
    "choices": {"lr": RATES, "algorithm": ["bp", "dfa", HOSTILE]}, "note": HOSTILE,
}  # fmt: skip
ABOUT = {
    "command": ["tune.py", f"--plugin={HOSTILE}"], "commit": "c0ffee-dirty", "direction": "min",
    "versions": {"keras": "3.15.1", "jax": None}, "trials": 14,
}  # fmt: skip
EPOCHS = 200


def course(rule, lr, seed):
    """Validation errors by epoch: bp is the best, and 0.1, the edge of the grid, its best rate."""
    level = {"bp": 2.0, "dfa": 3.0}.get(rule, 3.1) + 10 * abs(np.log10(lr) + 1)
    noise = np.random.default_rng([seed, len(rule), int(1e4 * lr)]).normal(0, 0.1, EPOCHS)
    return level + 0.3 * seed + 40 * np.exp(-np.arange(EPOCHS) / 20) + noise


def small(folder):
    """Two rules at one rate, with a history of two epochs: quickly drawn."""
    return sweep(folder, ("bp", "dfa"), archs=("50-50",), rates=(0.1,), epochs=2)


def costs(arch, k):
    """One layer costs a third of two; memory is not measured."""
    flops = 1_500_000 if arch == "50" else 4_500_000
    return {
        "seconds": 10.0 + k,
        "train_flops": flops,
        "energy": 2000.0 + 100 * k,
        "idle_power": 60.0,
    }


def sweep(
    folder,
    rules=("bp", "dfa", HOSTILE),
    archs=("50", "50-50"),
    rates=RATES,
    epochs=EPOCHS,
    tested=True,
):
    """Rules × architectures × rates with three seeds; trial 7 failed, and 8 is unfinished."""
    experiment = Experiment(folder)
    experiment.open(CONFIGURATION, ABOUT)
    grid = [(rule, arch, lr) for rule in rules for arch in archs for lr in rates]
    for index, (rule, arch, lr) in enumerate(grid):
        trial = experiment.trial(index, {"algorithm": rule, "arch": arch, "lr": lr})
        if index == 7:
            trial.fail(f"Traceback:\n{HOSTILE}\nDiverged: {HOSTILE}")
            continue
        trial.begin()
        scores = []
        for k in range(3):
            errors = course(rule, lr, k) + (arch == "50")
            execution = trial.execution(k)
            rows = [
                {"epoch": e, "loss": v / 50, "error": v / 2, "val_error": v, "bp_cosine/block_1": 1 / e,
                 "nhsic_x/block_1": e / 9, "nhsic_y/block_1": e / 7}
                for e, v in enumerate(errors[:epochs].tolist(), 1)
            ]  # fmt: skip
            execution._write(list(rows[0]), rows)
            best = int(errors.argmin())
            execution.finish(
                {"score": errors[best], "best_epoch": best + 1, "epochs": EPOCHS, "seed": 5 + k,
                 "metrics": {"val_error": errors[best]}, **costs(arch, k)}
            )  # fmt: skip
            scores.append(errors[best])
            if tested and (arch, lr) == ("50-50", 0.1):
                write_json(execution.test_file, {"error": errors[best] + 1})
        if index != 8:
            trial.complete(float(np.mean(scores)), scores)
    return experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("runs") / "project")


@pytest.fixture(scope="module")
def html(experiment):
    return page.render([experiment.path])


class Parsed(HTMLParser):
    """Tags with their attributes, tables as rows of texts, the text outside scripts, charts' data."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tables, self.texts, self.charts = [], [], [], []
        self.inside, self.in_cell = None, False
        self.feed(html)
        self.tables = [[[" ".join(c.split()) for c in row] for row in t] for t in self.tables]
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.inside = tag if tag in ("script", "style", "i") else None
        self.is_chart = attributes.get("type") == "application/json"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.inside = None
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside == "script" and self.is_chart:
            self.charts.append(json.loads(data))
        if self.inside is None:
            self.texts.append(data)
            if self.in_cell:
                self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def parsed(html):
    return Parsed(html)


def best_scores(rule, extra=0.0):
    return np.array([course(rule, 0.1, k).min() + extra for k in range(3)])


def shown(values):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):.2f} ± {(high - low) / 2:.2f}"


def test_the_leaderboard_has_the_numbers_of_the_chosen_trials(parsed):
    board = parsed.tables[0]
    assert board[0][1:5] == ["rule", "test error (%)", "validation error (%)", "n"]
    assert [row[1] for row in board[1:]] == ["bp", "dfa", HOSTILE]
    for row in board[1:]:
        assert shown(best_scores(row[1], 1.0)) in row[2]
        assert shown(best_scores(row[1])) in row[3]
        assert row[4] == "3" and row[5] == "50-50"
    assert [row[6] for row in board[1:]] == ["0.1 edge of the grid"] * 3


def test_the_verdict_is_that_of_the_paired_comparison(parsed):
    """Seeds shift all rules alike: intervals overlap, and yet the differences are real."""
    differences = {rule: best_scores(rule) - best_scores("bp") for rule in ("dfa", HOSTILE)}
    p = [stats.ttest_1samp(values, 0).pvalue for values in differences.values()]
    assert max(p) < 0.025
    assert f"By test error, bp is best, and its lead over dfa and {HOSTILE} is real." in parsed.text
    assert "p corrected by Holm for 2 comparisons" in parsed.text
    assert f"The intervals of dfa and {HOSTILE} overlap that of bp" in parsed.text
    assert "Only 3 executions per rule" in parsed.text
    assert "By test error (%), the lead" not in parsed.text  # which it is compared on
    assert "The best learning rate of bp, 0.1, is the highest tried" in parsed.text
    for row, values in zip(parsed.tables[1][1:], differences.values(), strict=True):
        assert row[1] == "real: bp is better" and row[2] == f"+{shown(values)}"


def test_what_a_lead_by_loss_is_by_error(tmp_path):
    """Chosen and compared on the loss, rules may differ in error, which readers ask for."""
    experiment = sweep(tmp_path / "p", ("bp", "dfa", "drtp"), ("50-50",), (0.1,), 2)
    record = experiment.record()
    record["configuration"]["objective"] = "val_loss"
    write_json(experiment.path / "experiment.json", record)
    errors = {"bp": [3, 4, 2], "dfa": [4.0, 3.1, 2.4], "drtp": [2.1, 3.1, 1.2]}
    for trial, (rule, found) in zip(experiment.trials(), errors.items(), strict=True):
        for k, error in enumerate(found):
            loss = 0.1 * k + 0.01 * error + {"bp": 0, "dfa": 1, "drtp": 2}[rule]
            write_json(trial.execution(k).test_file, {"error": error, "loss": loss})
    text = Parsed(page.render([experiment.path])).text
    assert "By test loss, bp is best, and its lead over dfa and drtp is real." in text
    assert "By test error (%), the lead over drtp is reversed." in text
    assert "By test error (%), the lead over dfa is undecided." in text


def test_before_the_test_set_is_used_validation_is_called_what_it_is(tmp_path):
    text = Parsed(
        page.render([sweep(tmp_path / "p", ("bp", "dfa"), ("50-50",), (0.1,), 2, False).path])
    ).text
    assert "The test set is not used yet: these are the validation values" in text
    assert "On validation data alone: bp is best, and its lead over dfa is real." in text


@pytest.mark.parametrize(
    ("objective", "data"), [("error", "training"), ("val_error", "validation")]
)
def test_a_reversed_lead_names_the_data_that_it_was_chosen_on(tmp_path, objective, data):
    """A retraining on all data (--validation=0 --objective=error) validates nothing."""
    experiment = sweep(tmp_path / "p", ("bp", "dfa"), ("50-50",), (0.1,), 2)
    record = experiment.record()
    record["configuration"]["objective"] = objective
    write_json(experiment.path / "experiment.json", record)
    for trial, errors in zip(experiment.trials(), ([4, 5.1, 6], [3, 4, 5]), strict=True):
        for k, error in enumerate(errors):
            write_json(trial.execution(k).test_file, {"error": error})
    text = Parsed(page.render([experiment.path])).text
    assert f"bp was chosen first on {data} data, but dfa did better on the test set" in text
    assert ("validation data" in text) == (data == "validation")


def test_projects_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """The name follows from the configuration: one command in two folders gives it twice."""
    folders = [tmp_path / name for name in ("one/p", "two/p", "a/b/r", "c/b/r", "two/q")]
    for folder in folders:
        sweep(folder, ("bp",), ("50-50",), (0.1,), 2)
    parsed = Parsed(page.render(folders))
    names = ["one/p", "two/p", "a/b/r", "c/b/r", "q"]
    assert parsed.tables[0][0][1:] == [f"{name}: test error (%)" for name in names]
    assert all(f"{name} · 1 of 14" in parsed.text for name in names)


def test_heat_map_and_all_trials(parsed):
    heat, trials = parsed.tables[2], parsed.tables[4]
    assert heat[0] == ["rule", "50", "50-50"] and len(heat) == 4
    assert heat[1][1:] == [shown(best_scores("bp", extra)) for extra in (1.0, 0.0)]
    assert len(trials) == 1 + 18
    states = [row[-1] for row in trials[1:]]
    assert states.count("completed") == 16 and states[-2:] == ["failed", "running"]
    assert trials[1][1:4] == ["bp", "50-50", "0.1"]


def test_what_the_chosen_trials_cost(parsed):
    table = parsed.tables[3]
    assert table[0] == ["rule", "time", "FLOPs", "peak host memory", "peak device memory", "energy",
                        "idle power"]  # fmt: skip
    assert [row[0] for row in table[1:]] == ["bp", "dfa", HOSTILE]
    for row in table[1:]:
        assert row[1:] == ["11 s", "4.5 M", *["not measured"] * 2, "2.1 kJ", "60 W"]


def test_error_against_cost_has_the_front_of_each_rule(parsed):
    """One trial of each size is on it: of dfa's smaller network, only the lowest rate is completed."""
    flops, seconds, energy = parsed.charts[-3:]
    fronts = dict(arrays(flops, "Line"))
    assert list(fronts) == ["bp", "dfa", HOSTILE]
    for rule, front in fronts.items():
        np.testing.assert_array_equal(front["x"], [1.5e6, 4.5e6])
        small = [course(rule, 0.001 if rule == "dfa" else 0.1, k).min() + 1 for k in range(3)]
        expected = [np.mean(small), best_scores(rule).mean()]
        np.testing.assert_allclose(front["mean"], expected, rtol=1e-6)
    points = {len(c["x"]) for name, c in arrays(flops, "Scatter") if name == "bp"}
    assert points == {2, 4}  # of six trials, four are not on the front
    for chart, cost in ((seconds, 11.0), (energy, 2100.0)):
        for rule, front in dict(arrays(chart, "Line")).items():
            np.testing.assert_allclose(front["x"], [cost])
            np.testing.assert_allclose(front["mean"], [best_scores(rule).mean()], rtol=1e-6)


def test_costs_of_an_experiment_without_any(tmp_path):
    folder = sweep(tmp_path / "p", ("bp", "dfa"), ("50-50",), (0.1,), 2).path
    for file in folder.glob("trials/*/*/result.json"):
        result = json.loads(file.read_text())
        for name in ("seconds", "train_flops", "energy", "idle_power"):
            del result[name]
        write_json(file, result)
    old = Parsed(page.render([folder]))
    assert old.tables[-2][1] == ["bp", *["not measured"] * 6]
    assert len(old.charts) == len(Parsed(page.render([small(tmp_path / "q").path])).charts) - 3


def test_it_says_how_to_do_it_again_and_what_is_missing(parsed):
    for words in ("c0ffee-dirty", "keras 3.15.1", "5, 6, 7", "tune.py '--plugin=", "16 of 18",
                  f"Diverged: {HOSTILE}", "0008-", "is running or was cut short"):  # fmt: skip
        assert words in parsed.text, words
    assert "jax None" not in parsed.text


def arrays(chart, kind):
    """Name and columns of each renderer with a glyph of a kind, as NumPy reads Bokeh's arrays."""
    [root] = chart["doc"]["roots"]
    for renderer in root["attributes"]["renderers"]:
        attributes = renderer["attributes"]
        if attributes["glyph"]["name"] == kind:
            entries = attributes["data_source"]["attributes"]["data"]["entries"]
            columns = {name: decoded(value) for name, value in entries}
            yield attributes["name"], columns


def decoded(value):
    data = gzip.decompress(base64.b64decode(value["array"]["data"]))
    return np.frombuffer(data, value["dtype"])


def test_curves_are_means_with_intervals_thinned_out(parsed):
    drawn = dict(arrays(parsed.charts[0], "Line"))
    assert list(drawn) == ["bp", "dfa", HOSTILE]
    values = np.array([course("dfa", 0.1, k) for k in range(3)])
    places = drawn["dfa"]["x"] - 1
    assert places[0] == 0 and places[-1] == EPOCHS - 1 and 100 < len(places) <= 150
    np.testing.assert_allclose(drawn["dfa"]["mean"], values.mean(axis=0)[places], rtol=1e-6)
    width = stats.t.ppf(0.975, 2) * stats.sem(values, axis=0)[places]
    np.testing.assert_allclose(drawn["dfa"]["high"] - drawn["dfa"]["mean"], width, rtol=1e-4)


def test_each_rule_has_a_point_per_rate_and_its_own_best_one(parsed):
    chart = parsed.charts[3]
    points = [columns for name, columns in arrays(chart, "Scatter") if name == "bp"]
    all_rates, star = points
    np.testing.assert_allclose(all_rates["rate"], RATES, rtol=1e-6)
    expected = [np.mean([course("bp", lr, k).min() for k in range(3)]) for lr in RATES]
    np.testing.assert_allclose(all_rates["mean"], expected, rtol=1e-6)
    np.testing.assert_allclose(star["rate"], [0.1], rtol=1e-6)


def test_every_string_is_escaped_and_nothing_is_loaded(parsed, html):
    assert not {tag for tag, _ in parsed.tags} & {"img", "iframe", "link", "object"}
    for tag, attributes in parsed.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "href")
        ], tag
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert len(scripts) == len(parsed.charts) + 3  # Bokeh's two and ours
    assert "<img" not in html.partition("<noscript>")[0]
    [policy] = [a["content"] for _, a in parsed.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def damage(folder, what):
    small(folder)
    [trial] = folder.glob("trials/0001-*")
    if what == "no experiment.json":
        (folder / "experiment.json").unlink()
    elif what == "torn experiment.json":
        (folder / "experiment.json").write_text('{"configuration": {"dat')
    elif what == "foreign experiment.json":
        (folder / "experiment.json").write_text('{"configuration": 5, "versions": 3, "command": 1}')
    elif what == "torn trial.json":
        (trial / "trial.json").write_text("{")
    elif what == "foreign trial.json":
        (trial / "trial.json").write_text('{"hyperparameters": [1]}')
    elif what == "torn result.json":
        (trial / "execution-1" / "result.json").write_text('{"score": 3')
    elif what == "torn history.csv":
        (trial / "execution-1" / "history.csv").write_text("epoch,val_error\n1,3.0\n2,")
    elif what == "no trials":
        folder = folder / "new"
        Experiment(folder).open(CONFIGURATION, ABOUT)
    elif what == "an empty folder of trials":
        folder = folder / "new"
        (folder / "trials").mkdir(parents=True)
    elif what == "no rule":
        folder = folder / "new"
        for index in range(2):
            trial = Experiment(folder).trial(index, {"units": index})
            trial.execution(0).finish({"score": float(index), "metrics": {}})
            trial.complete(float(index), [float(index)])
    return folder


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no experiment.json", "experiment.json is missing: configuration"),
        ("no experiment.json", "By a score of which nothing is recorded: bp is best"),
        ("no experiment.json", "What the score measures is not recorded; less of it is"),
        ("torn experiment.json", "experiment.json is spoilt: taken as missing."),
        ("foreign experiment.json", "experiment.json holds no configuration."),
        ("torn trial.json", "The hyperparameters of 0001-"),
        ("foreign trial.json", "The hyperparameters of 0001-"),
        ("torn result.json", "result.json is spoilt: taken as missing."),
        ("torn history.csv", "bp is best, and its lead over dfa is real."),
        ("no trials", "There is no trial yet."),
        ("an empty folder of trials", "No trial is completed yet, so no rule can be called best."),
        ("no rule", "Only unknown has a completed trial"),
    ],
)
def test_damage_is_named(tmp_path, what, said):
    folder = damage(tmp_path / "p", what)
    before = sorted(tmp_path.rglob("*"))
    assert said in Parsed(page.render([folder])).text
    assert sorted(tmp_path.rglob("*")) == before


def test_what_damage_leaves_open_is_not_said(tmp_path):
    """Borders of a grid that is lost; a test that is lost, which is no diverged training."""
    experiment = small(tmp_path / "p")
    bp, dfa = experiment.trials()
    (bp.execution(1).test_file).write_text('{"error": 3')
    (dfa.path / "execution-2" / "result.json").unlink()
    page_text = Parsed(page.render([experiment.path]))
    row = page_text.tables[0][1]
    assert row[1] == "bp" and "nan" not in row[2] and "nan" not in page_text.tables[1][1][2]
    assert f"Of trial {dfa.id} the results of 2 of 3 trainings are there." in page_text.text
    assert "is undecided" in page_text.text and "comparisons" not in page_text.text

    whole = sweep(tmp_path / "q", ("bp",), ("50-50",), RATES, 2)
    assert "is the highest tried" in Parsed(page.render([whole.path])).text
    (whole.path / "experiment.json").unlink()
    assert "is the highest tried" in Parsed(page.render([whole.path])).text
    (whole.trials()[0].path / "trial.json").unlink()
    assert "is the highest tried" not in Parsed(page.render([whole.path])).text


def test_a_learning_rate_that_was_given_has_no_border(tmp_path):
    """--lr_from: the grid has the rates of all rules, and each rule met its own alone."""
    experiment = sweep(tmp_path / "p", ("bp", "dfa"), ("50-50",), (0.1, 0.001), 2, tested=False)
    for trial in experiment.trials()[1:3]:  # bp at 0.001, dfa at 0.1
        shutil.rmtree(trial.path)
    record = experiment.record()
    record["configuration"]["choices"]["lr"] = [0.1, 0.001]
    write_json(experiment.path / "experiment.json", record)
    swept = text_of(experiment)
    assert "of bp, 0.1, is the highest tried" in swept
    assert "of dfa, 0.001, is the lowest tried" in swept
    record["configuration"]["rates"] = {"bp": 0.1, "dfa": 0.001}
    write_json(experiment.path / "experiment.json", record)
    given = text_of(experiment)
    assert "is the highest tried" not in given and "is the lowest tried" not in given
    assert "edge of the grid" in swept and "edge of the grid" not in given


def text_of(experiment):
    parsed = Parsed(page.render([experiment.path]))
    return f"{parsed.text} {parsed.tables}"


def run(*arguments):
    return answer.run(report.main, ["report.py", *map(str, arguments)])


def test_the_command_writes_one_page_and_overwrites_no_other_file(experiment, tmp_path, capsys):
    other = small(tmp_path / "other")
    assert run(experiment.path, other.path, "--output", tmp_path / "both.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'both.html'}\n"
    both = Parsed((tmp_path / "both.html").read_text())
    assert both.tables[0][0][0] == "rule"
    assert [row[0] for row in both.tables[0][1:]] == ["bp", "dfa", HOSTILE]
    assert [row[1:].count("–") for row in both.tables[0][1:]] == [0, 0, 1]
    for _ in range(2):  # its own page it replaces
        assert run(tmp_path / "other") == 0 and (tmp_path / "other" / "report.html").exists()
    (tmp_path / "notes.html").write_text("mine")
    assert run(tmp_path / "other", "--output", tmp_path / "notes.html") == 2
    assert (tmp_path / "notes.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("folder", "exists and is no report page"),
        ("file/page.html", "file exists"),
        ("/proc/foo/page.html", "no such file"),
        ("x" * 300, "file name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path, output, reason, capsys):
    Experiment(tmp_path).open(CONFIGURATION, ABOUT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path, f"--output={tmp_path / output}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and output.removesuffix("/page.html") in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["."], ["--ouput=x", "."]])
def test_mistakes_are_one_sentence(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("report.py: ") and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


def test_it_needs_no_training_code_and_a_mistake_no_bokeh(experiment, tmp_path):
    code = f"""
import sys
from bpfree.cli import report
try:
    report.main(["report.py", {str(tmp_path)!r}])
except ValueError:
    print("bokeh" in sys.modules)
report.main(["report.py", {str(experiment.path)!r}, "--output", {str(tmp_path / "x.html")!r}])
print([n for n in "keras tensorflow jax keras_tuner matplotlib bpfree.rules".split() if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", str(tmp_path / "x.html"), "[]"]


def test_a_file_that_is_not_ours_is_never_replaced(experiment, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"exists and is no report page: give another --output\.$"):
        page.write([experiment.path], tmp_path / "report.html")


@pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium here")
def test_in_a_browser(html, tmp_path):
    """No error, no request, no stranger's script; charts, sorting, filtering and legends work."""
    (tmp_path / "page.html").write_text(html)
    (tmp_path / "profile").mkdir()
    asyncio.run(_in_a_browser(tmp_path))


async def _in_a_browser(folder):
    async with browser.Browser(folder / "profile") as tab:
        await tab.open(folder / "page.html", width=390, height=800)
        assert await tab.run("document.documentElement.scrollWidth") == 390
        await tab.until("document.querySelectorAll('.chart .bk-Figure').length === figures.length")
        visible = "models.filter(m => m.name === 'dfa').map(m => m.visible)"
        assert set(await tab.run(visible)) == {True}
        await tab.run("document.querySelector('[data-curve=dfa]').click()")
        assert set(await tab.run(visible)) == {False}

        column = "[...document.querySelectorAll('table')[4].rows].slice(1).map(r => r.cells[4].dataset.v)"
        click = "document.querySelectorAll('table')[4].querySelectorAll('th button')[4].click()"
        for descending in (False, True):
            await tab.run(click)
            values = [float(v) for v in await tab.run(column) if v is not None]
            assert values == sorted(values, reverse=descending) and len(set(values)) > 9
        words = "const i = document.querySelector('.filter input'); i.value = 'DFA 0.01 completed';"
        await tab.run(f"{{ {words} i.dispatchEvent(new Event('input')) }}")
        left = "[...document.querySelectorAll('table')[4].rows].filter(r => !r.hidden).map(r => r.innerText)"
        rows = (await tab.run(left))[1:]
        assert len(rows) == 1 and "dfa" in rows[0] and "completed" in rows[0]
        assert await tab.run("document.querySelector('.filter output').textContent") == "1 of 18"

        ink = "models.filter(m => m.tags?.includes('ink') && m.line_color).map(m => m.line_color.value)"
        assert set(await tab.run(ink)) == {"#000000"}
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        await tab.send("Emulation.setEmulatedMedia", features=dark)
        await tab.until(f"({ink}).every(color => color !== '#000000')")
        await tab.run("dispatchEvent(new Event('beforeprint'))")
        assert await tab.run("document.documentElement.dataset.drawn") == "dark"

        assert await tab.run("typeof hacked") == "undefined"
        assert not tab.errors
        assert [url for url in tab.requests if not url.startswith("data:")] == [
            (folder / "page.html").as_uri()
        ]
