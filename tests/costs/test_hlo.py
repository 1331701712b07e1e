"""Operations counted in a program's text: closed forms, and what XLA counts in the program it compiled."""

import keras
import numpy as np
import pytest

from bpfree import Learner, architectures
from bpfree.costs import backend, hlo

BATCH, INPUTS, WIDTH, OUTPUTS = 16, 24, 32, 10
ON_JAX = keras.backend.backend() == "jax"

once = pytest.mark.once
on_jax = pytest.mark.skipif(not ON_JAX, reason="TensorFlow does not say what its compiler counts")


def program(body, arguments="", before=""):
    """A module as XLA prints one, in the spelling with types at the operands."""
    head = f"HloModule m, entry_computation_layout={{}}\n{before}\n"
    return f"{head}ENTRY %main.1 ({arguments}) -> f32[] {{\n{body}\n}}\n"


PARAMETERS = """  %a = f32[4,5]{1,0} parameter(0), metadata={op_name="a, (b)"}
  %b = f32[5,6]{1,0} parameter(1)
"""
DOT = "dot(f32[4,5]{1,0} %a, f32[5,6]{1,0} %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"


@once
def test_a_product_of_matrices_has_two_operations_per_product():
    assert hlo.flops(program(f"{PARAMETERS}  ROOT %c = f32[4,6]{{1,0}} {DOT}")) == 2 * 4 * 5 * 6


@once
def test_what_is_unused_or_computed_again_is_not_counted():
    body = f"""{PARAMETERS}  %c = f32[4,6]{{1,0}} {DOT}, metadata={{op_name="one"}}
  %d = f32[4,6]{{1,0}} {DOT}, metadata={{op_name="the same"}}
  %unused = f32[4,6]{{1,0}} exponential(f32[4,6]{{1,0}} %c)
  %unused.2 = f32[4,6]{{1,0}} multiply(f32[4,6]{{1,0}} %unused, f32[4,6]{{1,0}} %unused)
  ROOT %e = f32[4,6]{{1,0}} add(f32[4,6]{{1,0}} %c, f32[4,6]{{1,0}} %d)"""
    assert hlo.flops(program(body)) == 2 * 4 * 5 * 6 + 4 * 6


@once
def test_whole_numbers_and_functions_do_not_count():
    body = """  i = s32[7]{0} parameter(0)
  j = s32[7]{0} add(i, i)
  x = f32[7]{0} convert(j)
  y = f32[7]{0} tanh(x)
  ROOT z = f32[7]{0} subtract(y, x)"""
    assert hlo.flops(program(body)) == 7


@once
def test_a_called_computation_is_seen_through():
    before = """sum.1 {
  p = f32[] parameter(0)
  q = f32[] parameter(1)
  ROOT r = f32[] add(p, q)
}

twice.2 {
  x = f32[4,5]{1,0} parameter(0)
  y = f32[4,5]{1,0} multiply(x, x)
  ROOT t = (f32[4,5]{1,0}, f32[4,5]{1,0}) tuple(y, x)
}
"""
    body = """  a = f32[4,5]{1,0} parameter(0)
  t = (f32[4,5]{1,0}, f32[4,5]{1,0}) call(a), to_apply=twice.2
  u = (f32[4,5]{1,0}, /*index=1*/f32[4,5]{1,0}) call(a), to_apply=twice.2
  y = f32[4,5]{1,0} get-tuple-element(t), index=0
  z = f32[4,5]{1,0} get-tuple-element(u), index=0
  w = f32[4,5]{1,0} divide(y, z)
  zero = f32[] constant(0)
  ROOT s = f32[4]{0} reduce(w, zero), dimensions={1}, to_apply=sum.1"""
    assert hlo.flops(program(body, before=before)) == 20 + 20 + 4 * 4


