"""The command line's vocabulary, and how it is read."""

import itertools
import os
import subprocess
import sys

import pytest

from bpfree.cli import flags
from bpfree.cli.experiment import claim, configuration, project_name
from bpfree.errors import UserError
from bpfree.tuning import space
from bpfree.tuning.records import Experiment

pytestmark = pytest.mark.once


def parse(*arguments):
    return flags.parse(["tune.py", *arguments], "a program")


def choices(*arguments):
    settings = parse(*arguments)
    return space.choices(settings.given, settings.problem_type, settings.objective)


TUNABLE = {
    "algorithm": ("dfa", "bp"),
    "arch": ("20", "30x2"),
    "activation": ("relu", "tanh"),
    "bw_init": ("lecun", "ortho"),
    "fw_init": ("he", "lecun"),
    "lr": (0.5, 0.25),
    "lr_schedule": ("cosine", "constant"),
    "reg_rate": (0.3, 0.2),
    "weight_decay": (0.1, 0.0),
    "optimizer": ("sgd", "adam"),
    "scaler": ("zero_one", "identity"),
    "batch_size": (16, 8),
}
OTHERS = {
    "dataset": "mnist",
    "data_dir": "/data",
    "problem_type": "reconstruction",
    "examples_frac": 0.5,
    "validation": 0.2,
    "num_epochs": 3,
    "executions_per_trial": 2,
    "objective": "loss",
    "score": "last",
    "histogram_freq": 1,
    "population": 3,
    "workers": "ray:10.0.0.1:6379",
    "cpus_per_trial": 0.5,
    "gpus_per_trial": 0.25,
    "max_trials": 5,
    "device": "cpu",
    "seed": 9,
    "experiment_dir": "runs",
}
SWITCHES = ["extend_grid", "use_early_stopping", "use_xla", "save_best_model", "reset_training"]
SEVERAL = {
    "augment": ("zoom", "rotation"),
    "tracker": ("weights", "bp_cosine"),
    "plugin": ("a.py", "b.py"),
}


@pytest.fixture
def ray(monkeypatch):
    """Sets whether Ray is installed."""
    return lambda there: monkeypatch.setattr(flags, "find_spec", lambda name: there or None)


@pytest.mark.parametrize("name", TUNABLE)
def test_once_is_fixed_and_several_times_is_swept(name):
    first, second = TUNABLE[name]
    assert choices(f"--{name}={first}")[name] == (first,)
    assert choices(f"--{name}={first}", f"--{name}={second}")[name] == (first, second)
    assert choices(f"--{name}", str(first), f"--{name}", str(second))[name] == (first, second)
    assert [type(v) for v in choices(f"--{name}={first}")[name]] == [type(first)]


@pytest.mark.parametrize("name", ["batch_norm", "use_bias"])
def test_switches_are_swept_by_naming_both(name):
    assert choices(f"--{name}")[name] == (True,)
    assert choices(f"--no{name}")[name] == (False,)
    assert choices(f"--no{name}", f"--{name}")[name] == (False, True)
    assert choices(f"--{name}=true", f"--{name}=false")[name] == (True, False)


def test_left_out_means_the_default_ranges():
    expected = {
        "algorithm": ("bp", "dfa", "drtp", "cce"),
        "arch": ("500", "500x5", "500-1000-500", "1000", "1000-1000", "1000-500-1000"),
        "activation": ("tanh", "relu", "swish", "lrelu"),
        "batch_norm": (False, True),
        "bw_init": ("ortho", "lecun"),
        "lr": (1e-4, 1e-3, 1e-2, 1e-1),
        "reg_rate": (0.0, 0.1, 0.3, 0.5),
    }
    found = choices()
    assert {name: set(found[name]) for name in expected} == {
        name: set(values) for name, values in expected.items()
    }
    assert all(len(values) == 1 for name, values in found.items() if name not in expected)


def test_dropout_is_swept_for_validation_objectives_only():
    assert choices("--objective=val_error")["reg_rate"] == (0.0, 0.1, 0.3, 0.5)
    assert choices("--objective=error")["reg_rate"] == (0.0,)


def test_reconstruction_sweeps_mse_as_well():
    found = choices("--problem_type=reconstruction")["algorithm"]
    assert set(found) == {"bp", "dfa", "drtp", "cce", "mse"}


ASKED_BY = {"cpus_per_trial": ["--workers=ray"], "gpus_per_trial": ["--workers=ray"]}


