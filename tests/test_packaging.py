"""The package's description of itself is consistent."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import bpfree

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
PIPFILE = tomllib.loads((ROOT / "Pipfile").read_text())
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,-]+)\])?(?P<bounds>[^;\[\]]*)")

REQUIREMENTS = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(requirement for extra in EXTRAS.values() for requirement in extra),
]


def parse(requirement):
    """Name, extras and bounds, written as a Pipfile would write them."""
    found = REQUIREMENT.fullmatch(requirement)
    assert found, requirement
    extras = found["extras"].split(",") if found["extras"] else []
    return found["name"], (found["bounds"], extras)


def pipfile_section(name):
    return {
        package: (entry, []) if isinstance(entry, str) else (entry["version"], entry["extras"])
        for package, entry in PIPFILE[name].items()
    }


def test_version_has_a_single_source():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bpfree.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", bpfree.__version__)
    assert bpfree.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_installed_version_is_the_source_version():
    try:
        installed = version("bpfree")
    except PackageNotFoundError:
        pytest.skip("bpfree runs from its source here")
    assert installed == bpfree.__version__


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_dependency_is_bounded_on_both_sides(requirement):
    _, (bounds, _) = parse(requirement)
    assert re.fullmatch(r">=[\d.]+,<[\d.]+|==[\d.]+", bounds), f"{requirement}: write >=…,<… or =="


@pytest.mark.parametrize(
    ("section", "requirements"),
    [("packages", PROJECT["project"]["dependencies"]), ("dev-packages", EXTRAS["dev"])]
    + [(extra, EXTRAS[extra]) for extra in EXTRAS if extra != "dev"],
)
def test_pipfile_and_pyproject_name_the_same_dependencies(section, requirements):
    assert pipfile_section(section) == dict(map(parse, requirements))


def test_every_dependency_has_a_pin():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+(; python_version .+)?", pin) for pin in pins), pins
    names = {pin.split("==")[0] for pin in pins}
    wanted = {parse(requirement)[0].lower().replace("_", "-") for requirement in REQUIREMENTS}
    assert wanted - names == set()


@pytest.mark.parametrize("file", ["Pipfile", "constraints.txt", "pyproject.toml", "Dockerfile"])
def test_no_file_names_a_registry(file):
    text = (ROOT / file).read_text()
    assert not re.search(
        r"\[\[source\]\]|https?://|file://|--(extra-)?index-url|--find-links", text
    )


def test_import_is_instant():
    heavy = {"keras", "tensorflow", "jax", "numpy", "pandas", "matplotlib", "sklearn", "scipy"}
    script = f"import sys, bpfree, bpfree.errors; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
