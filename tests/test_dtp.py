"""Difference target propagation: published formulas, and where it is backpropagation."""

import json
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
import pytest
import toy
from conftest import ROOT
from keras import ops

import bpfree
from bpfree import autodiff
from bpfree.analysis import trackers
from bpfree.errors import UserError
from bpfree.rules.trace import Batch

BETA = 0.7


def learner(rule="dtp:iterations=0", net=None, **options):
    """Without XLA: these networks are tiny."""
    return toy.learner(rule, net, compile={"jit_compile": False}, **options)


def gradients(subject, batch=None, rule=None):
    return toy.values(subject.gradients(*(batch or toy.batch()), rule=rule))


def symmetric(subject) -> None:
    """B becomes the kernel, in every path."""
    for kernel, B in subject.rule.pairs(subject.network):
        B.assign(kernel)


@contextmanager
def precision(dtype):
    """Keras and its backend compute in this type."""
    policy = keras.config.dtype_policy()
    with ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(dtype == "float64"))
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            yield
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy(policy)


def cross_entropy(labels):
    wanted = np.eye(3)[labels]

    def loss(outputs, weights):
        losses = -ops.sum(wanted * ops.log_softmax(outputs), axis=1)
        return ops.sum(weights * losses) / len(labels)

    return loss


# -- the golden vector --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict:
    path = ROOT.parent / "shared" / "references" / "gait_reference.json"
    if not path.is_file():
        pytest.skip(f"no golden vectors at {path}")
    case = json.loads(path.read_text())["dtp_ldrl_formula"]
    return {name: np.asarray(value) for name, value in case.items() if name not in ("W", "b")} | {
        f"{name}{index + 1}": np.asarray(value)
        for name in ("W", "b")
        for index, value in enumerate(case[name])
    }


def posed(golden, dtype, options):
    """Network, rule and batch of the golden vector, its noise in the place of the random one."""
    layers = keras.layers
    block = keras.Sequential([layers.Dense(4), layers.Activation("elu")])
    network = bpfree.BlockNetwork([block], keras.Sequential([layers.Dense(3)]))
    network.build((None, 5))
    for variable, name in zip(network.trainable_variables, ("W1", "b1", "W2", "b2"), strict=True):
        variable.assign(golden[name])
    rule = bpfree.rules.get(f"dtp:{options}", seed=0)
    rule.build(network, (None, 5), 3)
    (path,) = rule.feedback_paths
    path.kernel.assign(golden["B2"].T)
    path.bias.assign(golden["c2"])
    fixed = {4: golden["dx"].astype(dtype), 3: golden["dy"].astype(dtype)}
    rule.noise = lambda like, sigma: ops.convert_to_tensor(fixed[like.shape[-1]])
    labels = golden["labels"].astype(int)
    weights = ops.ones(4, dtype)
    x = ops.convert_to_tensor(golden["x"].astype(dtype))
    return network, rule, Batch(x, labels, weights, cross_entropy(labels))


DTYPES = [("float32", 1e-5), ("float64", 1e-10)]


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
def test_targets_and_local_gradients_are_the_published_formulas(golden, dtype, tolerance):
    with precision(dtype):
        network, rule, batch = posed(golden, dtype, "beta=0.7")
        passes = rule.run(batch)
        h, outputs = (passed.h for passed in passes)
        error = batch.weights[:, None] * (ops.softmax(outputs) - np.eye(3)[batch.y])
        found = {"h1": h, "logits": outputs}
        first, second = rule.differences(passes, error)
        found |= {"t1_dtp": h + first, "t2": outputs + second}
        rule.difference = False
        found["t1_tp"] = h + rule.differences(passes, error)[0]
        rule.difference = True
        surrogates, logits = rule.lesson(network, batch)
        found |= {"layer_losses": ops.stack(surrogates)}
        found["cross_entropy_mean"] = batch.task_loss(logits)
        slopes = autodiff.gradients(
            lambda: sum(rule.lesson(network, batch)[0]), network.trainable_variables, (), False
        )()
        names = ("grad_W1", "grad_b1", "grad_W2", "grad_b2")
        found |= dict(zip(names, slopes, strict=True))
        for name, value in found.items():
            toy.assert_close([value], [golden[name]], tolerance)


