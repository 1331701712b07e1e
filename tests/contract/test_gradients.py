"""What every rule's gradients must satisfy, on one batch and without dropout."""

import keras
import numpy as np
import pytest
import toy
from oracles import feedback, mlp
from specs import SPECS, oracle, task_loss

import bpfree
from bpfree import rules

OPTIONS = [
    "cce",
    "dfa:signal_scale=0.5",
    "drtp:bw_init=uniform,signal_scale=2",
    "ll:loss=mse,activation=sigmoid,signal_scale=0.3",
    "ll:loss=cce,activation=tanh",
    "sdfa:bw_init=he",
    "mf:prediction=sum",
    "cafo:blocks=trained,loss=mse",
    "lw:loss=similarity",
    "lw:loss=similarity,target=binary",
    "lw:loss=predsim,beta=0.3",
    "sp:loss=max",
    "sp:loss=argmax,scale=dot",
    "sp:loss=topk,k=3",
    "sp:loss=soft",
    "pepita:use_sign_error=true,output_error=first,f_scale=0.5",
    "dtp:iterations=0",
    "dtp:iterations=0,difference=false,beta=0.3",
    "itp:propagate=finite,gamma=0.1",
    "gait:gamma=0.2",
    "fg:space=weight",
    "fg:space=avg-weight",
    "fg:target=local,guess=global",
]
"""Further spec strings, held against their closed form only."""

OWN_PREDICTION = ("mf", "cafo", "ff", "ff_recurrent")
"""Rules that do not ask the network's head."""


@pytest.fixture(scope="module")
def learners():
    """One learner per spec, made when asked for: its compiled gradients are shared by the tests."""
    made = {}

    def get(spec, jit_compile="auto"):
        # Keras compiles by XLA on JAX anyway, and on a CPU's TensorFlow when told to.
        key = spec, jit_compile if keras.backend.backend() == "tensorflow" else True
        if key not in made:
            made[key] = toy.learner(spec, weight_decay=0.0, compile={"jit_compile": key[1]})
        return made[key]

    return get


@pytest.fixture(params=SPECS)
def learner(request, learners):
    subject = learners(request.param)
    subject.spec = request.param
    toy.randomize(subject)
    return subject


@pytest.fixture
def drawn_apart(learner):
    """Skips rules that draw something for every example: see their own tests."""
    if learner.rule.name in ("ff", "ff_recurrent", "dtp"):
        pytest.skip("something else is drawn for every example, in the batch's order")


@pytest.fixture
def gradients(learner):
    return lambda x, y, w: toy.values(learner.gradients(x, y, w))


def check_closed_form(learner, spec, task, **options):
    x, y, w = toy.batch()
    expected = oracle(spec, learner, x, y, w, task)
    if expected is None:
        pytest.skip(f"rule {spec!r} has no closed form in tests/oracles")
    # PEPITA's is a difference of two passes, which loses the digits that they share.
    tolerance = 1e-4 if learner.rule.name == "pepita" else 1e-5
    toy.assert_close(learner.gradients(x, y, w, **options), expected, tolerance)


def test_closed_form(learner):
    check_closed_form(learner, learner.spec, "cce")


@pytest.mark.parametrize("spec", OPTIONS)
def test_closed_form_of_options(spec):
    check_closed_form(toy.learner(spec), spec, "cce")


@pytest.fixture
def double():
    """Everything in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.once  # on JAX Keras's own tanh is float32 even so
@pytest.mark.parametrize("spec", [*SPECS, "fg:space=weight", "fg:space=avg-weight"])
def test_closed_form_in_double_precision(spec, double):
    """No step on the way, nor a weight of the rule's, is in single precision."""
    learner = toy.learner(spec, compile={"jit_compile": False})
    x, y, w = (part.astype("float64") for part in toy.batch())
    expected = oracle(spec, learner, x, y, w)
    found = toy.values(learner.gradients(x, y, w))
    assert all(g.dtype == "float64" for g in found)
    if expected is not None:
        toy.assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("spec", ["bp", "dfa", "sdfa"])
