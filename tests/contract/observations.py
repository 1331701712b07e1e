"""What one backend computes, to be compared with another's.

python observations.py out.npz state.npz           writes what it finds, and what it started from
python observations.py out.npz state.npz --given   starts from what is in the second
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
    return ops.cast(mean + stddev * _draws(shape).standard_normal(shape), dtype or "float32")


def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
    return ops.cast(_draws(shape).uniform(minval, maxval, shape), dtype or "float32")


def categorical(logits, num_samples, dtype="int32", seed=None):
    """The largest of the logits with Gumbel noise."""
    noise = _draws(logits.shape).gumbel(size=logits.shape)
    return ops.cast(ops.argmax(logits + ops.cast(noise, logits.dtype), -1)[:, None], dtype)


def _draws(shape) -> np.random.Generator:
    return np.random.default_rng(list(shape))


# Backends draw different numbers from one seed. Here they depend on the shape alone; before bpfree is
# imported, since a rule may hold on to the functions.
keras.random.normal, keras.random.uniform, keras.random.categorical = normal, uniform, categorical

import toy  # noqa: E402
from specs import SPECS  # noqa: E402

STEPPED = ("shallow", "dfa")
"""Specs of which two steps are compared as well: where a step may leave variables alone, and where not."""


def observe(state: dict | None = None) -> tuple[dict, dict]:
    """Gradients, and weights after two decayed steps, per spec; and the state they started from.

    Args:
        state: values of the non-trainable variables (feedback above all) to start from, by name.
    """
    found, started = {}, {}
    for spec in SPECS:
        learner = toy.learner(
            spec,
            batch_norm=True,
            weight_decay=0.05,
            optimizer=keras.optimizers.SGD(0.5, momentum=0.9, weight_decay=0.1),
        )
        for index, variable in enumerate(learner.non_trainable_variables):
            name = f"{spec}/{index}"
            if state is not None:
                variable.assign(state[name])
            started[name] = toy.values([variable])[0]
        parts = {"gradient": toy.values(learner.gradients(*toy.batch()))}
        if spec in STEPPED:
            for seed in (1, 2):
                learner.train_on_batch(*toy.batch(seed=seed))
            parts["weight"] = toy.values(learner.trainable_variables)
        for part, arrays in parts.items():
            found |= {f"{spec}/{part}/{index}": array for index, array in enumerate(arrays)}
    return found, started


if __name__ == "__main__":
    out, start, *given = sys.argv[1:]
    found, started = observe(dict(np.load(start)) if given else None)
    np.savez(out, **found)
    if not given:
        np.savez(start, **started)
