"""example.ipynb is run as it stands, at a reduced size, and what it stores is fit to be published."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.once

FILE = Path(__file__).resolve().parents[1] / "example.ipynb"
SMALL = 'DATASET = "digits"\nEPOCHS = 1\nRATES = [1e-3, 1e-2]\nTUNING_SEEDS, FRESH_SEEDS = 1, 2\n'


def read():
    notebook = nbformat.read(FILE, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(cells):
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    return cell


def assigned(source):
    return set(re.findall(r"^([A-Z_]+)(?:, ([A-Z_]+))? = ", source, re.MULTILINE))


def test_it_stores_the_outputs_of_one_run_without_noise():
    notebook, cells = read()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 7
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = "".join(cell.source for cell in notebook.cells)
    for output in outputs:
        text += output.get("text", "")
        text += "".join(v for k, v in output.get("data", {}).items() if k.startswith("text/"))
    assert not re.search(r"(?<![\w.<])/(work|home|root|tmp|usr)/|warning", text, re.IGNORECASE)
    assert FILE.stat().st_size < 1_500_000


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """One epoch, two rates; the digits, wherever it runs."""
    monkeypatch.setenv("PYTHONPATH", str(FILE.parent))
    notebook, cells = read()
    constants = parameters(cells)
    small = f"{SMALL}RUNS = {str(tmp_path / 'runs')!r}\n"
    assert assigned(small) == assigned(constants.source)
    constants.source = small
    for cell in cells:
        cell.outputs = []
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    figures = [
        output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 7
    kept = {path.name for path in (tmp_path / "runs").iterdir()}
    assert kept == {"rates", "final", "own-rates", "own-final"}