def test_closed_form_of_another_loss(spec):
    check_closed_form(toy.learner(spec, loss="mse"), spec, "mse")


@pytest.mark.parametrize("spec, host", [("bp", "drtp"), ("dfa", "bp"), ("shallow", "ll")])
def test_closed_form_of_a_foreign_rule(spec, host, learners):
    """Another rule on the same weights; its feedback comes from the run's seed, as its own would."""
    batch = toy.batch()
    for name in (spec, host):
        toy.randomize(learners(name))
    expected = oracle(spec, learners(spec), *batch)
    toy.assert_close(learners(host).gradients(*batch, rule=spec), expected)
    toy.assert_close(learners(host).gradients(*batch), oracle(host, learners(host), *batch))


def test_no_gradient_is_missing(learner, gradients):
    found = gradients(*toy.batch())
    assert [g.shape for g in found] == [tuple(v.shape) for v in learner.trainable_variables]
    assert all(np.isfinite(g).all() for g in found)
    head = len(learner.network.trainable_variables) - 1
    if learner.rule.name not in OWN_PREDICTION:
        assert np.abs(found[head]).max() > 1e-3, "the head learns from the task loss"


def test_duplicating_the_batch_changes_nothing(gradients, drawn_apart):
    batch = toy.batch(toy.EXAMPLES // 2)
    toy.assert_close(
        gradients(*(np.concatenate([part, part]) for part in batch)), gradients(*batch)
    )


def test_order_of_examples_does_not_matter(gradients, drawn_apart):
    order = np.random.default_rng(1).permutation(toy.EXAMPLES)
    batch = toy.batch()
    toy.assert_close(gradients(*(part[order] for part in batch)), gradients(*batch))


def test_weight_two_is_the_example_twice_and_weight_zero_is_nothing(gradients, drawn_apart):
    """Both batches have N examples, so that the division by N is the same."""
    x, y, _ = toy.batch()
    half = toy.EXAMPLES // 2
    w = np.repeat(np.float32([2, 0]), half)
    twice = [np.concatenate([part[:half], part[:half]]) for part in (x, y)]
    expected = gradients(*twice, np.ones_like(w))
    toy.assert_close(gradients(x, y, w), expected)
    x[half:] = 1e3
    toy.assert_close(gradients(x, y, w), expected)


@pytest.mark.parametrize("spec", ["ll", "dfa"])
def test_no_weights_are_ones(spec, learners):
    x, y, w = toy.batch()
    learner = learners(spec)
    toy.assert_close(learner.gradients(x, y), learner.gradients(x, y, np.ones_like(w)))


def test_weight_decay_adds_lambda_times_the_kernels(learner, gradients):
    """λ is a weight of the learner: assigning it needs no other program."""
    batch = toy.batch()
    plain = gradients(*batch)
    learner.decay.assign(0.3)
    decayed = gradients(*batch)
    learner.decay.assign(0.0)
    expected = [
        g + (0.3 * k if v.name == "kernel" else 0)
        for g, k, v in zip(
            plain,
            toy.values(learner.trainable_variables),
            learner.trainable_variables,
            strict=True,
        )
    ]
    assert sum(v.name == "kernel" for v in learner.trainable_variables) >= 3
    toy.assert_close(decayed, expected)


def linear_loss(y_true, y_pred):
    """Its error y/N does not depend on the outputs, so nothing of later weights comes through it."""
    return keras.ops.sum(y_true * y_pred, axis=-1)


@pytest.mark.parametrize("spec", SPECS)
def test_locality(spec):
    """Where gradients are cut, later weights reach a block through the output error alone, or targets."""
    if spec.startswith("ff_recurrent"):
        pytest.skip("later blocks speak to earlier ones, without a gradient: see its own tests")
    # Hard negatives come from the classifier, and so from all blocks.
    spec = "ff:negatives=uniform" if spec == "ff" else spec
    learner = toy.learner(spec, loss=linear_loss)
    batch = toy.batch()
    before = toy.values(learner.gradients(*batch))
    own = set(map(id, learner.rule.trained_with(learner.network, 0)))
    for variable in (v for v in learner.trainable_variables if id(v) not in own):
        variable.assign(variable * -1.7 + 0.1)
    after = toy.values(learner.gradients(*batch))
    if learner.rule.cut and spec != "dtp":
        toy.assert_close(after[:2], before[:2], 1e-7)
    else:
        assert np.abs(after[0] - before[0]).max() > 1e-3


@pytest.mark.parametrize("spec", ["dfa", "sdfa", "drtp", "ll", "mse", "dfa:recompute=true"])
def test_each_feedback_matrix_speaks_to_its_own_block(spec, learners):
    learner = learners(spec)
    toy.randomize(learner)
    batch = toy.batch()
    before = toy.values(learner.gradients(*batch))
    other = learner.rule.feedback[1]
    kept = toy.values([other])[0]
    other.assign(-2.0 * kept)
    after = toy.values(learner.gradients(*batch))
    other.assign(kept)
    toy.assert_close([*after[:2], *after[4:]], [*before[:2], *before[4:]], 1e-7)
    assert np.abs(after[2] - before[2]).max() > 1e-3
    if spec not in ("ll", "mse"):
        toy.assert_close(after[2:4], [-2 * g for g in before[2:4]])


SIGNALS = {
    "dfa": lambda problem: problem.error(),
    "sdfa": lambda problem: problem.shares * np.sign(problem.example_error()),
    "drtp": lambda problem: -problem.shares * problem.y,
}


@pytest.mark.parametrize("spec", SIGNALS)
@pytest.mark.parametrize("block", [0, 1])
def test_a_step_moves_activations_against_their_signal(spec, block, learners):
    """Σ Δh_l · (signal F_lᵀ) < 0 when one block alone takes a small step."""
    learner = learners(spec)
    toy.randomize(learner)
    x, y, w = toy.batch()
    matrices = toy.values(learner.rule.feedback)
    before = toy.values(learner.trainable_variables)
    gradients = toy.values(learner.gradients(x, y, w))
    after = list(before)
    for index in (2 * block, 2 * block + 1):
        after[index] = before[index] - 1e-3 * gradients[index]
    old, new = (mlp.Problem(weights, matrices, x, y, w) for weights in (before, after))
    signal = SIGNALS[spec](old) @ matrices[block].T
    assert np.sum((new.hidden[block] - old.hidden[block]) * signal) < -1e-7


@pytest.mark.parametrize("spec", ["bp", "shallow", "ll", "mse", "lw", "mf", "cafo", "sp"])
def test_a_small_step_lowers_the_objective(spec, learners):
    """Rules whose surrogates are losses follow them down; others have a frozen signal in them."""
    learner = learners(spec)
    toy.randomize(learner)
    x, y, w = toy.batch()
    objective = lambda: float(learner.objective(learner.rule, (x, y, w)))  # noqa: E731
    before = objective()
    for variable, gradient in zip(
        learner.trainable_variables, learner.gradients(x, y, w), strict=True
    ):
        variable.assign(variable - 1e-2 * gradient)
    assert objective() < before - 1e-4


def _eagerly(spec: str):
    """On JAX an eager step is a compilation per operation; it tells what TensorFlow's does not where a
    rule draws random numbers."""
    twice = keras.backend.backend() == "jax" and not rules.get(spec).stochastic
    return pytest.param(spec, marks=pytest.mark.slow) if twice else spec


@pytest.mark.parametrize("spec", [_eagerly(spec) for spec in SPECS])
def test_an_eager_step_is_the_gradient_under_xla(spec, learners):
    """SGD of rate 1 moves each weight by its gradient, λK included; `loss` is the task's alone."""
    x, y, w = toy.batch()
    compiled = learners(spec, jit_compile=True)
    if compiled.rule.stochastic and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow draws other numbers under XLA than eagerly")
    toy.randomize(compiled)
    gradients = toy.values(compiled.gradients(x, y, w))
    learner = toy.learner(spec, weight_decay=0.2, compile={"run_eagerly": True})
    for mine, theirs in zip(
        learner.non_trainable_variables, compiled.non_trainable_variables, strict=True
    ):
        if mine.name != "weight_decay":  # random states above all: the other has drawn before
            mine.assign(theirs)
    before = toy.values(learner.trainable_variables)
    expected_loss = task_loss(spec, learner, x, y, w)
    logs = learner.train_on_batch(x, y, sample_weight=w, return_dict=True)
    kernels = [v.name == "kernel" for v in learner.trainable_variables]
    squares = sum(
        np.sum(np.square(value, dtype="float64"))
        for value, decays in zip(before, kernels, strict=True)
        if decays
    )
    assert logs["loss"] == pytest.approx(expected_loss, rel=1e-5)
    assert logs["reg"] == pytest.approx(0.2 / 2 * squares, rel=1e-5)
    for index, variable in enumerate(learner.trainable_variables):
        gradient = gradients[index] + (0.2 * before[index] if kernels[index] else 0)
        expected = before[index] - learner.rule.lr_multiplier(variable) * gradient
        toy.assert_close([variable], [expected])


@pytest.mark.parametrize(
    "spec, policy, tolerance",
    [
        *((spec, "mixed_float16", 0.01) for spec in SPECS),
        ("dfa", "mixed_bfloat16", 0.06),
    ],
)
def test_half_precision(spec, policy, tolerance, learners):
    """Gradients are float32 and those of float32 within the format's precision."""
    batch = toy.batch()
    reference = learners(spec)
    toy.randomize(reference)
    keras.config.set_dtype_policy(policy)
    try:
        learner = toy.learner(spec)
        found = learner.gradients(*batch)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {keras.backend.standardize_dtype(g.dtype) for g in found} == {"float32"}
    for g, expected in zip(toy.values(found), toy.values(reference.gradients(*batch)), strict=True):
        assert np.linalg.norm(g - expected) <= tolerance * max(np.linalg.norm(expected), 1e-2)


@pytest.mark.parametrize("spec", ["dfa", "sdfa", "drtp", "ll"])
def test_half_precision_keeps_the_signals_of_a_large_batch(spec):
    """Of 2048 examples an example's share of the mean is too small for float16, unless it is scaled."""
    x, y, w = toy.batch(2048)
    w = w / 256
    keras.config.set_dtype_policy("mixed_float16")
    try:
        learner = toy.learner(spec)
        found = toy.values(learner.gradients(x, y, w))[:2]
    finally:
        keras.config.set_dtype_policy("float32")
    for g, expected in zip(found, oracle(spec, learner, x, y, w)[:2], strict=True):
        assert np.linalg.norm(g - expected) <= 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("spec", ["dfa", "ll"])
def test_weights_that_are_normalised_by_their_sum(spec):
    """Reduction mean_with_sample_weight divides by Σw, in local losses too."""
    loss = keras.losses.CategoricalCrossentropy(reduction="mean_with_sample_weight")
    learner = toy.learner(spec, loss=loss)
    x, y, w = toy.batch()
    toy.assert_close(learner.gradients(x, y, w), oracle(spec, learner, x, y, w / w.mean()))


def test_gradients_of_bp_are_those_of_plain_keras(learners):
    """Another rule's learner, with dropout off and batch normalisation on, against `keras.Model`."""
    x, y, w = toy.batch()
    learner = toy.learner("dfa", batch_norm=True, activation="swish")
    before = toy.values(learner.trainable_variables)
    gradients = toy.values(learner.gradients(x, y, w, rule="bp"))
    plain = keras.Sequential([*learner.network.blocks, learner.network.head])
    plain.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy(from_logits=True))
    plain.train_on_batch(x, y, sample_weight=w)
    after = toy.values(learner.trainable_variables)
    toy.assert_close(gradients, [b - a for b, a in zip(before, after, strict=True)])


