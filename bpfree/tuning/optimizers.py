"""Optimizers and learning-rate schedules by their command-line names."""

from __future__ import annotations

import difflib
import re
from itertools import pairwise

import keras
from keras import ops

from bpfree.errors import UserError

OPTIMIZERS = {
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "nadam": ("Nadam", {}),
    "adagrad": ("Adagrad", {}),
    "adamax": ("Adamax", {}),
    "lion": ("Lion", {}),
    "rmsprop": ("RMSprop", {}),
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nag": ("SGD", {"momentum": 0.9, "nesterov": True}),
}
"""Keras's class and arguments by name; `momentum` and `nag` (Nesterov's) use 0.9."""


@keras.saving.register_keras_serializable("bpfree")
class Uncorrected(keras.optimizers.schedules.LearningRateSchedule):
    """`lr (1 − β₁ᵗ) / √(1 − β₂ᵗ)` at step t = 1, 2, …: Adam without bias correction, once in Keras's Adam.

        Adam(Uncorrected(lr, 0.9, 0.99), beta_1=0.9, beta_2=0.99, epsilon=1e-8)

    steps by lr m / (√v + ε), the first time by lr sign(g); it is what GAIT-prop was published with.

    Args:
        lr: > 0.
        beta_1, beta_2: the optimizer's.
    """

    def __init__(self, lr: float, beta_1: float = 0.9, beta_2: float = 0.99):
        super().__init__()
        self.lr = lr
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def __call__(self, step):
        t = ops.cast(step, keras.config.floatx()) + 1
        beta_1, beta_2 = (ops.cast(beta, t.dtype) for beta in (self.beta_1, self.beta_2))
        return self.lr * (1 - ops.power(beta_1, t)) / ops.sqrt(1 - ops.power(beta_2, t))

    def get_config(self):
        return {"lr": self.lr, "beta_1": self.beta_1, "beta_2": self.beta_2}


_SCHEDULE = re.compile(r"multistep(?::([1-9]\d*(?:-[1-9]\d*)*))?")


def check(optimizer: str, lr_schedule: str) -> None:
    """Raises a UserError unless both are known, and the epochs of a schedule rise from 1."""
    if optimizer not in OPTIMIZERS:
        near = difflib.get_close_matches(optimizer, OPTIMIZERS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(OPTIMIZERS)}."
        raise UserError(f"Unknown optimizer {optimizer!r}: {hint}")
    if lr_schedule not in ("constant", "cosine") and not _SCHEDULE.fullmatch(lr_schedule):
        raise UserError(
            f"Unknown learning-rate schedule {lr_schedule!r}: choose constant, cosine, multistep, "
            "or multistep:<epoch>-<epoch> with epochs from 1, e.g. multistep:100-150."
        )
    ends = _ends(lr_schedule)
    if any(later <= end for end, later in pairwise(ends)):
        raise UserError(
            f"The epochs of {lr_schedule!r} must rise: order them, e.g. multistep:100-150."
        )


def get(
    optimizer: str, lr: float, lr_schedule: str, epochs: int, steps: int, weight_decay: float = 0.0
):
    """A Keras optimizer.

    Args:
        optimizer: one of `OPTIMIZERS`.
        lr: initial learning rate, > 0.
        lr_schedule: `constant`; `cosine`, to 0 at the end (Loshchilov & Hutter 2017); or
            `multistep`, × 0.1 after half and three quarters of the epochs, or after those named:
            `multistep:100-150`.
        epochs: of the whole run.
        steps: per epoch.
        weight_decay: λ of `decouples`' decay, which takes lr λ W from every weight W; others have none.

    Raises:
        UserError: for an unknown name, or a learning rate that is not positive.
    """
    check(optimizer, lr_schedule)
    if not lr > 0:
        raise UserError(f"A learning rate is positive, received {lr}: choose e.g. 0.001.")
    name, options = OPTIMIZERS[optimizer]
    if decouples(optimizer):
        options = {**options, "weight_decay": weight_decay}
    rate = _schedule(lr, lr_schedule, epochs, steps)
    return getattr(keras.optimizers, name)(learning_rate=rate, **options)


def decouples(optimizer: str) -> bool:
    """Whether it decays weights by itself, beside the gradient (Loshchilov & Hutter 2019)."""
    return optimizer == "adamw"


def _schedule(lr: float, lr_schedule: str, epochs: int, steps: int):
    if lr_schedule == "constant":
        return lr
    if lr_schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(lr, epochs * steps)
    ends = _ends(lr_schedule) or [max(1, epochs // 2), max(1, epochs * 3 // 4)]
    values = [lr * 0.1**index for index in range(len(ends) + 1)]
    # A boundary is the last step, from 0, of the rate before it.
    return keras.optimizers.schedules.PiecewiseConstantDecay([e * steps - 1 for e in ends], values)


def _ends(lr_schedule: str) -> list[int]:
    """The epochs that `multistep:100-150` names; none where it names none."""
    return [int(end) for end in lr_schedule.partition(":")[2].split("-") if end]