@pytest.mark.parametrize("loss, prefix", [("ldrl", "ldrl"), ("reconstruction", "vanilla")])
@pytest.mark.parametrize("dtype, tolerance", DTYPES)
def test_feedback_losses_are_the_published_formulas(golden, dtype, tolerance, loss, prefix):
    """One step of rate 1 without momentum moves B and c by their gradients."""
    options = f"sigma=0.2,iterations=1,feedback_lr=1,momentum=0,feedback_loss={loss}"
    with precision(dtype):
        network, rule, batch = posed(golden, dtype, options)
        (path,) = rule.feedback_paths
        passed = rule.run(batch)[-1]
        forward = lambda u: (network.head(u), None)  # noqa: E731
        noise = (rule.noise(passed.u, 0.2), rule.noise(passed.h, 0.2))
        value = batch.mean(rule.reconstruction(path, passed, forward, *noise))
        before = toy.values([path.kernel, path.bias])
        rule.before_step(network, batch)
        after = toy.values([path.kernel, path.bias])
        toy.assert_close([value], [golden[f"{prefix}_loss"]], tolerance)
        slopes = [b - a for b, a in zip(before, after, strict=True)]
        expected = [golden[f"{prefix}_grad_B2"].T, golden[f"{prefix}_grad_c2"]]
        scale = np.abs(expected[0]).max()
        for slope, wanted in zip(slopes, expected, strict=True):
            np.testing.assert_allclose(slope, wanted, rtol=0, atol=tolerance * max(scale, 1))


# -- the feedback learns ------------------------------------------------------------------------


def plain(subject, batch):
    """The batch as the rule sees it, the task's loss left out."""
    x, y, w = map(ops.convert_to_tensor, batch)
    return Batch(x, y, w, lambda outputs, weights: 0.0 * ops.sum(outputs))


@pytest.mark.parametrize("loss", ["ldrl", "reconstruction"])
def test_feedback_gradient_against_finite_differences(loss):
    """Through an ELU and a max pool behind the convolution, in float64."""
    with precision("float64"):
        network = bpfree.architectures.get(
            "CONV_2_3_1_1_CONV_3_3_1_1_FC_3:pool=last", (8, 8, 1), 3, activation="elu", seed=0
        )
        rule = bpfree.rules.get(f"dtp:sigma=0.3,feedback_loss={loss}", seed=0)
        rule.build(network, (None, 8, 8, 1), 3)
        random = np.random.default_rng(0)
        w = ops.convert_to_tensor(np.array([0.5, 1.5, 0.0]))
        batch = Batch(ops.convert_to_tensor(random.normal(size=(3, 8, 8, 1))), None, w, None)
        passed, path, part = rule.run(batch)[1], rule.feedback_paths[0], rule.parts[1]

        def forward(u):
            p = part.body[-1](part.body[1](part.body[0](u)))
            return part.tail[0](p), p

        noise = rule.noise(passed.u, 0.3), rule.noise(passed.h, 0.3)

        def value(B):
            with autodiff.replaced([(path.kernel, B), (path.bias, path.bias.value)]):
                return batch.mean(rule.reconstruction(path, passed, forward, *noise))

        B = toy.values([path.kernel])[0]
        direction = random.normal(size=B.shape)
        slope = np.vdot(
            toy.values([autodiff.gradient(value, ops.convert_to_tensor(B))])[0], direction
        )
        up, down = (float(value(ops.convert_to_tensor(B + s * direction))) for s in (1e-5, -1e-5))
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-6)
        assert abs(slope) > 1e-3


