"""What one backend computes, to be compared with another's: `python observations.py state.npz out.npz`."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import toy
from specs import SPECS

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
    with np.load(sys.argv[1]) as state:
        np.savez(sys.argv[2], **observe(dict(state))[0])
