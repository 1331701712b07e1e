"""tune.py and train.py in this process: what they write, resume and refuse."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import bpfree
from bpfree.cli import answer, conclusion, experiment, flags, train, tune
from bpfree.cli.plugin import load_plugin
from bpfree.errors import UserError
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.usefixtures("own_signals")

SMALL = ["--arch=8", "--examples_frac=0.2", "--use_xla=false", "--num_epochs=2"]
ONE = [*SMALL, "--algorithm=dfa", "--activation=tanh", "--nobatch_norm", "--reg_rate=0"]


def run(command, *arguments):
    return answer.run(
        command.main, [f"/somewhere/{command.__name__.split('.')[-1]}.py", *arguments]
    )


def contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "lock"
    }


# -- mistakes ---------------------------------------------------------------------------------

MISTAKES = {
    "--dataset=mnits": "mnits",
    "--dataset=npz:/nowhere/data.npz": "/nowhere/data.npz",
    "--dataset=folder:/nowhere": "/nowhere",
    "--algorithm=dfaa": "dfaa",
    "--algorithm=dfa:scale=2": "scale",
    "--tracker=cosine": "cosine",
    "--objective=val_acuracy": "val_acuracy",
    "--optimizer=adm": "adm",
    "--lr_schedule=linear": "linear",
    "--arch=5o0": "5o0",
    "--arch=vgg": "vgg",
    "--lr=0": "lr",
    "--lr=-0.1": "lr",
    "--lr=nan": "lr",
    "--lr=inf": "finite, received inf",
    "--reg_rate=1": "reg_rate",
    "--weight_decay=-1": "weight_decay",
    "--weight_decay=inf": "finite, received inf",
    "--batch_size=0": "batch_size",
    "--activation=tahn": "tahn",
    "--bw_init=orto": "orto",
    "--fw_init=orto": "orto",
    "--scaler=robust": "robust",
    "--problem_type=reconstruction --algorithm=drtp --objective=val_loss": "reconstruct",
    "--algorithm=bp --fw_init=aligned": "aligned",
    "--validation=0 --objective=val_loss": "validation",
    "--device=nonsense": "nonsense",
    "--device=gpu:first": "gpu:first",
    "--plugin=/nowhere/rule.py": "/nowhere/rule.py",
    "--lr=0.1 --lr=0.1": "lr",
    "--num_epochs=0": "num_epochs",
    "--extend_grid --lr=0.1": "extend_grid",
    "--search=random": "max_trials",
    "--search=hyperband --num_epochs=1": "num_epochs",
    "--extend_grid --lr_from=runs/first": "extend_grid",
}


@pytest.mark.parametrize("command", [tune, train], ids=["tune", "train"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(command, mistake, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code = run(command, "--experiment_dir=runs/mine", *ONE[:4], *mistake.split())
    shown = capfd.readouterr()
    ours = [
        line
        for line in shown.err.splitlines()
        if line and not line.startswith(("I0000", "E0000", "W0000", "WARNING", "TF-TRT"))
    ]
    assert code == 2
    assert len(ours) == 1, shown.err
    assert ours[0].startswith(("tune.py: ", "train.py: ")) and MISTAKES[mistake] in ours[0]
    assert shown.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.once
@pytest.mark.parametrize(
    ("arch", "sentence"),
    [("vgg8b", "at least 16 by 16"), ("CONV_4_3_1_1_FC_7", "7 units"), ("vit:patch=4", "chain")],
)
def test_a_network_that_cannot_be_built_leaves_nothing(arch, sentence, tmp_path, capsys):
    flags = [f"--arch={arch}", "--algorithm=dtp", *SMALL[1:]]
    assert run(tune, f"--experiment_dir={tmp_path / 'runs'}", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tune.py: ") and sentence in line
    assert not list(tmp_path.iterdir())


def test_data_of_a_type_that_the_scaler_is_not_for(tmp_path, capsys):
    generator = np.random.default_rng(0)
    file = tmp_path / "data.npz"
    np.savez(file, x=generator.normal(size=(600, 4)).astype("float32"), y=np.arange(600) % 3)
    directory = tmp_path / "runs"
    code = run(tune, f"--experiment_dir={directory}", f"--dataset=npz:{file}", *ONE)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and "scaler" in line and "identity" in line
    assert not directory.exists()


def test_an_unreadable_npz(tmp_path, capsys):
    file = tmp_path / "data.npz"
    file.write_bytes(b"no archive")
    code = run(tune, f"--experiment_dir={tmp_path / 'runs'}", f"--dataset=npz:{file}", *ONE)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and str(file) in line
    assert not (tmp_path / "runs").exists()


PLUGINS = {
    "syntax": (b"x = 1\ndef f(:\n", ["line 2", "SyntaxError: invalid syntax"]),
    "missing": (b"\nimport no_such_module\n", ["line 2", "No module named 'no_such_module'"]),
    "raises": (b"def f():\n    int('a\\nb')\n\nf()\n", ["line 2", "ValueError: invalid literal"]),
    "within": (b"import json\njson.loads('{')\n", ["line 2", "JSONDecodeError"]),
    "binary": (b"\x80\0\xff", ["Error: "]),
    "leaves": (b"import sys\nsys.exit(0)\n", ["line 2", "SystemExit: 0"]),
}


@pytest.mark.once
@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that_does_not_run_is_one_sentence(name, tmp_path, capsys):
    content, words = PLUGINS[name]
    plugin = tmp_path / f"{name}.py"
    plugin.write_bytes(content)
    runs = tmp_path / "runs"
    assert run(tune, f"--experiment_dir={runs}", f"--plugin={plugin}", *ONE) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in [str(plugin), *words]), line
    assert not runs.exists()


@pytest.mark.once
def test_what_is_no_python_file_is_no_plugin(tmp_path):
    (tmp_path / "rule.txt").touch()
    with pytest.raises(UserError, match=r"rule.txt' is no Python file.*\.py"):
        load_plugin(str(tmp_path / "rule.txt"))


@pytest.mark.once
def test_a_plugin_without_a_rule_says_so_and_a_signal_is_not_its_fault(tmp_path, capsys):
    plugin = tmp_path / "no_rule.py"
    plugin.write_text("import bpfree.rules\n\n\nclass Nameless(bpfree.rules.Rule):\n    pass\n")
    load_plugin(str(plugin))
    (line,) = capsys.readouterr().err.splitlines()
    assert str(plugin) in line and "defines no rule" in line
    plugin.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n" + "pass\n" * 9)
    assert answer.run(lambda argv: 0, ["x"]) == 0  # takes TERM over, as every command does
    with pytest.raises(SystemExit, match="143"):
        load_plugin(str(plugin))


def test_tune_needs_a_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(tune, *ONE) == 2
    assert "--experiment_dir" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_train_takes_one_value_of_each(tmp_path, capsys):
    assert run(train, f"--experiment_dir={tmp_path / 'x'}", "--lr=0.1", "--lr=0.2") == 2
    assert "--lr" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer.run(main, ["x.py"])


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130)])
def test_interruptions_have_their_code(raised, code, capsys):
    def main(argv):
        raise raised

    assert answer.run(main, ["x.py"]) == code
    assert "goes on" in capsys.readouterr().err


# -- train.py ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    arguments = [f"--experiment_dir={folder}", *ONE, "--lr=0.01", "--tracker=bp_cosine"]
    assert run(train, *arguments) == 0
    return folder, arguments


@pytest.mark.once
def test_train_writes_history_test_model_and_picture(trained):
    folder, _ = trained
    history = pd.read_csv(folder / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert {"loss", "val_loss", "error", "val_error", "bp_cosine/block_1"} <= set(history)
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    test = json.loads((folder / "test.json").read_text())
    data = bpfree.data.load("digits", examples_frac=0.2)
    model = keras.models.load_model(folder / "model.keras")
    x = (data.x_test.astype("float32") - 127.5) / 127.5
    scores = model.predict(x, verbose=0)
    assert scores.shape == (len(data.x_test), 10)
    error = 100 * np.mean(scores.argmax(1) != data.y_test)
    assert test["error"] == pytest.approx(error, abs=1e-3)
    assert test["accuracy"] == pytest.approx(1 - error / 100, abs=1e-5)


def test_train_again_trains_nothing(trained):
    folder, arguments = trained
    before = contents(folder / "trials")
    assert run(train, *arguments) == 0
    assert contents(folder / "trials") == before


@pytest.mark.parametrize(
    ("change", "named"),
    [("--seed=1", "seed"), ("--num_epochs=3", "num_epochs"), ("--batch_size=32", "batch_size")],
)
def test_train_refuses_another_configuration(trained, change, named, capsys):
    folder, arguments = trained
    before = contents(folder)
    assert run(train, *arguments, change) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert contents(folder) == before


@pytest.mark.once
def test_train_reset_begins_anew(trained):
    folder, arguments = trained
    (trial,) = (folder / "trials").glob("*/trial.json")
    before = trial.stat().st_mtime_ns
    history = (folder / "history.csv").read_bytes()
    assert run(train, *arguments, "--reset_training") == 0
    (trial,) = (folder / "trials").glob("*/trial.json")
    assert trial.stat().st_mtime_ns > before
    assert (folder / "history.csv").read_bytes() == history


@pytest.mark.once
@pytest.mark.parametrize("reset", [[], ["--reset_training"]])
def test_train_leaves_the_files_of_others(reset, tmp_path, capsys):
    (tmp_path / "history.csv").write_text("mine")
    (tmp_path / "model.keras").write_text("mine as well")
    before = contents(tmp_path)
    assert run(train, f"--experiment_dir={tmp_path}", *ONE, "--lr=0.01", *reset) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds history.csv, model.keras, and no experiment" in line
    assert contents(tmp_path) == before


@pytest.mark.once
def test_train_does_not_go_on_in_a_sweep(tmp_path, capsys):
    for index in range(2):
        Experiment(tmp_path).trial(index, {"lr": index}).save()
    assert run(train, f"--experiment_dir={tmp_path}", *ONE, "--lr=0.01") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a sweep" in line


@pytest.mark.once
@pytest.mark.parametrize("command", [tune, train], ids=["tune", "train"])
def test_a_place_that_cannot_be_written_is_one_line(command, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below", "x" * 300):
        assert run(command, f"--experiment_dir={tmp_path / place}", *ONE, "--lr=0.01") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "Cannot write to" in line and place in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.once
def test_a_reset_leaves_folders_that_are_no_experiments(tmp_path):
    mine = tmp_path / "digits_classification_val_loss-notes"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    settings = flags.parse(["tune.py", f"--experiment_dir={tmp_path}", "--reset_training"], "")
    experiment.claim(settings, "any", {})
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.once
def test_without_a_history_there_is_no_picture(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    (history,) = folder.glob("trials/*/execution-0/history.csv")
    history.write_bytes(b"epoch,loss\n")
    (folder / "history.png").unlink()
    assert conclusion.picture(folder, "history.png") is None
    assert not (folder / "history.png").exists()


# -- tune.py ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    arguments = [f"--experiment_dir={folder}", *ONE, "--algorithm=bp", "--bw_init=ortho"]
    arguments += ["--lr=0.01", "--executions_per_trial=2", "--save_best_model", "--num_epochs=1"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(tune, *arguments) == 0
    return folder, arguments, printed.getvalue()


def test_executions_train_together_where_the_backend_can(tuned):
    """None of the command's own callbacks keeps them from it."""
    assert ("one by one" in tuned[2]) == (keras.backend.backend() == "tensorflow")


