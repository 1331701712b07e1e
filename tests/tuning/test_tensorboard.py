"""What TensorBoard shows of a search, read back by TensorBoard itself: the plugins' own back ends."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)
from tensorboard.util import tensor_util

import bpfree
from bpfree.analysis import trackers
from bpfree.tuning import GridSearch, Hyperband, population, space
from bpfree.tuning.hypermodel import HyperModel
from bpfree.tuning.tensorboard import Log, TensorBoard

EPOCHS, EXECUTIONS, EVERY = 3, 2, 2
RATES = [0.003, 0.03]
GIVEN = {
    "algorithm": ["bp", "dfa"],
    "arch": ["9-7"],
    "activation": ["tanh"],
    "batch_norm": [False],
    "bw_init": ["ortho"],
    "reg_rate": [0.0],
    "lr": RATES,
}
STATUSES = [
    *(api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS),
    *(api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING),
]


def made(folder, given, kind=GridSearch, **options):
    data = bpfree.data.load("digits", examples_frac=0.1, seed=0)
    choices = space.choices({**GIVEN, **given}, "classification", "val_loss")
    model = HyperModel(data.input_shape, 10, choices, EPOCHS, len(data.x_train), use_xla=False)
    options = {"executions_per_trial": EXECUTIONS, "verbose": 0, **options}
    return kind(model, directory=folder, project_name="p", **options), data


def search(folder, given=(), before=(), after=(), histogram_freq=EVERY, **options):
    """A search with a log, and what else its epochs go through."""
    tuner, data = made(folder, dict(given), **options)
    log = Log(tuner, data, histogram_freq)

    def callbacks(model, trial, k):
        return [*before, *log.callbacks(model, trial, k), *after]

    tuner.search(data, epochs=EPOCHS, callbacks=callbacks)
    return SimpleNamespace(tuner=tuner, data=data, path=folder / "p" / "log", folder=folder)


def dashboard(path):
    """Experiment and session groups as the HParams plugin hands them to its page."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(path))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(path))
    context = backend_context.Context(TBContext(data_provider=provider))
    ctx = RequestContext()
    experiment = get_experiment.Handler(ctx, context, "x", api_pb2.GetExperimentRequest()).run()
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=STATUSES
    )
    groups = list_session_groups.Handler(ctx, context, "x", request).run().session_groups
    return experiment, list(groups)


def events(folder):
    """A run, everything in it kept."""
    everything = {"tensors": 0}
    accumulator = EventAccumulator(str(folder), everything, everything)
    accumulator.Reload()
    return accumulator


def values(accumulator, tag):
    """Step and value of a scalar or histogram, in the order in which they are shown."""
    return [
        (event.step, tensor_util.make_ndarray(event.tensor_proto))
        for event in accumulator.Tensors(tag)
    ]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    data = bpfree.data.load("digits", examples_frac=0.1, seed=0)
    x, y = data.x_train[:16] / np.float32(255), data.y_train[:16]
    return search(tmp_path_factory.mktemp("searched"), before=[trackers.Weights(x, y)])


def test_the_dashboard_declares_the_space_and_the_metrics(searched):
    experiment, _ = dashboard(searched.path)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert set(infos) == set(space.NAMES)
    assert {name for name, info in infos.items() if info.differs} == {"algorithm", "lr"}
    domains = {name: list(info.domain_discrete) for name, info in infos.items()}
    assert domains["lr"] == RATES and infos["lr"].type == api_pb2.DATA_TYPE_FLOAT64
    assert domains["algorithm"] == ["bp", "dfa"]
    assert domains["batch_norm"] == [False]
    assert infos["batch_norm"].type == api_pb2.DATA_TYPE_BOOL
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags[0] == "score"
    assert {"loss", "val_loss", "error", "val_error"} <= set(tags)
    assert not [tag for tag in tags if "/" in tag]
    assert experiment.metric_infos[0].display_name == "val_loss, best epoch"


