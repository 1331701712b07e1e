"""What only the backend knows of a training's costs: its step as HLO, and the memory of its device.

With `bpfree.autodiff` and `bpfree.tuning.population` the only code that names a backend.
"""

from __future__ import annotations

import keras
import numpy as np

BACKEND = keras.backend.backend()
if BACKEND == "jax":
    import jax
else:
    import tensorflow as tf


def step_hlo(model: keras.Model, x: np.ndarray, y: np.ndarray) -> str:
    """The model's training step on such a batch, as HLO text, traced but not compiled.

    Args:
        model: built, compiled and trained for a step at least, so that its metrics have variables.
        x: inputs of one batch, of which only shape and type matter.
        y: targets, likewise.
    """
    if BACKEND == "jax":
        parts = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = tuple([variable.value for variable in part] for part in parts)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, (x, y)))
        return jax.jit(model.train_step, donate_argnums=0).lower(*shapes).as_text("hlo")
    batch = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    step = tf.function(model.train_step, jit_compile=True, autograph=False)
    return step.experimental_get_compiler_ir(batch)(stage="hlo")


def reset_device_peak() -> int:
    """Begins to look for the peak anew, where the backend can; what it is at least from now on.

    TensorFlow forgets the peak so far; JAX's is that of the whole process.
    """
    if BACKEND == "jax":
        return device_peak() or 0
    if device_peak() is not None:
        tf.config.experimental.reset_memory_stats("GPU:0")
    return 0


def device_peak() -> int | None:
    """Most bytes of the accelerator's memory that were in use at once; None without accelerator."""
    if BACKEND == "jax":
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if not tf.config.list_logical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]
