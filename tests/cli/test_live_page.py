"""The report page of a running sweep: now and then, and whatever happens to it, the sweep goes on."""

import pytest

from bpfree.cli import page as live
from bpfree.cli.page import Page
from bpfree.reporting import page

pytestmark = pytest.mark.once


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves, on which a page takes 10 s; its second entry counts the pages."""
    state = [0.0, 0]

    def write(directories, file):
        state[0] += 10
        state[1] += 1

    monkeypatch.setattr(live.time, "monotonic", lambda: state[0])
    monkeypatch.setattr(page, "write", write)
    return state


def test_a_page_takes_little_of_the_time(clock, tmp_path):
    keeper = Page(tmp_path)
    pages = []
    for second in range(0, 2000, 5):
        clock[0] = max(clock[0], second)
        keeper.on_epoch_end(0)
        pages.append(clock[1])
    assert pages[11] == 0 and pages[13] == 1  # the first after a minute
    assert 10 * clock[1] <= 0.04 * 2000 and clock[1] > 2


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError("a bug"), MemoryError()]
)
def test_nothing_about_the_page_stops_a_sweep(error, tmp_path, monkeypatch, capsys):
    def fail(directories, file):
        raise error

    monkeypatch.setattr(page, "write", fail)
    assert Page(tmp_path).write() is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "report.html could not be written" in said


def test_its_clock_is_no_execution_s():
    assert Page.shared


def test_a_stranger_s_file_is_left_alone(tmp_path, capsys):
    (tmp_path / "experiment.json").write_text("{}")
    (tmp_path / "report.html").write_text("mine")
    assert Page(tmp_path).write() is None
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_project_that_has_hardly_begun_gets_its_page(tmp_path):
    (tmp_path / "trials").mkdir()
    assert "No trial is completed yet" in Page(tmp_path).write().read_text()