def test_a_trial_is_a_group_of_its_executions(searched):
    _, groups = dashboard(searched.path)
    names = [f"{i:04d} {rule} 9-7 tanh lr {lr:g}" for i, (rule, lr) in enumerate(GRID)]
    assert [group.name for group in groups] == names
    for group, (rule, lr) in zip(groups, GRID, strict=True):
        assert group.hparams["algorithm"].string_value == rule
        assert group.hparams["lr"].number_value == lr
        assert ("bw_init" in group.hparams) == (rule == "dfa")
        sessions = [f"{group.name}/execution-{k}" for k in range(EXECUTIONS)]
        assert [session.name for session in group.sessions] == sessions
        assert {session.status for session in group.sessions} == {api_pb2.STATUS_SUCCESS}
        assert all(s.end_time_secs >= s.start_time_secs > 0 for s in group.sessions)


GRID = [(rule, lr) for rule in GIVEN["algorithm"] for lr in RATES]


def test_the_metrics_are_those_of_the_records(searched):
    _, groups = dashboard(searched.path)
    for group, trial in zip(groups, searched.tuner.experiment.trials(), strict=True):
        shown = {value.name.tag: value.value for value in group.metric_values}
        assert shown["score"] == pytest.approx(trial.score, rel=1e-6)
        last = [execution.history()[-1] for execution in trial.executions()]
        for name in ("loss", "val_error"):
            assert shown[name] == pytest.approx(np.mean([row[name] for row in last]), rel=1e-6)


def test_scalars_are_the_history(searched):
    trial = searched.tuner.experiment.trials()[2]
    run = events(searched.path / "0002 dfa 9-7 tanh lr 0.003" / "execution-1")
    history = trial.execution(1).history()
    assert "weights/block_2" in history[0]
    for name in history[0].keys() - {"epoch"}:
        expected = [(row["epoch"], np.float32(row[name])) for row in history]
        assert values(run, name) == expected
    best = np.minimum.accumulate([row["val_loss"] for row in history]).astype("float32")
    assert [value for _, value in values(run, "score")] == list(best)


def test_histograms_of_weights_and_activations(searched):
    """Every second epoch of three is one: the second. Counts and range are NumPy's."""
    run = events(searched.path / "0003 dfa 9-7 tanh lr 0.03" / "execution-0")
    sizes = {
        **{"block_1/kernel": 64 * 9, "block_1/bias": 9, "block_2/kernel": 63, "block_2/bias": 7},
        **{"head/kernel": 70, "head/bias": 10},
        **{"block_1/activation": 9 * probed(searched), "block_2/activation": 7 * probed(searched)},
    }
    for tag, size in sizes.items():
        ((step, table),) = values(run, tag)
        assert step == EVERY
        assert table[:, 2].sum() == size, tag
    histograms = [tag for tag in run.Tags()["tensors"] if tag.split("/")[0] in ("block_1", "head")]
    assert set(histograms) == {tag for tag in sizes if not tag.startswith("block_2")}


def probed(searched):
    x, _ = searched.tuner.probe(searched.data, {"batch_size": 64, "scaler": "standard"})
    return len(x)


@pytest.mark.once
def test_a_histogram_is_that_of_the_kept_weights(tmp_path):
    """After the last epoch: its weights are the best ones, as score=last keeps them."""
    given = {"algorithm": ["dfa"], "lr": RATES[:1]}
    found = search(tmp_path, given, histogram_freq=EPOCHS, score="last")
    (trial,) = found.tuner.experiment.trials()
    kernel = np.load(trial.execution(0).best_weights)
    (model,) = found.tuner.get_best_models()
    x, _ = found.tuner.probe(found.data, trial.hyperparameters)
    best = int(np.argmin(trial.scores))
    run = events(found.path / "0000 dfa 9-7 tanh lr 0.003" / f"execution-{best}")
    expected = {
        "block_1/kernel": model.network.blocks[0].trainable_variables[0],
        "block_2/activation": model.network.trace(x, training=False)[1],
    }
    assert kernel
    for tag, array in expected.items():
        array = keras.ops.convert_to_numpy(array)
        ((_, table),) = values(run, tag)
        assert table[0, 0] == pytest.approx(array.min(), abs=1e-5)
        assert table[-1, 1] == pytest.approx(array.max(), abs=1e-5)


@pytest.mark.once
def test_a_run_s_name_says_what_is_swept(tmp_path):
    given = {"lr": RATES[:1], "batch_size": [32, 64], "algorithm": ["fg:guess=local,target=local"]}
    tuner, data = made(tmp_path, given)
    trial = tuner.experiment.trial(1, tuner.oracle.points()[1])
    name = "0001 fg:guess=local,target=local 9-7 tanh batch_size 64 lr 0.003"
    assert Log(tuner, data).run_name(trial) == name
    trial.hyperparameters["arch"] = "folder/with " + 300 * "x"
    name = Log(tuner, data).run_name(trial)
    assert "/" not in name and len(name) <= 150


