"""What is trained on when: a function of (seed, epoch), in `fit`, on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from bpfree.data.batches import Batches, feed, stream
from bpfree.data.preprocessing import augmenter, scaler
from bpfree.errors import UserError
from bpfree.seeds import derive

N = 50
X = np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1)  # every example is its own number
Y = np.arange(N) % 3
IDENTITY = scaler("identity")


def batches(batch_size=8, n=N, **options):
    options = {"scale": IDENTITY, "shuffle": True, "drop_remainder": True, "seed": 7} | options
    return Batches(X[:n], Y[:n], batch_size, **options)


def permutation(epoch, n=N, seed=7):
    return np.random.default_rng(derive(seed, "batch order", epoch)).permutation(n)


def trained(epochs, steps, size, n=N):
    """What an undisturbed run trains on, one row per step."""
    rows = [permutation(epoch, n)[: steps * size].reshape(steps, size) for epoch in epochs]
    return np.concatenate(rows).tolist()


# ---------------------------------------------------------------- the batches themselves


def test_an_epoch_s_order_is_a_permutation_and_a_function_of_seed_and_epoch():
    first, second = batches(), batches(epoch=9)
    for epoch in (3, 0, 3):
        assert sorted(first.order(epoch)) == list(range(N))
        assert (first.order(epoch) == second.order(epoch)).all()
        assert (first.order(epoch) == permutation(epoch)).all()
    assert (first.order(0) != first.order(1)).any()
    assert (first.order(0) != batches(seed=8).order(0)).any()


def test_training_batches_are_full_and_skip_others_each_epoch():
    skipped = []
    for epoch in range(3):
        drawn = [batch for batch, _ in batches(epoch=epoch)]
        assert [len(batch) for batch in drawn] == [8] * 6
        skipped.append(set(range(N)) - set(np.concatenate(drawn).ravel()))
        assert len(skipped[-1]) == 2
    assert skipped[0] != skipped[1]


def test_a_batch_size_above_n_is_n():
    (x, y), *others = list(batches(1000))
    assert not others and len(x) == N and sorted(x.ravel()) == list(range(N))


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(50, 8, [8] + [7] * 6), (48, 8, [8] * 6), (50, 25, [25, 25]), (3, 8, [3]), (9, 8, [5, 4])],
)
def test_evaluation_drops_nothing_and_has_two_sizes_at_most(n, batch_size, sizes):
    drawn = list(batches(batch_size, n, shuffle=False, drop_remainder=False))
    assert [len(x) for x, _ in drawn] == sizes
    assert np.concatenate([x for x, _ in drawn]).ravel().tolist() == list(range(n))
    assert np.concatenate([y for _, y in drawn]).tolist() == Y[:n].tolist()


def test_classification_targets_are_the_examples_labels():
    for x, y in batches():
        assert x.dtype == np.float32 and y.dtype == np.int32
        assert (y == Y[x.ravel().astype(int)]).all()


def test_reconstruction_targets_are_the_scaled_examples():
    images = np.arange(2 * 2 * 3 * 4, dtype=np.uint8).reshape(2, 2, 3, 4)
    (x, y), *_ = Batches(images, None, 2, scale=scaler("zero_one"), problem_type="reconstruction")
    assert (x == images.astype(np.float32) / np.float32(255)).all()
    assert y.shape == (2, 24) and y.dtype == np.float32 and (y == x.reshape(2, 24)).all()


def test_the_data_stays_as_it_is():
    x = X.copy()
    list(Batches(x, Y, 8, scale=scaler("standard")))
    assert (x == X).all() and x.dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((X, Y, 0), {}, "batch_size is 0"),
        ((X[:0], Y[:0], 8), {}, "There are no examples"),
        ((X, Y[:9], 8), {}, "There are 50 examples and 9 labels"),
        ((X, None, 8), {}, "There are 50 examples and 0 labels"),
        ((X, Y, 8), {"problem_type": "regression"}, "Unknown problem_type 'regression'"),
        ((X[:, 0], Y, 8), {"augment": augmenter(["zoom"], (0, 255))}, r"Cannot augment shape"),
    ],
)
def test_mistakes_get_one_sentence(arguments, options, sentence):
    with pytest.raises(UserError, match=rf"^{sentence}[^\n]*\.$"):
        Batches(*arguments, scale=IDENTITY, **options)


# ---------------------------------------------------------------- augmentation


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)


def augmented(epoch, **options):
    augment = augmenter(["rotation", "brightness"], IDENTITY.value_range, seed=1)
    options = {"scale": IDENTITY, "seed": 7, "epoch": epoch, "augment": augment} | options
    return Batches(IMAGES, np.zeros(20, int), 8, **options)


@pytest.mark.once
def test_augmented_batches_repeat_after_a_resume_and_differ_between_epochs():
    undisturbed = augmented(0)
    passes = []
    for _ in range(3):
        undisturbed.on_epoch_begin()
        passes.append([x for x, _ in undisturbed])
        undisturbed.on_epoch_end()
    resumed = [x for x, _ in augmented(2)]
    assert all((a == b).all() for a, b in zip(passes[2], resumed, strict=True))
    assert all((a != b).any() for a, b in zip(passes[1], passes[2], strict=True))
    assert (augmented(2)[1][0] == resumed[1]).all(), "a batch does not depend on those before it"


def test_reconstruction_targets_are_the_augmented_examples():
    x, y = augmented(0, problem_type="reconstruction")[0]
    assert (x != IMAGES[:7]).any()
    assert (y == x.reshape(7, 64)).all()


# ---------------------------------------------------------------- in fit


class Recorder(keras.Model):
    """A model that notes in a weight which examples each training step was given."""

    def __init__(self, steps, size):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.step = self.add_weight(shape=(), trainable=False, initializer="zeros")
        self.seen = self.add_weight(shape=(steps, size), trainable=False, initializer="zeros")

    def call(self, x, training=False):
        flat = ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))
        if training:
            now = ops.one_hot(ops.cast(self.step, "int32"), self.seen.shape[0])
            self.seen.assign(self.seen + now[:, None] * flat[:, 0])
            self.step.assign(self.step + 1)
        return self.head(flat)

    def examples(self):
        return ops.convert_to_numpy(self.seen)[: int(self.step)].astype(int).tolist()


def recorder(steps, size, steps_per_execution=1, jit_compile=True):
    model = Recorder(steps, size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "sgd",
        loss,
        metrics=["accuracy"],
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    return model


@pytest.mark.parametrize("steps_per_execution", [1, 3, 4, 10])
def test_fit_trains_on_the_epochs_orders(steps_per_execution):
    model = recorder(100, 8, steps_per_execution)
    model.fit(**feed(batches()), epochs=4, verbose=0)
    assert model.examples() == trained(range(4), 6, 8)


@pytest.mark.parametrize("batch_size", [8, 25, 50])
def test_an_initial_epoch_resumes_the_undisturbed_run(batch_size):
    """Few steps per epoch are the hard case: Keras may draw a whole epoch to build the model."""
    steps, size = N // batch_size, batch_size
    model = recorder(100, size, 2)
    model.fit(**feed(batches(batch_size, epoch=99)), epochs=5, initial_epoch=3, verbose=0)
    assert model.examples() == trained([3, 4], steps, size)
    model.fit(**feed(batches(batch_size)), epochs=7, initial_epoch=5, verbose=0)
    assert model.examples() == trained([3, 4, 5, 6], steps, size)


def test_validation_between_epochs_changes_nothing():
    model = recorder(100, 8)
    val = batches(8, n=20, shuffle=False, drop_remainder=False)
    model.fit(**feed(batches()), epochs=3, verbose=0, validation_data=stream(val))
    assert model.examples() == trained(range(3), 6, 8)


class Stop(keras.callbacks.Callback):
    """Ends training in the middle of the first epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 2