def test_of_a_linear_layer_the_feedback_becomes_the_transpose():
    """And the tracker's cosine of kernel and B becomes 1; c, which cancels, stays."""
    spec = "dtp:sigma=0.2,iterations=60,feedback_lr=1,momentum=0"
    subject = learner(spec, toy.network("5", activation="linear"))
    batch = toy.batch(300)
    tracker = trackers.get("weight_alignment", *batch[:2])
    before = dict(tracker.measure(subject))
    subject.rule.before_step(subject.network, plain(subject, (*batch[:2], np.ones(300, "float32"))))
    ((kernel, B),) = subject.rule.pairs(subject.network)
    toy.assert_close([B], [kernel], 0.1)
    assert np.abs(subject.rule.feedback_paths[0].bias).max() < 1e-5
    after = dict(tracker.measure(subject))
    assert list(after) == ["head"] and before["head"] < 0.9 < 0.995 < after["head"]


def test_momentum_goes_on_from_batch_to_batch():
    """Two steps on a batch are two batches of one, and v ← μ v + g, B ← B − rate v."""
    moved = {}
    fixed = np.random.default_rng(0).normal(size=(toy.EXAMPLES, 5)).astype("float32")
    for options, batches in (
        ("iterations=2", 1),
        ("iterations=1", 2),
        ("iterations=1,momentum=0", 1),
    ):
        subject = learner(f"dtp:sigma=0.5,feedback_lr=0.5,{options}", toy.network("5"))
        subject.rule.noise = lambda like, sigma: ops.convert_to_tensor(fixed[:, : like.shape[1]])
        (path,), found = subject.rule.feedback_paths, []
        found.append(toy.values([path.kernel])[0])
        for _ in range(batches):
            subject.rule.before_step(subject.network, plain(subject, toy.batch()))
            found.append(toy.values([path.kernel])[0])
        moved[options, batches] = found
    toy.assert_close(moved["iterations=2", 1][1:], moved["iterations=1", 2][2:])
    start, once, twice = moved["iterations=1", 2]
    toy.assert_close([once], moved["iterations=1,momentum=0", 1][1:])
    without = learner("dtp:sigma=0.5,feedback_lr=0.5,iterations=1,momentum=0", toy.network("5"))
    without.rule.noise = lambda like, sigma: ops.convert_to_tensor(fixed[:, : like.shape[1]])
    without.rule.feedback_paths[0].kernel.assign(once)
    without.rule.before_step(without.network, plain(without, toy.batch()))
    second = toy.values([without.rule.feedback_paths[0].kernel])[0] - once
    toy.assert_close([twice - once], [second + 0.9 * (once - start)], 1e-4)


# -- the network learns -------------------------------------------------------------------------


def test_with_symmetric_feedback_two_layers_learn_as_under_bp():
    """At any beta: G of the outputs is linear. The head's gradient is beta times BP's, whatever G is."""
    subject = learner("dtp:iterations=0,beta=1.7", toy.network("5"))
    bp = gradients(subject, rule="bp")
    toy.assert_close(gradients(subject)[2:], [1.7 * g for g in bp[2:]])
    assert np.abs(gradients(subject)[0] - 1.7 * bp[0]).max() > 1e-3
    symmetric(subject)
    toy.assert_close(gradients(subject), [1.7 * g for g in bp])


@pytest.mark.parametrize("pool", ["", pytest.param(":pool=last", marks=pytest.mark.once)])
def test_a_linear_convolutional_network_learns_as_under_bp(pool):
    """Un-pooling, padding and strides of the way back are those of the forward pass."""
    arch = f"CONV_2_3_1_1_CONV_3_3_2_1_FC_5_FC_3{pool}"
    network = bpfree.architectures.get(arch, (10, 10, 1), 3, activation="linear", seed=0)
    subject = bpfree.Learner(network, "dtp:iterations=0,symmetric_init=true", seed=0)
    subject.compile("sgd", "categorical_crossentropy", jit_compile=False)
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 10, 10, 1)).astype("float32")
    batch = x, np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    bp = gradients(subject, batch, rule="bp")
    toy.assert_close(gradients(subject, batch), [BETA * g for g in bp])


def test_a_tiny_beta_is_not_lost_in_single_precision():
    """The targets of a linear network with symmetric feedback are beta times BP's signals, as differences."""
    net = toy.network("8-7", activation="linear")
    subject = learner("dtp:iterations=0,symmetric_init=true,beta=1e-6", net)
    for block, path in zip([*net.blocks[1:], net.head], subject.rule.feedback_paths, strict=True):
        kernel = next(v for v in block.trainable_variables if v.name == "kernel")
        path.kernel.assign(kernel)
    found = [g / 1e-6 for g in toy.values(subject.gradients(*toy.batch()))]
    toy.assert_close(found, subject.gradients(*toy.batch(), rule="bp"), 1e-5)


