"""Sequential schedules: one part learns at a time, everything else stands still."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import toy

import bpfree
from bpfree import schedule
from bpfree.errors import UserError

RULES = ("ll", "lw", "mf", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("drtp", "sp")))


class Diary(keras.callbacks.Callback):
    """Notes which variables each epoch moved, and how many steps the optimizer had taken since."""

    def __init__(self, learner):
        super().__init__()
        self.learner, self.moved, self.steps, self.blocks = learner, [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = {v.path: np.array(v) for v in weights(self.learner)}

    def on_epoch_end(self, epoch, logs=None):
        self.moved.append(
            {v.path for v in weights(self.learner) if not np.array_equal(v, self.before[v.path])}
        )
        self.steps.append(int(self.learner.optimizer.iterations))
        self.blocks.append(logs["block"])


def weights(learner) -> list:
    return learner.weights


def sequential(rule, epochs_per_block=None, **options):
    learner = bpfree.Learner(
        toy.network(batch_norm=True, dropout=0.2),
        rule,
        weight_decay=0.1,
        seed=0,
        schedule="sequential",
        epochs_per_block=epochs_per_block,
    )
    learner.compile(
        keras.optimizers.Adam(0.05, weight_decay=0.1), loss="categorical_crossentropy", **options
    )
    learner.build((None, toy.INPUTS))
    return learner


@pytest.mark.parametrize("rule", RULES)
def test_only_one_part_learns_in_an_epoch(rule):
    """Kernels, biases, batch statistics and decay of all others stand still; Adam starts anew."""
    learner = sequential(rule)
    diary, (x, y, _) = Diary(learner), toy.batch()
    parts = 2 if rule == "mf" else 3
    epochs = 2 * parts
    learner.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[diary])
    assert diary.blocks == [1 + epoch // 2 for epoch in range(epochs)]
    assert diary.steps == [2, 4] * parts
    network, owned = learner.network, {}
    for index, layer in enumerate([*network.blocks, network.head][:parts]):
        mine = {v.path for v in learner.rule.trained_with(network, index)}
        owned[index] = mine | {v.path for v in layer.weights}
        expected = mine | {v.path for v in layer.weights if v.name.startswith("moving")}
        for epoch in (2 * index, 2 * index + 1):
            assert diary.moved[epoch] == expected
    assert not set.intersection(*owned.values())


def test_the_active_block_learns_as_under_the_simultaneous_schedule():
    """The first stage's step on block 1 is the simultaneous one's."""
    x, y, w = toy.batch()
    moved = []
    for kind in ("simultaneous", "sequential"):
        learner = bpfree.Learner(toy.network(), "ll", seed=0, schedule=kind)
        learner.compile(keras.optimizers.SGD(0.5), loss="categorical_crossentropy")
        learner.build(x.shape)
        learner.fit(x, y, sample_weight=w, batch_size=8, epochs=3, verbose=0, callbacks=[Stop()])
        moved.append(toy.values(learner.network.blocks[0].trainable_variables))
    toy.assert_close(moved[1], moved[0])


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_epochs_per_block_leaves_the_rest_to_the_head():
    learner = sequential("ll", epochs_per_block=1)
    history = learner.fit(*toy.batch()[:2], batch_size=8, epochs=5, verbose=0).history
    assert history["block"] == [1, 2, 3, 3, 3]


def test_gradients_are_those_of_the_stage():
    learner = sequential("lw")
    x, y, w = toy.batch()
    together = toy.values(learner.gradients(x, y, w, training=False))
    learner.enter(1)
    alone = toy.values(learner.gradients(x, y, w, training=False))
    mine = {id(v) for v in learner.rule.trained_with(learner.network, 1)}
    decay = 0.1
    for v, a, b in zip(learner.trainable_variables, alone, together, strict=True):
        frozen = decay * np.array(v) if v.name == "kernel" else np.zeros(v.shape)
        toy.assert_close([a], [b if id(v) in mine else frozen])


@pytest.mark.once
def test_a_second_fit_begins_with_the_first_block_again():
    learner = sequential("ll")
    x, y, _ = toy.batch()
    for _ in range(2):
        history = learner.fit(x, y, batch_size=8, epochs=3, verbose=0).history
        assert history["block"] == [1, 2, 3]
        assert learner.stage is None


@pytest.mark.once
def test_saved_and_loaded(tmp_path):
    learner = sequential("lw", epochs_per_block=2)
    learner.fit(*toy.batch()[:2], epochs=5, verbose=0)
    learner.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert (loaded.schedule, loaded.epochs_per_block) == ("sequential", 2)


@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_rules_that_need_the_outputs_are_refused(rule):
    with pytest.raises(UserError, match="block by block"):
        bpfree.Learner(toy.network(), rule, schedule="sequential")


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="'alternating'.*simultaneous, sequential"):
        bpfree.Learner(toy.network(), "ll", schedule="alternating")


@pytest.mark.parametrize("epochs, per_block", [(2, None), (4, 2), (3, 5)])
def test_too_few_epochs_are_refused(epochs, per_block):
    with pytest.raises(UserError, match=f"more than {epochs} epochs"):
        schedule.share(3, epochs, per_block)


def test_a_renewed_optimizer_is_as_new_but_for_its_learning_rate():
    optimizer = keras.optimizers.Adagrad(0.5, initial_accumulator_value=0.3)
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones(2)])
    optimizer.learning_rate = 0.125
    schedule.renew(optimizer, [variable])
    assert float(optimizer.learning_rate) == 0.125 and int(optimizer.iterations) == 0
    assert any(np.allclose(value, 0.3) for value in toy.values(optimizer.variables))
