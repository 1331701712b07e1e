"""The record store: atomic writes, torn files, refusals in one sentence, death at any moment."""

import builtins
import errno
import hashlib
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bpfree.errors import UserError
from bpfree.tuning.records import Experiment, check_place, read_json, write_atomic, write_json

pytestmark = pytest.mark.once

FAKE_SWEEP = Path(__file__).with_name("fake_sweep.py")
HYPERPARAMETERS = {"algorithm": "dfa", "lr": 0.1, "batch_norm": False}


@pytest.fixture
def experiment(tmp_path):
    return Experiment(tmp_path / "project")


@pytest.fixture
def execution(experiment):
    return experiment.trial(0, HYPERPARAMETERS).execution(0)


def rows(epochs):
    return [{"epoch": e, "loss": 1 / e, "val_loss": math.sqrt(e)} for e in range(1, epochs + 1)]


def fill(execution, epochs):
    for row in rows(epochs):
        execution.append(row)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sentence(caught):
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and text.count(". ") == 0
    return text


# ------------------------------------------------------------------------------ single files


def test_write_atomic_replaces_text_and_bytes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, "é")
    assert path.read_bytes() == b"\xc3\xa9"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["file"]


def test_write_atomic_gives_the_permissions_that_any_new_file_gets(tmp_path):
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_write_atomic_syncs_the_file_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def spy_fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append((kind, os.fstat(descriptor).st_size if kind == "file" else None))
        fsync(descriptor)

    def spy_replace(source, target):
        calls.append(("rename", Path(source).parent == Path(target).parent))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_atomic(tmp_path / "file", "12345")
    assert calls == [("file", 5), ("rename", True), ("folder", None)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("function", ["os.replace", "os.fsync", "builtins.open"])
def test_a_full_or_read_only_disk_gets_a_sentence_and_spoils_nothing(
    tmp_path, monkeypatch, number, function
):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    module, name = {"os": os, "builtins": builtins}[function.split(".")[0]], function.split(".")[1]
    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(module, name, refuse)
        write_atomic(path, "new")
    text = sentence(caught)
    assert str(path) in text and os.strerror(number).lower() in text
    assert files(tmp_path) == {Path("file"): b"old"}


def test_other_errors_of_the_disk_pass_and_leave_no_temporary_file(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken"):
        patch.setattr(os, "fsync", refuse)
        write_atomic(tmp_path / "file", "new")
    assert files(tmp_path) == {}


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupt)
        write_atomic(tmp_path / "file", "new")
    assert files(tmp_path) == {}


def test_a_folder_that_is_a_file_gets_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(UserError) as caught:
        Experiment(tmp_path / "runs" / "x").open({})
    assert str(tmp_path / "runs" / "x") in sentence(caught)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_gets_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError) as caught:
        write_atomic(tmp_path / "file", "new")
    tmp_path.chmod(0o700)
    assert "permission denied" in sentence(caught)


def test_json_is_strict_and_reads_back_what_json_cannot_say(tmp_path):
    content = {"a": math.inf, "b": [-math.inf, 0.1], "c": {"d": None, "e": True, "f": "é"}}
    write_json(tmp_path / "x.json", {**content, "g": math.nan})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=refuse)["g"] == "nan"
    back = read_json(tmp_path / "x.json")
    assert math.isnan(back.pop("g")) and back == content