def test_dfa_is_backpropagation_where_feedback_is_the_product_of_later_kernels():
    """In a linear network F_l = K_{l+1} … K_head makes e F_lᵀ the true ∂loss/∂h_l."""
    learner = toy.learner("dfa", toy.network("5-4-3", activation="linear"))
    product = np.eye(toy.OUTPUTS)
    kernels = toy.values(learner.trainable_variables[::2])
    for kernel, matrix in zip(kernels[:0:-1], learner.rule.feedback[::-1], strict=True):
        product = kernel @ product
        matrix.assign(product)
    batch = toy.batch()
    toy.assert_close(learner.gradients(*batch), learner.gradients(*batch, rule="bp"))


def test_aligned_weights_make_dfa_backpropagation():
    """K_l = F_{l−1} F_lᵀ and the head's F_L; orthonormal F then give K_{l+1} … K_head = F_l."""
    net = toy.network("5-4-3", activation="linear", fw_init="aligned")
    first = toy.values(net.blocks[0].trainable_variables)[0]
    learner = toy.learner("dfa", net, random_weights=False)
    kernels = toy.values(learner.trainable_variables[::2])
    F = toy.values(learner.rule.feedback)
    toy.assert_close(kernels, [first, F[0] @ F[1].T, F[1] @ F[2].T, F[2]], 1e-6)
    batch = toy.batch()
    toy.assert_close(learner.gradients(*batch), learner.gradients(*batch, rule="bp"))


