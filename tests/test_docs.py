"""Every code block of every page is run by a test, or at the least understood by the program it is for.

Python blocks are run in `test_readme.py`, those on a finished sweep here. Bash is taken apart line by
line: flags go through the parser of their command, and the learners of tune.py and train.py are described
to the search space, so that a flag, a rule, an option or an architecture that does not exist fails.
"""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "benchmarks/README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
INPUTS = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and code of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of every command in a page's bash blocks, without comments and assignments in front."""
    found = []
    for language, code in blocks(page):
        if language == "bash":
            code = re.sub(r"<[a-zA-Z ]+>", "PLACEHOLDER", code.replace("\\\n", " "))
            lines = (shlex.split(line, comments=True) for line in code.splitlines())
            found += [without_assignments(words) for words in lines if words]
    return found


def without_assignments(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words[0].partition("=")
        assert name != "KERAS_BACKEND" or value in ("tensorflow", "jax")
        assert name in ("KERAS_BACKEND", "JAX_CUDA", "RAY"), words
        words = words[1:]
    return words


ALL = [(page, words) for page in PAGES for words in commands(page)]


# -- what a command is for ----------------------------------------------------------------------


def check(words: list[str]) -> None:
    """Fails unless the program that the words are for would take them."""
    program, *rest = words
    if program == "make":
        made(rest)
    elif program == "docker":
        if rest[-1] != "bash":
            check(rest[rest.index("./train.bash") :])
    elif program == ".venv/bin/ray":
        assert rest[0] == "start"
    elif program == "exec":
        check(rest)
    elif program == "./train.bash":
        assert not rest[0].startswith("-")
        described(["tune.py", f"--experiment_dir={rest[0]}", *rest[1:]])
    elif program == "python" and rest[0] == "-c":
        compile(rest[1], "-c", "exec")
    elif program == "python" and rest[0] == "-m":
        assert rest[1] == "bpfree.report"
        reported(rest[1:])
    elif program == "python" and rest[0] in ("tune.py", "train.py"):
        described(rest)
    elif program == "python" and rest[0].split("/")[0] in ("experiments", "benchmarks"):
        scripted(rest)
    else:
        assert program in ("cd", "source", "export"), f"no test knows what {program!r} is"


def made(words: list[str]) -> None:
    """Finds the targets in the Makefile, and the extras in pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words:
        if "=" in word:
            name, _, values = word.partition("=")
            assert name == "EXTRAS" and set(values.split(",")) <= set(extras), word
        else:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{word}\b[\w -]*:", makefile, re.MULTILINE), word


def described(arguments: list[str], built: bool = False) -> None:
    """Parses flags of tune.py or train.py, and describes the learners to the search space."""
    from bpfree.cli import flags
    from bpfree.tuning import space
    from bpfree.tuning.hypermodel import HyperModel

    arguments = [word for word in arguments if word != "…"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            flags, "find_spec", lambda name: True
        )  # whether Ray is installed is another matter
        settings = flags.parse(arguments, "")
    if settings.plugin:  # docs/EXTENDING.md's, which is run with its plugin in test_readme.py
        return
    if arguments[0] == "train.py":
        choices = space.single(settings.given)
    else:
        choices = space.choices(settings.given, settings.problem_type, settings.objective)
    shape = INPUTS[settings.dataset]
    epochs = settings.num_epochs
    model = HyperModel(shape, 10, choices, epochs, 1000, settings.problem_type, False)
    for rule in choices["algorithm"]:
        values = {name: values[0] for name, values in choices.items()} | {"algorithm": rule}
        refused = [model.refusal({**values, "activation": a}) for a in choices["activation"]]
        assert not all(refused), refused
        if built and "algorithm" in settings.given:
            build(model, values, shape)


def build(model, values, shape) -> None:
    """Builds a learner, which finds options that do not fit the network."""
    import keras
    import keras_tuner

    from bpfree import rules

    hp = keras_tuner.HyperParameters()
    hp.values = {**values, "seed": 0}
    if not rules.parse(values["algorithm"])[0].projects:
        del hp.values["bw_init"]
    model.build(hp).build((None, *shape))
    keras.backend.clear_session()


def reported(arguments: list[str]) -> None:
    from absl import flags

    known = flags.FlagValues()
    flags.DEFINE_string("output", None, "", flag_values=known)
    assert known(arguments)[1:]


class Understood(Exception):
    """A script's arguments have been read."""


def scripted(arguments: list[str]) -> None:
    """Runs a script as far as its first training, whose flags are checked as well."""
    from bpfree.rules.rule import REGISTRY

    script, registered = ROOT / arguments[0], dict(REGISTRY)

    def train(command, **options):
        assert Path(command[0]).name == "train.bash"
        check(["./train.bash", *map(str, command[1:])])
        raise Understood

    def parse(self, *arguments, original=argparse.ArgumentParser.parse_args):
        for rule in vars(original(self, *arguments)).get("rules") or ():
            understood(rule)
        raise Understood

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", train)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", arguments)
        patch.syspath_prepend(script.parent)
        with pytest.raises(Understood):
            runpy.run_path(str(script), run_name="__main__")
    REGISTRY.clear()  # of rules that a script defines
    REGISTRY.update(registered)
    for module in ("mnist", "compiled", "step"):
        sys.modules.pop(module, None)