LOOP = """cond.1 {{
  state = (s32[], f32[9]{{0}}) parameter(0)
  i = s32[] get-tuple-element(state), index=0
  n = s32[] constant({turns})
  ROOT more = pred[] compare(i, n), direction=LT
}}

body.2 {{
  state = (s32[], f32[9]{{0}}) parameter(0)
  i = s32[] get-tuple-element(state), index=0
  one = s32[] constant({step})
  j = s32[] add(i, one)
  x = f32[9]{{0}} get-tuple-element(state), index=1
  y = f32[9]{{0}} multiply(x, x)
  ROOT next = (s32[], f32[9]{{0}}) tuple(j, y)
}}
"""
AROUND = """  x = f32[9]{0} parameter(0)
  begin = s32[] constant(2)
  state = (s32[], f32[9]{0}) tuple(begin, x)
  end = (s32[], f32[9]{0}) while(state), condition=cond.1, body=body.2
  ROOT y = f32[9]{0} get-tuple-element(end), index=1"""


@once
def test_a_loop_counts_as_often_as_it_runs():
    assert hlo.flops(program(AROUND, before=LOOP.format(turns=7, step=1))) == (7 - 2) * 9


@once
@pytest.mark.parametrize(
    ("before", "body"),
    [
        (LOOP.format(turns=7, step=2), AROUND),
        (LOOP.format(turns=7, step=1).replace("direction=LT", "direction=NE"), AROUND),
        (LOOP.format(turns=7, step=1), AROUND.replace("constant(2)", "parameter(1)")),
        ("", '  x = f32[9]{0} parameter(0)\n  ROOT y = f32[9]{0} custom-call(x), custom_call_target="svd"'),
    ],
)  # fmt: skip
def test_what_the_text_does_not_say_is_not_guessed(before, body):
    with pytest.raises(hlo.Unknown):
        hlo.flops(program(body, before=before))


def step(rule, **network):
    keras.utils.set_random_seed(1)
    arch = network.pop("arch", f"{WIDTH}-{WIDTH}")
    shape = network.pop("input_shape", (INPUTS,))
    model = Learner(architectures.get(arch, shape, OUTPUTS, seed=1, **network), rule, seed=1)
    model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    x = np.zeros((BATCH, *shape), "float32")
    y = np.zeros(BATCH, "int32")
    model.fit(x, y, BATCH, verbose=0)
    return model, x, y


SIZES = [INPUTS, WIDTH, WIDTH, OUTPUTS]


@pytest.mark.parametrize("rule", ["bp", "drtp", "dfa"])
def test_products_of_a_dense_network(rule):
    """Forward and weight gradients everywhere; BP's way back through all weights but the first layer's,
    and DFA's way from the outputs to every hidden layer."""
    one_way = sum(a * b for a, b in zip(SIZES, SIZES[1:], strict=False))
    back = {"bp": one_way - INPUTS * WIDTH, "drtp": 0, "dfa": 2 * WIDTH * OUTPUTS}[rule]
    targets = {"drtp": 2 * WIDTH * OUTPUTS}.get(rule, 0)  # which DRTP projects
    products = 2 * BATCH * (2 * one_way + back + targets)
    counted = hlo.flops(backend.step_hlo(*step(rule)))
    elementwise = 30 * BATCH * sum(SIZES) + 3 * sum(
        (a + 1) * b for a, b in zip(SIZES, SIZES[1:], strict=False)
    )
    assert products < counted < products + elementwise


@on_jax
@pytest.mark.parametrize("rule", ["bp", "dfa", "fg", "ll", "pepita"])
def test_as_many_as_xla_counts_in_the_compiled_program(rule):
    assert counted_by_xla(*step(rule)) == pytest.approx(
        hlo.flops(backend.step_hlo(*step(rule))), rel=0.04
    )


@on_jax
def test_convolutions_as_xla_counts_them():
    convolutional = step("bp", arch="CONV_4_3_2_1_FC_9_FC_10", input_shape=(8, 8, 3))
    xla = counted_by_xla(*convolutional)
    assert hlo.flops(backend.step_hlo(*convolutional)) == pytest.approx(xla, rel=0.04)


def counted_by_xla(model, x, y):
    import jax

    parts = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in part] for part in parts)
    return jax.jit(model.train_step).lower(state, (x, y)).compile().cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.once
def test_a_loop_of_a_rule_is_counted_turn_by_turn():
    few, many = (hlo.flops(backend.step_hlo(*step(f"dtp:iterations={n}"))) for n in (2, 12))
    more = hlo.flops(backend.step_hlo(*step("dtp:iterations=7")))
    assert many - more == more - few > 0