def test_tune_ranks_the_rules_and_tests_the_best_once(tuned):
    folder, *_ = tuned
    (project,) = (path for path in folder.iterdir() if path.is_dir())
    assert project.name.startswith("digits_classification_val_loss-")
    board = pd.read_csv(project / "leaderboard.csv")
    assert sorted(board["algorithm"]) == ["bp", "dfa"]
    for _, row in board.iterrows():
        trial = project / "trials" / row["trial"]
        runs = [pd.read_csv(trial / f"execution-{k}" / "history.csv") for k in range(2)]
        assert row["mean"] == pytest.approx(np.mean([run["val_loss"].min() for run in runs]))
        tests = [json.loads((trial / f"execution-{k}" / "test.json").read_text()) for k in (0, 1)]
        assert row["test_error"] == pytest.approx(np.mean([test["error"] for test in tests]))
    assert {path.name for path in (project / "best_models").iterdir()} == {"bp.keras", "dfa.keras"}
    report = (project / "report.html").read_text()
    best = rf"<h1>(By test loss, )?{board['algorithm'][0]} (is best|comes first|was chosen first)"
    assert re.search(best, report)
    assert "2 of 2" in report and "the test set was used once" in report


def test_tune_refuses_another_configuration(tuned, capsys):
    folder, arguments, _ = tuned
    before = contents(folder)
    assert run(tune, *arguments, "--seed=3") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed" in line
    assert contents(folder) == before


def test_no_success_has_its_own_code(tmp_path, capsys):
    """A rule that always raises."""
    plugin = tmp_path / "broken_rule.py"
    plugin.write_text(
        "import bpfree\n\n\nclass Broken(bpfree.rules.Rule):\n    name = 'broken-in-test'\n\n"
        "    def surrogates(self, trace):\n        raise RuntimeError('it is broken')\n"
    )
    one = [flag for flag in ONE if not flag.startswith("--algorithm")]
    arguments = ["--algorithm=broken-in-test", f"--plugin={plugin}", "--lr=0.1", *one]
    assert run(tune, f"--experiment_dir={tmp_path / 'runs'}", *arguments) == 3
    (trial,) = (tmp_path / "runs").glob("*/trials/*/trial.json")
    assert "it is broken" in json.loads(trial.read_text())["failure"]
    (report,) = (tmp_path / "runs").glob("*/report.html")
    assert "RuntimeError: it is broken" in report.read_text()