@pytest.mark.parametrize("name", OTHERS)
def test_settings(name, ray):
    ray(there=True)
    found = getattr(parse(f"--{name}={OTHERS[name]}", *ASKED_BY.get(name, ())), name)
    assert found == OTHERS[name] and type(found) is type(OTHERS[name])
    assert getattr(parse(), name) != OTHERS[name]


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name):
    assert getattr(parse(f"--{name}"), name) is True
    assert getattr(parse(f"--no{name}"), name) is False
    assert getattr(parse(f"--{name}=false"), name) is False


@pytest.mark.parametrize("name", SEVERAL)
def test_repeatable_settings(name):
    first, second = SEVERAL[name]
    given = parse(f"--{name}={first}", f"--{name}={second}", f"--{name}={first}")
    assert getattr(given, name) == (first, second)
    assert getattr(parse(), name) == ()


def test_what_trains_together_decides_no_result():
    """A sweep may be gone on with by another `--population`."""
    plain, other = parse(), parse("--population=off")
    assert (plain.population, other.population) == ("auto", "off")
    assert configuration(plain, {}) == configuration(other, {})


def test_who_trains_decides_no_result(ray):
    """A sweep may be gone on with by workers, or without them."""
    ray(there=True)
    plain, other = parse(), parse("--workers=ray", "--cpus_per_trial=2", "--gpus_per_trial=0.5")
    assert (plain.workers, other.workers) == (None, "ray")
    assert configuration(plain, {}) == configuration(other, {})


def test_a_missing_ray_is_one_sentence(ray):
    ray(there=False)
    with pytest.raises(UserError, match=r"pip install 'bpfree\[ray\]'"):
        parse("--workers=ray")


@pytest.mark.parametrize("argument", ["--workers=rya", "--workers=ray:", "--workers=dask:1:2"])
def test_unknown_workers_are_one_sentence(argument, ray):
    ray(there=True)
    with pytest.raises(UserError, match=argument.split("=")[1]):
        parse(argument)


@pytest.mark.parametrize(
    "argument",
    ["--cpus_per_trial=0", "--cpus_per_trial=nan", "--gpus_per_trial=-1", "--gpus_per_trial=inf"],
)
def test_impossible_workers_are_one_sentence(argument, ray):
    ray(there=True)
    with pytest.raises(UserError, match="per_trial must be .*, received"):
        parse("--workers=ray", argument)


def test_flags_that_came_later_leave_the_recorded_configuration_as_it_was():
    """An experiment that was begun before there was one goes on; given, it is another configuration."""
    plain, extended = parse(), parse("--extend_grid")
    assert "extend_grid" not in configuration(plain, {})
    assert configuration(extended, {}) == {**configuration(plain, {}), "extend_grid": True}


@pytest.mark.parametrize("first", [False, True])
def test_one_directory_holds_an_extended_grid_or_a_plain_one(first, tmp_path):
    both = {
        given: parse(f"--experiment_dir={tmp_path}", f"--extend_grid={given}")
        for given in (False, True)
    }
    settings = both[first]
    name = project_name(settings, configuration(settings, {}))
    Experiment(tmp_path / name).open(configuration(settings, {}))
    claim(settings, name, configuration(settings, {}))
    other = configuration(both[not first], {})
    with pytest.raises(UserError, match="extend_grid is"):
        claim(both[not first], project_name(both[not first], other), other)


def test_a_search_is_recorded_with_what_decides_it():
    plain = configuration(parse(), {})
    for flags_ in (
        ["--search=random", "--max_trials=9"],
        ["--search=hyperband", "--factor=4"],
    ):
        given = {name: value for name, value in (flag[2:].split("=") for flag in flags_)}
        found = configuration(parse(*flags_), {})
        assert {k: str(v) for k, v in found.items() if k not in plain} == given