class Diverging(keras.callbacks.Callback):
    """Lets the rule dfa's loss become infinite after the second epoch."""

    reads_weights = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            logs["loss"] = np.inf


@pytest.mark.once
def test_what_fails_is_a_failure(tmp_path):
    given = {"algorithm": ["dfa"], "lr": RATES[:1]}
    found = search(tmp_path, given, before=[Diverging()])
    assert [trial.state for trial in found.tuner.experiment.trials()] == ["failed"]
    _, (group,) = dashboard(found.path)
    assert group.sessions[0].status == api_pb2.STATUS_FAILURE
    assert all(session.status == api_pb2.STATUS_FAILURE for session in group.sessions)


FIVE = {"algorithm": ["dfa"], "lr": [0.0001, 0.001, 0.003, 0.01, 0.03]}
"""Of these Hyperband tries three for an epoch and the best for three, and the others for three at once."""


def halved(folder, before):
    """The trials of a Hyperband search, with the statuses of their sessions."""
    found = search(folder, FIVE, before, kind=Hyperband, executions_per_trial=1, histogram_freq=0)
    _, groups = dashboard(found.path)
    shown = {group.name[:4]: group.sessions[0].status for group in groups}
    trials = found.tuner.experiment.trials()
    return [(trial, shown[f"{trial.index:04d}"]) for trial in trials]


@pytest.mark.once
@pytest.mark.parametrize(
    ("before", "end"), [([], api_pb2.STATUS_SUCCESS), ([Diverging()], api_pb2.STATUS_FAILURE)]
)
def test_a_pause_is_not_the_end_of_a_session(tmp_path, before, end):
    found = halved(tmp_path, before)
    lengths = [len(trial.execution(0).history()) for trial, _ in found]
    assert lengths.count(1) == 2 and lengths[3:] == [2 if before else EPOCHS] * 2
    for length, (_, status) in zip(lengths, found, strict=True):
        assert status == (api_pb2.STATUS_UNKNOWN if length == 1 else end)


class Stopping(keras.callbacks.Callback):
    """Stops every other execution after its first epoch."""

    reads_weights, shared = False, True
    begun = 0

    def on_epoch_end(self, epoch, logs=None):
        self.begun += epoch == 0
        if epoch == 0 and self.begun % 2:
            self.model.stop_training = True


def test_what_is_stopped_where_it_would_pause_has_come_to_its_end(tmp_path):
    for trial, status in halved(tmp_path, [Stopping()]):
        epochs = len(trial.execution(0).history())
        stopped = trial.index % 2 == 0
        assert epochs == 1 or not stopped
        over = stopped or epochs == EPOCHS
        assert status == (api_pb2.STATUS_SUCCESS if over else api_pb2.STATUS_UNKNOWN)


class Killing(keras.callbacks.Callback):
    """Interrupts the process in the second epoch, before anything is recorded of it."""

    reads_weights = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.once
def test_what_goes_on_after_a_kill_is_one_curve(tmp_path):
    """On JAX as a population, on TensorFlow alone."""
    given = {"algorithm": ["dfa"], "lr": RATES[:1]}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, given, after=[Killing()])
    _, groups = dashboard(tmp_path / "p" / "log")
    running = {session.status for group in groups for session in group.sessions}
    assert running == {api_pb2.STATUS_UNKNOWN}
    found = search(tmp_path, given)
    _, (group,) = dashboard(found.path)
    assert [session.status for session in group.sessions] == [api_pb2.STATUS_SUCCESS] * EXECUTIONS
    (trial,) = found.tuner.experiment.trials()
    for k in range(EXECUTIONS):
        run = events(found.path / group.name / f"execution-{k}")
        expected = [(row["epoch"], np.float32(row["loss"])) for row in trial.execution(k).history()]
        assert values(run, "loss") == expected
        assert values(run, "score")[-1][1] == np.float32(trial.scores[k])