def understood(spec: str) -> None:
    from bpfree import rules

    rules.get(spec)


# -- tests --------------------------------------------------------------------------------------


def test_every_block_has_a_language_that_is_tested():
    """A listing, which has none, shows files and no commands."""
    for page in PAGES:
        for language, code in blocks(page):
            assert language in ("python", "bash", ""), page
            assert language or not re.search(r"^\W*(python|make|import)\b", code, re.MULTILINE)


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: " ".join(value)[:60])
def test_commands_are_understood(page, words):
    check(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [words for page, words in ALL if page == "docs/COMING_FROM.md"],
    ids=lambda words: " ".join(words)[:60],
)
def test_the_learners_of_the_guide_for_newcomers_are_built(words):
    arguments = words[1:] if words[0] == "python" else ["tune.py", *words[2:]]
    described(arguments, built=True)


@pytest.mark.parametrize("mistake", ["--algoritm=bp", "--algorithm=lw:loss=sum", "--arch=vgg7z"])
def test_a_mistyped_command_would_be_found(mistake):
    with pytest.raises(ValueError):
        check(["./train.bash", "runs/x", mistake])


def test_a_mistyped_script_would_be_found():
    with pytest.raises((SystemExit, ValueError)):
        check(["python", "experiments/mnist.py", "runs/x", "--rule", "dffa"])
    with pytest.raises(SystemExit):
        check(["python", "benchmarks/memory.py", "--depth", "4", "--rulez", "bp"])


def test_every_recipe_of_pepita_and_dtp_is_understood(monkeypatch):
    path = ROOT / "experiments/pepita_dtp.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("pepita_dtp", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for recipe in module.RECIPES:
        described(["tune.py", *module.flags(recipe, 100)])