def test_json_takes_numpy_numbers_and_paths(tmp_path):
    content = {"f": np.float32(0.1), "g": np.float64("nan"), "i": np.int64(3), "b": np.bool_(True)}
    write_json(tmp_path / "x.json", {**content, "a": np.array([1.5, np.inf]), "p": tmp_path})
    back = read_json(tmp_path / "x.json")
    assert math.isnan(back.pop("g"))
    expected = {"f": float(np.float32(0.1)), "i": 3, "b": True, "a": [1.5, math.inf]}
    assert back == {**expected, "p": str(tmp_path)}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe\x00", b"\0" * 40, b"[" * 9999])
def test_spoilt_json_is_set_aside_with_a_warning(tmp_path, content):
    path = tmp_path / "x.json"
    for name in ("x.json.corrupt", "x.json.corrupt-1", "x.json.corrupt-2"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=rf"x\.json is spoilt: set aside as {name}\.$"):
            assert read_json(path) is None
        assert not path.exists() and (tmp_path / name).read_bytes() == content


def test_missing_json_is_none_without_a_warning(tmp_path):
    assert read_json(tmp_path / "x.json") is None


# ------------------------------------------------------------------------------ the experiment


def test_opening_again_with_the_same_configuration_changes_nothing(experiment):
    configuration = {"lr": [0.1, 0.01], "clip": math.inf, "shape": (8, 8), "seed": np.int64(0)}
    experiment.open(configuration, {"commit": "abc", "direction": "min"})
    before = files(experiment.path)
    experiment.open(dict(reversed(configuration.items())), {"commit": "def"})
    assert files(experiment.path) == before
    record = experiment.record()
    assert record["commit"] == "abc" and record["direction"] == "min"
    assert record["configuration"] == {**configuration, "shape": [8, 8]}


def test_another_configuration_is_refused_by_name_of_what_differs(experiment):
    experiment.open({"lr": 0.1, "num_epochs": 10, "space": {"arch": ["500"], "bn": [True]}})
    before = files(experiment.path)
    with pytest.raises(UserError) as caught:
        experiment.open({"num_epochs": 20, "space": {"arch": ["1000"], "bn": [True]}, "lr": 0.1,
                         "seed": None})  # fmt: skip
    text = sentence(caught)
    assert "num_epochs is 10 there and 20 here" in text
    assert 'arch is ["500"] there and ["1000"] here' in text
    assert "seed is missing there and null here" in text
    assert "lr" not in text and "bn" not in text
    assert str(experiment.path) in text and "--reset_training" in text
    assert files(experiment.path) == before


def test_of_another_space_only_what_differs_is_named(experiment):
    """Once, though the command line's choices have it as well; long values and lists are cut."""

    def space(**swept):
        parameters = [
            {"type": "Choice", "name": name, "values": values, "default": values[0]}
            for name, values in {"algorithm": ["bp", "dfa"], "lr": [0.1], **swept}.items()
        ]
        return {"choices": swept, "space": parameters}

    fixed = {"type": "Fixed", "name": "scaler", "value": "standard", "conditions": []}
    first = space(algorithm=["bp", "dfa"])
    experiment.open(first)
    with pytest.raises(UserError, match=r'\(scaler is missing there and "standard" here\)'):
        experiment.open({**first, "space": [*first["space"], fixed]})
    with pytest.raises(UserError, match=r"\(space has another order or other conditions\)"):
        experiment.open({**first, "space": first["space"][::-1]})
    with pytest.raises(UserError) as caught:
        experiment.open(space(algorithm=["bp", "dfa", "drtp"]))
    text = sentence(caught)
    assert '(algorithm is ["bp","dfa"] there and ["bp","dfa","drtp"] here)' in text
    with pytest.raises(UserError) as caught:
        experiment.open(space(**{f"rate{n}": [0.1] * 99 for n in range(20)}))
    assert "15 more" in sentence(caught) and len(str(caught.value)) < 1000


def test_an_experiment_that_does_not_tell_its_configuration_is_not_compared(experiment):
    experiment.trial(0, HYPERPARAMETERS).save()
    with pytest.raises(UserError, match="does not tell its configuration"):
        experiment.compare({"seed": 0})


def test_clearing_deletes_what_is_ours_alone(experiment):
    experiment.open({"seed": 0})
    experiment.trial(0, HYPERPARAMETERS).save()
    (experiment.path / "model.keras").write_text("ours")
    (experiment.path / "notes.txt").write_text("mine")
    experiment.clear()
    assert files(experiment.path) == {Path("notes.txt"): b"mine"}
    (experiment.path / "model.keras").write_text("mine")
    experiment.clear()
    assert (experiment.path / "model.keras").read_text() == "mine"
    (experiment.path / "notes.txt").unlink()
    experiment.open({"seed": 0})
    experiment.clear()
    assert not experiment.path.exists()


def test_nothing_is_cleared_that_another_process_works_on(experiment):
    experiment.open({"seed": 0})
    with experiment.lock():
        before = files(experiment.path)
        with pytest.raises(UserError, match="in use"):
            Experiment(experiment.path).clear()
        assert files(experiment.path) == before


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "file exists"),
        ("file/below", "not a directory"),
        ("x" * 300, "file name too long"),
        ("/proc/foo/bar", "no such file"),
    ],
)
def test_a_place_where_nothing_can_be_written_gets_a_sentence(tmp_path, place, reason):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as caught:
        check_place(tmp_path / place)
    assert reason in sentence(caught)
    assert files(tmp_path) == {Path("file"): b"mine"}


