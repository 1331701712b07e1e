"""The memory of a training step, by the compiler's own account; benchmarks/memory.py measures it in full."""

import keras
import pytest
import toy

EXAMPLES = 4096


def temporary(rule: str, depth: int) -> int:
    """Bytes that JAX's compiler sets aside for activations and gradients of a step."""
    import jax

    learner = toy.learner(rule, arch=f"16x{depth}")
    learner.optimizer.build(learner.trainable_variables)
    state = (
        learner.trainable_variables,
        learner.non_trainable_variables,
        learner.optimizer.variables,
        learner.metrics_variables,
    )
    values = tuple([variable.value for variable in part] for part in state)
    x, y, _ = toy.batch(EXAMPLES)
    step = jax.jit(learner.train_step, donate_argnums=0).lower(values, (x, y)).compile()
    return step.memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow does not tell")
@pytest.mark.parametrize("rule", ["drtp", "ll", "dfa:recompute=true", "lw", "sp"])
def test_memory_of_local_rules_does_not_grow_with_depth(rule):
    assert temporary(rule, 12) <= 1.05 * temporary(rule, 4)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow does not tell")
def test_memory_of_backpropagation_does_and_projected_errors_need_no_more():
    deep = temporary("bp", 12)
    assert deep > 2 * temporary("bp", 4)
    for rule in ("dfa", "sdfa"):
        assert temporary(rule, 12) <= 1.1 * deep