def test_zero_examples_frac_means_all():
    assert parse("--examples_frac", "0.").examples_frac == 0


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--algoritm=bp", ["algoritm", "algorithm"]),
        ("stray", ["stray"]),
        ("--lr=fast", ["lr", "fast"]),
        ("--num_epochs=0", ["num_epochs", "0"]),
        ("--num_epochs=2.5", ["num_epochs", "2.5"]),
        ("--executions_per_trial=0", ["executions_per_trial"]),
        ("--examples_frac=1.5", ["examples_frac", "1.5"]),
        ("--examples_frac=nan", ["examples_frac", "nan"]),
        ("--validation=1", ["validation", "1"]),
        ("--histogram_freq=-1", ["histogram_freq", "-1"]),
        ("--population=many", ["population", "many", "auto"]),
        ("--population=0", ["population", "0"]),
        ("--lr=0.1 --lr_from=runs/first", ["--lr and --lr_from"]),
        ("--extend_grid --lr_from=runs/first", ["--extend_grid", "--lr_from"]),
        ("--search=anneal", ["search", "anneal", "hyperband"]),
        ("--max_trials=0", ["--max_trials", "at least 1", "0"]),
        ("--search=random", ["--search random", "--max_trials"]),
        ("--search=bayesian", ["--search bayesian", "--max_trials"]),
        ("--search=hyperband --num_epochs=1", ["--num_epochs", "received 1", "at least 3"]),
        ("--search=hyperband --max_trials=9", ["hyperband", "--max_trials"]),
        ("--search=hyperband --factor=1", ["--factor", "at least 2"]),
        ("--search=hyperband --schedule=sequential", ["hyperband", "sequential"]),
        ("--factor=4", ["--factor", "grid"]),
        ("--factor=3", ["--factor", "grid", "leave it out"]),
        ("--factor=0", ["--factor", "grid", "leave it out"]),
        ("--cpus_per_trial=1", ["--cpus_per_trial", "no --workers", "leave it out"]),
        ("--gpus_per_trial=nan", ["--gpus_per_trial", "no --workers"]),
        ("--epochs_per_block=2", ["--epochs_per_block", "sequential", "is simultaneous"]),
        ("--lr_from=", ["--lr_from is empty"]),
        ("--seed=-1", ["--seed", "[0, 2**31)", "-1"]),
        ("--seed=99999999999999999999", ["--seed", "[0, 2**31)"]),
        ("--flagfile=/nowhere/flags", ["/nowhere/flags"]),
        ("--search=random --max_trials=9 --extend_grid", ["--extend_grid", "random"]),
        ("--extend_grid --lr=0.1", ["--extend_grid", "only 0.1", "twice"]),
        ("--problem_type=regression", ["problem_type", "regression"]),
        ("--score=mean", ["score", "mean"]),
        ("--dataset=mnits", ["mnits", "mnist"]),
        ("--augment=mirror", ["'mirror'", "zoom"]),
        ("--augment=", ["augmentation ''"]),
        ("--tracker=nothing", ["tracker", "bp_cosine"]),
        ("--objective=val_acuracy", ["val_acuracy", "val_accuracy"]),
        ("--validation=0", ["validation", "val_loss", "'loss'"]),
    ],
)
def test_mistakes_are_one_sentence(argument, words):
    with pytest.raises(UserError) as refused:
        parse(*argument.split())
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_sequential_schedule_asks_for_its_epochs():
    given = parse("--schedule=simultaneous", "--schedule=sequential", "--epochs_per_block=2").given
    assert given["epochs_per_block"] == [2]


def test_a_binary_flagfile_is_one_sentence(tmp_path):
    (tmp_path / "flags").write_bytes(b"\x80\xff\0")
    with pytest.raises(UserError, match="--flagfile"):
        parse(f"--flagfile={tmp_path}/flags")


def test_help_lists_every_flag(capsys):
    assert parse("--help") is None
    shown = capsys.readouterr().out
    names = itertools.chain(TUNABLE, OTHERS, SWITCHES, SEVERAL, ["batch_norm", "use_bias"])
    assert [name for name in names if f"--{name}" not in shown and f"]{name}" not in shown] == []


def test_help_that_is_not_read_to_its_end():
    """As by `| head`: without a traceback, and without Python's own complaint when it ends."""
    code = "import sys; from bpfree.cli.flags import parse; parse(['', '--help'], 'tune.py')"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_is_left_over_between_two_commands():
    parse("--lr=0.5", "--seed=3")
    assert parse().given == {} and parse().seed == 0


DRIVER = """
import sys
from bpfree.cli import answer, {command}
code = answer.run({command}.main, ["{command}.py", "--experiment_dir={folder}", "--algoritm=bp"])
heavy = {{"tensorflow", "keras", "jax", "torch", "keras_tuner", "sklearn", "matplotlib"}}
print(sorted(heavy & set(sys.modules)), code)
"""


@pytest.mark.parametrize("command", ["tune", "train"])
def test_a_mistyped_flag_is_answered_before_anything_heavy_is_imported(command, tmp_path):
    script = DRIVER.format(command=command, folder=tmp_path / "runs")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "2"], done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{command}.py: ") and "algoritm" in line
    assert not list(tmp_path.iterdir())