def test_checking_a_place_leaves_nothing(tmp_path):
    check_place(tmp_path / "a" / "b")
    check_place(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_trial_is_named_by_index_and_hash_of_its_values(experiment):
    text = '{"algorithm":"dfa","batch_norm":false,"lr":0.1}'
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert experiment.trial(3, HYPERPARAMETERS).id == f"0003-{digest}"
    assert experiment.trial(12345, dict(reversed(HYPERPARAMETERS.items()))).id == f"12345-{digest}"
    assert experiment.trial(3, {**HYPERPARAMETERS, "lr": 0.2}).id != f"0003-{digest}"
    assert not experiment.path.exists()


def test_a_trial_lives_on_disk(experiment):
    trial = experiment.trial(0, HYPERPARAMETERS)
    assert (trial.state, trial.score, trial.attempts) == ("pending", None, 0)
    trial.begin()
    trial.fail("Traceback\nOSError: x", [0.5])
    [again] = experiment.trials()
    assert (again.id, again.index, again.hyperparameters) == (trial.id, 0, HYPERPARAMETERS)
    assert (again.state, again.failure, again.scores) == ("failed", "Traceback\nOSError: x", [0.5])
    again.begin()
    trial = experiment.trial(0, HYPERPARAMETERS)
    assert (trial.state, trial.failure, trial.attempts) == ("running", None, 2)
    trial.complete(math.nan, [1.0, math.nan])
    [again] = experiment.trials()
    assert again.state == "completed" and math.isnan(again.score) and again.scores[0] == 1.0
    text = (again.path / "trial.json").read_text()
    keys = ["id", "index", "hyperparameters", "state", "score", "scores", "failure"]
    assert list(json.loads(text)) == [*keys, "attempts", "deaths", "epochs"]


def test_deaths_count_kills_without_an_epoch_between(experiment):
    """Begun again while running: a death, unless an epoch was recorded since the last beginning."""
    deaths = []
    for epochs in (0, 0, 1, 0, 0):
        trial = experiment.trial(0, HYPERPARAMETERS)
        known = trial.killed()
        trial.begin()
        assert trial.deaths == known
        deaths.append(known)
        recorded = len(trial.execution(0).history())
        for epoch in range(epochs):
            trial.execution(0).append({"epoch": recorded + epoch + 1, "loss": 0.5})
    assert deaths == [0, 1, 2, 0, 1]


def test_what_was_stopped_is_no_death_and_forgives_none(experiment):
    """Killed, killed, stopped, killed: three deaths; a stop after an epoch begins the count anew."""
    deaths = []
    for stopped, epochs in [(0, 0), (0, 0), (1, 0), (0, 0), (1, 1), (0, 0)]:
        trial = experiment.trial(0, HYPERPARAMETERS)
        trial.begin()
        deaths.append(trial.deaths)
        recorded = len(trial.execution(0).history())
        for epoch in range(epochs):
            trial.execution(0).append({"epoch": recorded + epoch + 1, "loss": 0.5})
        for _ in range(2 * stopped):  # the second time before it was begun again
            experiment.trials()[0].leave()
    assert deaths == [0, 1, 2, 2, 3, 0]
    assert experiment.trial(0, HYPERPARAMETERS).killed() == 1


def test_trials_and_executions_come_in_the_order_of_their_numbers(experiment):
    for index in (10, 2, 10_000, 9_999):
        experiment.trial(index, {"lr": index}).save()
    trial = experiment.trial(2, {"lr": 2})
    for k in (10, 9, 0):
        fill(trial.execution(k), 1)
    (experiment.path / "trials" / "notes.txt").write_text("mine")
    (trial.path / "execution-old").mkdir()
    assert [trial.index for trial in experiment.trials()] == [2, 10, 9_999, 10_000]
    assert [execution.index for execution in trial.executions()] == [0, 9, 10]


def test_a_lost_trial_finds_its_executions_again(experiment):
    trial = experiment.trial(0, HYPERPARAMETERS)
    trial.begin()
    fill(trial.execution(0), 2)
    trial.execution(0).finish({"score": 0.5})
    (trial.path / "trial.json").write_text('{"id": ')
    with pytest.warns(UserWarning, match="trial.json is spoilt"):
        [lost] = experiment.trials()
    assert lost.hyperparameters == {} and lost.state == "pending"
    found = experiment.trial(0, HYPERPARAMETERS)
    assert found.hyperparameters == HYPERPARAMETERS
    assert found.executions()[0].result() == {"score": 0.5}
    assert found.executions()[0].history() == rows(2)


def test_a_spoilt_experiment_file_is_written_anew(experiment):
    experiment.open({"seed": 0})
    (experiment.path / "experiment.json").write_text("")
    with pytest.warns(UserWarning, match="experiment.json is spoilt"):
        experiment.open({"seed": 1})
    assert experiment.record() == {"configuration": {"seed": 1}}


def test_every_prefix_of_every_json_file_is_survived(experiment):
    experiment.open({"num_epochs": 3})
    trial = experiment.trial(0, HYPERPARAMETERS)
    trial.execution(0).finish({"score": 0.5})
    trial.complete(0.5, [0.5])

    def reopen():
        experiment.open({"num_epochs": 3})
        for trial in [*experiment.trials(), experiment.trial(0, HYPERPARAMETERS)]:
            trial.execution(0).result()

    for name in ("experiment.json", "trial.json", "result.json"):
        [path] = experiment.path.rglob(name)
        whole = path.read_bytes()
        for length in range(len(whole) - 1):  # without its last newline it is still whole
            path.write_bytes(whole[:length])
            with pytest.warns(UserWarning, match=f"{name} is spoilt"):
                reopen()
            aside = path.with_name(f"{name}.corrupt")
            assert aside.read_bytes() == whole[:length]
            aside.unlink()
        path.write_bytes(whole)
    reopen()  # whole again: not a warning


def test_read_only_touches_nothing(experiment):
    trial = experiment.trial(0, HYPERPARAMETERS)
    trial.complete(1.0, [1.0])
    fill(trial.execution(0), 2)
    with open(trial.execution(0).history_file, "a") as file:
        file.write("3,0.")
    for path in (
        experiment.path / "experiment.json",
        trial.path / "trial.json",
        trial.execution(0).result_file,
    ):
        path.write_text("{")
    before = files(experiment.path)
    reader = Experiment(experiment.path, read_only=True)
    with pytest.warns(UserWarning, match="taken as missing"):
        assert reader.record() == {}
    with pytest.warns(UserWarning, match="taken as missing"):
        [trial] = reader.trials()
    with pytest.warns(UserWarning, match="taken as missing"):
        assert trial.executions()[0].result() is None
    assert trial.executions()[0].history() == rows(2)
    assert files(experiment.path) == before


def test_progress_counts_epochs_executions_and_trials(experiment):
    counts = [experiment.progress()]
    trial = experiment.trial(0, HYPERPARAMETERS)
    trial.begin()
    counts.append(experiment.progress())
    for row in rows(2):
        trial.execution(0).append(row)
        counts.append(experiment.progress())
    trial.execution(0).finish({})
    counts.append(experiment.progress())
    trial.complete(0.0, [0.0])
    counts.append(experiment.progress())
    experiment.trial(1, {}).fail("")
    counts.append(experiment.progress())
    assert counts == [0, 0, 1, 2, 3, 4, 5]


def test_one_process_at_a_time(experiment):
    with experiment.lock():
        with pytest.raises(UserError) as caught:
            with Experiment(experiment.path).lock():
                pass
        assert f"process {os.getpid()} on " in sentence(caught)
    with experiment.lock():
        pass


def test_the_lock_removes_what_a_killed_process_left_half_written(experiment):
    fill(experiment.trial(0, {}).execution(0), 1)
    (experiment.path / "log" / "0000" / "execution-0").mkdir(parents=True)
    kept = files(experiment.path)
    for folder in (experiment.path, *filter(Path.is_dir, [*experiment.path.rglob("*")])):
        (folder / ".checkpoint.12345678.tmp").touch()
    with experiment.lock():
        assert set(files(experiment.path)) == {*kept, Path("lock")}


# ------------------------------------------------------------------------------ histories


def test_floats_come_back_exactly(execution):
    values = [0.1 + 0.2, 5e-324, -1.7976931348623157e308, math.inf, -math.inf, math.nan, -0.0]
    for epoch, value in enumerate(values, 1):
        execution.append({"epoch": epoch, "loss": value})
    back = [row["loss"] for row in execution.history()]
    assert [repr(x) for x in back] == [repr(x) for x in values]
    lines = execution.history_file.read_text().splitlines()
    assert lines[:2] == ["epoch,loss", "1,0.30000000000000004"]
    assert lines[4:7] == ["4,inf", "5,-inf", "6,nan"]


def test_numpy_values_and_awkward_names(execution):
    row = {"epoch": np.int64(1), 'a,"b"': np.float32(0.1), "bp_cosine/block_1": 1}
    execution.append(row)
    expected = {"epoch": 1, 'a,"b"': float(np.float32(0.1)), "bp_cosine/block_1": 1.0}
    assert execution.history() == [expected]
    assert isinstance(execution.history()[0]["epoch"], int)


def test_epochs_come_one_after_the_other(execution):
    fill(execution, 2)
    for epoch in (0, 1, 2, 4):
        with pytest.raises(ValueError, match="Epoch 3 of .* is next"):
            execution.append({"epoch": epoch, "loss": 0.0, "val_loss": 0.0})
    assert execution.history() == rows(2)


def test_a_torn_tail_at_any_byte_is_dropped_and_repaired(execution):
    fill(execution, 3)
    whole = execution.history_file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        execution.history_file.write_bytes(whole[:length])
        complete = max(0, sum(end <= length for end in ends) - 1)
        assert execution.history() == rows(3)[:complete]
        for row in rows(3)[complete:]:
            execution.append(row)
        assert execution.history_file.read_bytes() == whole


@pytest.mark.parametrize(
    "tail",
    [b"4,0.1\n", b"4,0.1,0.2,0.3\n", b"4,x,0.1\n", b"6,0.1,0.2\n", b"3,0.1,0.2\n", b"\0\0\0\n",
     b"\n", b'4,"0.1,0.2\n', b"\xff\xfe", b"x,0.1,0.2\n"],
)  # fmt: skip
def test_lines_that_are_no_epoch_are_dropped(execution, tail):
    fill(execution, 4)
    whole = execution.history_file.read_bytes()
    execution.cut(3)
    with open(execution.history_file, "ab") as file:
        file.write(tail)
    assert execution.history() == rows(3)
    execution.append(rows(4)[3])
    assert execution.history_file.read_bytes() == whole


def test_cut_keeps_the_epochs_up_to_the_checkpoint(execution):
    assert execution.cut(0) == [] and not execution.history_file.exists()
    fill(execution, 5)
    assert execution.cut(7) == rows(5)
    assert execution.cut(3) == rows(3) == execution.history()
    execution.append(rows(4)[3])
    assert execution.cut(0) == [] == execution.history()
    fill(execution, 1)
    assert execution.history() == rows(1)


def test_cut_tells_that_a_history_was_damaged(execution):
    fill(execution, 5)
    text = execution.history_file.read_text()
    execution.history_file.write_text(text.replace("\n3,", "\n3;"))
    assert execution.cut(4) == rows(2) == execution.history()


def test_a_column_may_turn_up_or_stay_away(execution):
    execution.append({"epoch": 1, "loss": 0.5})
    execution.append({"epoch": 2, "loss": 0.4, "cosine": 0.9})
    execution.append({"cosine": 0.8, "epoch": 3})
    expected = "epoch,loss,cosine\n1,0.5,\n2,0.4,0.9\n3,,0.8\n"
    assert execution.history_file.read_text() == expected
    assert execution.history() == [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": 0.4, "cosine": 0.9},
        {"epoch": 3, "cosine": 0.8},
    ]


def test_appending_does_not_rewrite_the_file(execution):
    fill(execution, 1)
    inode = execution.history_file.stat().st_ino
    execution.append(rows(2)[1])
    assert execution.history_file.stat().st_ino == inode


def test_an_epoch_is_synced_before_append_returns(execution, monkeypatch):
    fill(execution, 1)
    synced, fsync = [], os.fsync

    def spy(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    execution.append(rows(2)[1])
    status = execution.history_file.stat()
    assert synced == [(status.st_ino, status.st_size)]


def test_a_disk_full_in_mid_append_leaves_the_history_as_before(execution, monkeypatch):
    fill(execution, 2)
    before = files(execution.path)

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(os, "fsync", refuse)
        execution.append(rows(3)[2])
    assert str(execution.history_file) in sentence(caught)
    assert files(execution.path) == before
    execution.append(rows(3)[2])
    assert execution.history() == rows(3)


def test_two_handles_on_one_history_agree(experiment):
    one, two = (experiment.trial(0, {}).execution(0) for _ in range(2))
    one.append(rows(1)[0])
    two.append(rows(2)[1])
    one.append(rows(3)[2])
    assert one.history() == two.history() == rows(3)


def test_a_result_makes_an_execution_finished(execution):
    assert execution.result() is None
    result = {"score": 0.5, "best_epoch": 2, "epochs": 3, "seed": 7, "metrics": {"loss": math.inf}}
    execution.finish(result)
    assert execution.result() == result


# ------------------------------------------------------------------------------ death


def fake_sweep(*arguments):
    """In a bare interpreter: it starts and forks in milliseconds, and shows that none is needed."""
    command = [sys.executable, "-S", "-E", str(FAKE_SWEEP), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "null")


def remains(folder):
    """All files but those that tell how often it was begun."""
    content = files(folder)
    content.pop(Path("lock"))
    for path in content:
        if path.name == "trial.json":
            begun = dict.fromkeys(("attempts", "deaths", "epochs"))
            content[path] = {**json.loads(content[path]), **begun}
    return content


def test_a_sweep_killed_at_random_moments_equals_an_undisturbed_one(tmp_path):
    fake_sweep("sweep", tmp_path / "undisturbed")
    expected = remains(tmp_path / "undisturbed")
    assert sum(path.name == "history.csv" for path in expected) == 6
    report = fake_sweep("kill", tmp_path / "killed", 0, 50)
    assert report["killed"] == 50
    sweeps = list((tmp_path / "killed").iterdir())
    assert sum(t.attempts for s in sweeps for t in Experiment(s).trials()) > 3 * len(sweeps)
    for folder in sweeps:
        assert remains(folder) == expected


def test_a_sweep_that_dies_at_any_system_call_equals_an_undisturbed_one(tmp_path):
    report = fake_sweep("crash", tmp_path)
    assert report["crashes"] > 50
    expected = remains(tmp_path / str(report["crashes"]))  # this one got through
    assert sum(path.name == "history.csv" for path in expected) == 2
    for n in range(report["crashes"]):
        assert remains(tmp_path / str(n)) == expected, n


def test_records_load_neither_keras_nor_numpy():
    code = (
        "import sys, bpfree.tuning.records, bpfree.tuning.statistics;"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