def spans() -> list[str]:
    """Every piece of inline code in the pages."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        found += re.findall(r"`([^`]+)`", text)
    return found


def test_spec_strings_in_the_text_are_understood():
    from bpfree import rules

    names = {*rules.names(), *rules.aliases()}
    specs = [span.split()[0] for span in spans() if ":" in span and "…" not in span]
    specs = [spec for spec in specs if spec.split(":")[0] in names and "=" in spec]
    assert len(specs) > 40
    for spec in specs:
        rules.get(spec)


FOREIGN = {
    "gpus",
    "build-arg",
    "logdir",
    "topology",
    "freeze-conv-layers",
    "fc-zero-init",
    "output",
}
OF_SCRIPTS = {"rule", "rules", "help", "bare", "seeds"}


def test_flags_in_the_text_exist():
    from bpfree.cli import flags

    known = set(flags._define()) | FOREIGN | OF_SCRIPTS
    for span in spans():
        for name in re.findall(r"--([a-zA-Z][\w-]*)", span):
            assert name in known or name.removeprefix("no") in known, span


def test_links_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert (ROOT / page).parent.joinpath(target).exists(), (page, target)
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", text):
            if not target.startswith("http"):
                other = (ROOT / page).parent / target if target else ROOT / page
                titles = re.findall(r"^#+ (.*)", other.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
                assert anchor in slugs, (page, target, anchor)


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in PAGES:
        if page.startswith("docs/"):
            assert f"({page})" in readme, page


def test_every_experiment_and_benchmark_is_in_the_page_on_reproducing():
    text = (ROOT / "docs/REPRODUCING.md").read_text()
    scripts = [*ROOT.glob("experiments/*.py"), *ROOT.glob("benchmarks/*.py")]
    runnable = [p for p in scripts if "__main__" in p.read_text()]
    assert [p.name for p in runnable if f"python {p.parent.name}/{p.name}" not in text] == []


def test_python_on_a_finished_sweep_runs(tmp_path):
    """The blocks of all pages that read `runs/first`, on a sweep that was written down, not trained."""
    from bpfree.tuning.records import Experiment

    project = Experiment(tmp_path / "runs/first/digits")
    project.open({"objective": "val_error", "problem_type": "classification"}, {"direction": "min"})
    grid = [(rule, lr) for rule in ("bp", "dfa") for lr in (1e-3, 1e-2)]
    for index, (rule, lr) in enumerate(grid):
        trial = project.trial(index, {"algorithm": rule, "arch": "8", "lr": lr})
        trial.begin()
        scores = []
        for k in range(3):
            execution = trial.execution(k)
            errors = [30.0 + index + k, 20.0 + 2 * index + k % 2]
            for epoch, error in enumerate(errors, 1):
                execution.append({"epoch": epoch, "loss": error / 50, "val_error": error})
            scores.append(min(errors))
            execution.finish(
                {"score": min(errors), "best_epoch": 2, "epochs": 2, "seed": k, "seconds": 1.0}
                | {"metrics": {"val_error": min(errors)}}
            )
        trial.complete(sum(scores) / 3, scores)
    found = [
        code
        for page in PAGES
        for language, code in blocks(page)
        if language == "python" and '"runs/first"' in code
    ]
    assert len(found) >= 2
    command = [sys.executable, "-c", "\n".join(found)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dfa" in done.stdout


def test_the_leaderboard_in_the_readme_looks_like_what_is_printed():
    """Its numbers, given to the function that prints it, come out as they stand there."""
    import pandas as pd
    from rich.console import Console

    from bpfree.cli import conclusion

    (shown,) = [code for language, code in blocks("README.md") if "Best hyperparameters" in code]
    rows = [re.split(r" *│ *", line.strip("│\n ")) for line in shown.splitlines() if "│" in line]
    columns = ("mean", "test_error", "test_loss", "test_accuracy")
    board = pd.DataFrame({"algorithm": [r[0] for r in rows], "lr": [float(r[1]) for r in rows]})
    for place, name in enumerate(columns, 2):
        pairs = [row[place].split(" ± ") for row in rows]
        board[name] = [float(value) for value, _ in pairs]
        board["interval" if name == "mean" else f"{name}_interval"] = [float(i) for _, i in pairs]
    board["objective"], board["n"] = "val_loss", 3
    console = Console(soft_wrap=True, width=120)
    with console.capture() as printed:
        console.print(conclusion.table(board))
    lines = [line.strip() for line in printed.get().splitlines()]
    assert lines == [line.strip() for line in shown.splitlines()]