def test_where_the_target_is_the_output_nothing_learns():
    def no_loss(y_true, y_pred):
        return 0.0 * ops.sum(y_pred, axis=-1)

    assert not any(np.any(g) for g in gradients(learner(loss=no_loss)))


def test_target_propagation_is_difference_target_propagation_where_feedback_inverts():
    found = []
    for difference in ("true", "false"):
        net = toy.network("3", activation="linear")
        subject = learner(f"dtp:iterations=0,difference={difference}", net)
        _, _, K, b = toy.values(subject.network.trainable_variables)
        (path,) = subject.rule.feedback_paths
        path.kernel.assign(np.linalg.inv(K).T)
        path.bias.assign(-b @ np.linalg.inv(K))
        found.append(gradients(subject))
    toy.assert_close(*found, 1e-4)


def test_weights_copies_and_order_of_examples():
    """With the feedback at rest; in training every example has noise of its own."""
    subject = learner()
    x, y, w = toy.batch(4)
    expected = gradients(subject, (x, y, w))
    twice = [np.concatenate([part, part]) for part in (x, y, w)]
    toy.assert_close(gradients(subject, twice), expected)
    toy.assert_close(gradients(subject, [part[::-1] for part in (x, y, w)]), expected)
    copied = [x[[0, 0, 1, 1]], y[[0, 0, 1, 1]], np.ones(4, "float32")]
    toy.assert_close(
        gradients(subject, (x, y, np.float32([2, 2, 0, 0]))), gradients(subject, copied)
    )


def test_a_step_trains_and_keeps_the_feedback():
    """B, its momentum and the noise's random state are variables of the learner, but not trainable."""
    subject = learner("dtp:iterations=[2,0]")
    rule = subject.rule
    before = toy.values([p.kernel for p in rule.feedback_paths])
    own = [v for path in rule.feedback_paths for v in path.weights]
    own += [*rule.velocities[0], *rule.velocities[1], rule.draws.state]
    subject.train_on_batch(*toy.batch())
    after = toy.values([p.kernel for p in rule.feedback_paths])
    assert not np.array_equal(after[0], before[0]) and np.array_equal(after[1], before[1])
    assert np.any(rule.velocities[0][0]) or np.any(rule.velocities[0][1])
    assert {id(v) for v in own} <= {id(v) for v in subject.variables}
    assert not {id(v) for v in own} & {id(v) for v in subject.trainable_variables}
    other = toy.values([p.kernel for p in learner(seed=1).rule.feedback_paths])
    assert not any(np.array_equal(a, b) for a, b in zip(before, other, strict=True))


@pytest.mark.parametrize(
    "rule, arch, words",
    [
        ("dtp:sigma=[0.1,0.2,0.3]", "5-4", "sigma of 'dtp' lists 3 values, and this network has 2"),
        ("dtp:iterations=-1", "5-4", "iterations ≥ 0"),
        ("dtp:feedback_loss=mse", "5-4", "one of ldrl, reconstruction"),
        pytest.param(
            *("dtp", "resnet18:width=0.05", "is no chain around one"), marks=pytest.mark.slow
        ),
    ],
)
def test_mistakes_are_one_sentence(rule, arch, words):
    shape = (8, 8, 1) if arch.startswith("resnet") else (toy.INPUTS,)
    network = bpfree.architectures.get(arch, shape, toy.OUTPUTS, seed=0)
    with pytest.raises(UserError, match=words):
        bpfree.Learner(network, rule, seed=0).build((None, *shape))


def test_lists_in_spec_strings():
    rule, options = bpfree.rules.parse("dtp:sigma=[0.4,0.2],beta=0.5,iterations=[20, 30]")
    assert options == {"sigma": [0.4, 0.2], "beta": 0.5, "iterations": [20, 30]}
    assert rule.name == "dtp"