@pytest.mark.once
def test_the_dashboard_knows_the_rates_that_rules_were_given(tmp_path):
    """Each rule's is a hyperparameter of its own, by the same name."""
    tuner, data = made(tmp_path, GIVEN)
    tuner = GridSearch(
        HyperModel(
            data.input_shape,
            10,
            space.choices(GIVEN, "classification", "val_loss"),
            1,
            9,
            rates={"bp": 0.03, "dfa": 0.003},
        ),
        directory=tmp_path / "rates",
        project_name="p",
    )
    log = Log(tuner, data)
    log.declare({"algorithm": "bp", "lr": 0.03}, {"loss": 1.0})
    (lr,) = [info for info in dashboard(log.path)[0].hparam_infos if info.name == "lr"]
    assert sorted(lr.domain_discrete) == [0.003, 0.03]


def test_a_value_that_was_not_in_the_space_is_declared_when_it_is_met(tmp_path):
    tuner, data = made(tmp_path, {"algorithm": ["bp"], "lr": RATES})
    tuner.search(data, epochs=1, callbacks=Log(tuner, data).callbacks)
    log = Log(tuner, data)
    values = {**tuner.oracle.points()[0], "lr": 0.3}
    board = TensorBoard(log, tuner.experiment.trial(2, values), 0)
    board.on_train_begin()
    board.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0, "reg": 0.5})
    experiment, groups = dashboard(log.path)
    (lr,) = [info for info in experiment.hparam_infos if info.name == "lr"]
    assert list(lr.domain_discrete) == [*RATES, 0.3]
    tags = {info.name.tag for info in experiment.metric_infos}
    assert {"reg", "error", "val_error"} <= tags  # of the earlier process's trials, too
    assert len(groups) == 3
    begun = tuner.experiment.trial(3, {**values, "lr": 3.0})
    begun.begin()  # by a process that was killed before it declared anything
    Log(tuner, data).declare(begun.hyperparameters, {"loss": 1.0})
    (lr,) = [info for info in dashboard(log.path)[0].hparam_infos if info.name == "lr"]
    assert list(lr.domain_discrete) == [*RATES, 3.0]


@pytest.mark.once
def test_a_log_that_cannot_be_written_costs_no_training(tmp_path, capsys):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "log").write_text("a file where the folder should be")
    found = search(tmp_path, {"algorithm": ["bp"]})
    assert {trial.state for trial in found.tuner.experiment.trials()} == {"completed"}
    assert capsys.readouterr().err.count("TensorBoard's log could not be written") == 1


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow is the backend")
def test_on_jax_nothing_needs_tensorflow(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from bpfree.cli import tune\n"
        f"flags = {FLAGS!r}\n"
        f"assert tune.main(['tune.py', '--experiment_dir={tmp_path}', *flags]) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("*/log")
    experiment, (group,) = dashboard(log)
    assert experiment.hparam_infos and len(group.sessions) == 1
    assert "block_1/activation" in events(log / group.name / "execution-0").Tags()["tensors"]


FLAGS = [
    *("--algorithm=dfa", "--arch=8", "--activation=tanh", "--nobatch_norm", "--bw_init=ortho"),
    *("--lr=0.01", "--reg_rate=0", "--num_epochs=1", "--executions_per_trial=1"),
    *("--examples_frac=0.1", "--histogram_freq=1"),
]


@pytest.mark.slow
def test_populations_write_what_lone_runs_write(tmp_path):
    if not population.AVAILABLE:
        pytest.skip("populations need JAX")
    given = {"algorithm": ["dfa"]}
    alone = search(tmp_path / "alone", given, population="off")
    beside = search(tmp_path / "beside", given)
    runs = sorted(path.relative_to(alone.path) for path in alone.path.glob("*/execution-*"))
    assert len(runs) == 2 * EXECUTIONS
    assert json.dumps(sorted(map(str, runs))) == json.dumps(
        sorted(str(path.relative_to(beside.path)) for path in beside.path.glob("*/execution-*"))
    )
    for run in runs:
        there, here = events(alone.path / run), events(beside.path / run)
        assert here.Tags()["tensors"] == there.Tags()["tensors"]
        for tag in there.Tags()["tensors"]:
            if tag.startswith("_hparams_") or "/" in tag:
                continue
            (steps, expected), (found, actual) = (
                zip(*values(r, tag), strict=True) for r in (there, here)
            )
            assert found == steps
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        (_, expected), (_, actual) = (values(r, "block_2/activation")[0] for r in (there, here))
        np.testing.assert_allclose(actual[[0, -1]], expected[[0, -1]], rtol=1e-3, atol=1e-3)