def test_accumulated_gradients_are_those_of_the_joined_batch():
    x, y, w = toy.batch()
    half = toy.EXAMPLES // 2
    for spec in ("dfa", "shallow"):
        learner = toy.learner(
            spec, optimizer=keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
        )
        before = toy.values(learner.trainable_variables)
        expected = oracle(spec, learner, x, y, w)
        for part in (slice(half), slice(half, None)):
            toy.assert_close(toy.values(learner.trainable_variables), before)
            learner.train_on_batch(x[part], y[part], sample_weight=w[part])
        moved = toy.values(learner.trainable_variables)
        toy.assert_close(moved, [b - g for b, g in zip(before, expected, strict=True)])


def test_oracle_of_backpropagation_against_finite_differences():
    """The one oracle that has a loss to be differentiated; it vouches for forward pass and error."""
    random = np.random.default_rng(0)
    shapes = [(6, 5), (5,), (5, 4), (4,), (4, 3), (3,)]
    weights = [random.normal(size=shape) for shape in shapes]
    for task in ("cce", "mse"):
        gradients = feedback.bp(mlp.Problem(weights, [], *toy.batch(), task))
        for index, weight in enumerate(weights):
            direction = random.normal(size=weight.shape)
            loss = [
                mlp.Problem(
                    [*weights[:index], weight + h * direction, *weights[index + 1 :]],
                    [],
                    *toy.batch(),
                    task,
                ).loss()
                for h in (1e-5, -1e-5)
            ]
            expected = (loss[0] - loss[1]) / 2e-5
            assert np.sum(gradients[index] * direction) == pytest.approx(expected, rel=1e-6)


def test_rules_are_all_here():
    """A rule without a closed form is not forgotten: it is skipped by name above."""
    assert {"bp", "shallow", "dfa", "sdfa", "drtp", "ll"} <= set(rules.names())
    assert bpfree.rules.aliases().keys() >= {"cce", "mse"}
