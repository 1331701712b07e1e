"""What the documents tell a newcomer to type is run as it stands, with fewer epochs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a language in a document."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run(command: list, cwd: Path) -> str:
    """Runs a command of the repository elsewhere, and returns what it printed."""
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_readme_names_the_two_commands():
    commands = "".join(blocks("README.md", "bash"))
    targets = re.findall(r"^make (\w+)", commands, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}\b.*:", makefile, re.MULTILINE) for target in targets)


def alone(document: str) -> str:
    """The document's Python but for what reads a finished sweep, which `test_docs.py` runs."""
    return "\n".join(block for block in blocks(document, "python") if '"runs/first"' not in block)


DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]


def test_python_blocks_run(tmp_path):
    """Each document with names of its own, as in a notebook; in one process, since imports take longest."""
    codes = {document: code for document in DOCUMENTS if (code := alone(document))}
    program = ""
    for document, code in codes.items():
        assert "import bpfree" in code
        code = code.replace("epochs=10", "epochs=1").replace("epochs=5", "epochs=1")
        program += f"exec(compile({code!r}, {document!r}, 'exec'), {{'__name__': '__main__'}})\n"
    run([sys.executable, "-c", program], tmp_path)


@pytest.mark.slow
def test_a_rule_in_a_file_of_one_s_own_is_swept(tmp_path):
    """The command of docs/EXTENDING.md with its plugin, on a small grid."""
    (plugin,) = [b for b in blocks("docs/EXTENDING.md", "python") if "class TernaryDFA" in b]
    (tmp_path / "ternary.py").write_text(plugin)
    (command,) = blocks("docs/EXTENDING.md", "bash")
    small = "--arch=8 --activation=tanh --nobatch_norm --bw_init=ortho --reg_rate=0 --lr=1e-3"
    more = "--num_epochs=1 --executions_per_trial=1 --examples_frac=0.2 --nouse_xla"
    flags = [*shlex.split(command)[2:], *small.split(), *more.split()]
    printed = run([sys.executable, ROOT / "tune.py", *flags], tmp_path)
    assert "ternary:threshold=0.3" in printed and "bp" in printed


@pytest.mark.slow
def test_readme_sweep_run_and_reporting(tmp_path):
    """train.bash on digits instead of MNIST, then train.py, then the dataframes of the sweep."""
    for line in "".join(blocks("README.md", "bash")).splitlines():
        if line.startswith("./train.bash"):
            line = line.replace("--dataset mnist", "--lr 1e-3 --bw_init ortho")
            flags = ["--num_epochs=1", "--executions_per_trial=1"]
            assert "dfa" in run([ROOT / "train.bash", *shlex.split(line)[1:], *flags], tmp_path)
        if line.startswith("python train.py"):
            flags = [*shlex.split(line)[2:], "--num_epochs=1"]
            run([sys.executable, ROOT / "train.py", *flags], tmp_path)
    assert {"history.csv", "test.json", "model.keras", "history.png"} <= {
        path.name for path in (tmp_path / "runs/one").iterdir()
    }
    (reporting,) = [block for block in blocks("README.md", "python") if '"runs/first"' in block]
    run(
        [sys.executable, "-c", f"{reporting}\nassert len(runs) == 3 and len(curves) == 3"], tmp_path
    )


def test_rules_are_documented():
    """Every rule and alias has its row in the README's table and in docs/RULES.md."""
    from bpfree import rules

    # Other tests register rules of their own.
    own = [name for name in rules.names() if rules.parse(name)[0].__module__.startswith("bpfree.")]
    for document in ("README.md", "docs/RULES.md"):
        text = (ROOT / document).read_text()
        assert [n for n in [*own, *rules.aliases()] if not re.search(rf"`{n}[`:]", text)] == [], (
            document
        )