def test_an_epoch_that_was_stopped_is_repeated_whole():
    model, data = recorder(100, 8), batches()
    model.fit(**feed(data, [Stop()]), epochs=3, verbose=0)
    assert model.examples() == trained([0], 6, 8)[:3]
    model.fit(**feed(data), epochs=1, verbose=0)
    assert model.examples()[3:] == trained([0], 6, 8)


def test_the_user_s_callbacks_are_called():
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    recorded = recorder(100, 8)
    recorded.fit(**feed(batches(), [callback]), epochs=2, verbose=0)
    assert epochs == [0, 1]


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_batches_alone_advance_their_epoch_in_fit(steps_per_execution):
    model, data = recorder(100, 8, steps_per_execution), batches(epoch=2)
    model.fit(data, epochs=5, initial_epoch=2, shuffle=False, verbose=0)
    assert model.examples() == trained([2, 3, 4], 6, 8) and data.epoch == 5
    model.fit(data, epochs=1, shuffle=False, verbose=0)
    assert model.examples() == trained([2, 3, 4, 5], 6, 8), "a second fit goes on"


def test_augmented_fit_equals_the_batches(backend):
    """Augmentation runs in Keras's own thread there; noted are the first pixels."""
    model = recorder(100, 8, 2)
    data = augmented(0, shuffle=True, drop_remainder=True)
    model.fit(**feed(data), epochs=3, initial_epoch=1, verbose=0)
    wanted = [
        x[:, 0, 0, 0].astype(int).tolist()
        for epoch in (1, 2)
        for x, _ in augmented(epoch, shuffle=True, drop_remainder=True)
    ]
    assert model.examples() == wanted


@pytest.mark.parametrize("name", ["standard", "zero_one", "identity"])
@pytest.mark.parametrize("problem_type", ["classification", "reconstruction"])
@pytest.mark.parametrize("training", [True, False])
def test_the_stream_equals_the_batches_to_the_last_bit(name, problem_type, training):
    options = {"shuffle": training, "drop_remainder": training, "problem_type": problem_type}
    images = np.random.default_rng(1).integers(0, 256, (50, 4, 3, 2), np.uint8)
    data = Batches(images, Y, 8, scale=scaler(name), seed=7, epoch=4, **options)
    streamed = list(stream(data))
    assert len(streamed) == len(data) == (6 if training else 7)
    for (x, y), (wanted_x, wanted_y) in zip(streamed, data, strict=True):
        for got, wanted in ((x, wanted_x), (y, wanted_y)):
            got = ops.convert_to_numpy(got)
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            assert (got == wanted).all()


def test_evaluate_sees_every_example():
    model = recorder(1, 1)
    data = batches(8, shuffle=False, drop_remainder=False)
    streamed = model.evaluate(stream(data), verbose=0, return_dict=True)
    direct = model.evaluate(X.astype("float32"), Y, verbose=0, return_dict=True)
    assert streamed == pytest.approx(direct, rel=1e-5)
