"""Schedules: whether blocks learn together or in turn."""

from __future__ import annotations

import keras

from bpfree.errors import UserError

SCHEDULES = ("simultaneous", "sequential")


class BlockByBlock(keras.callbacks.Callback):
    """Trains one block after the other and the head at the end, each with a fresh optimizer.

    Epoch e (from 0) belongs to block `e // epochs_per_block`, and to the last part beyond the others.
    A part that has learned, or has not yet, is frozen: it neither moves nor costs a backward pass,
    and its dropout and batch statistics are in inference mode. Adds `block` to an epoch's logs: the
    number, from 1, of the block that was training, L + 1 for the head. Which epoch it is decides
    everything, so a resumed run goes on where it was.

    Args:
        parts: that learn in turn: L + 1, or L where the rule does not train the head.
        epochs_per_block: ≥ 1; None shares the epochs of `fit` out equally, what is left over going to
            the last part.

    Raises:
        UserError: from `fit`, if no epoch is left for the last part.

    Source: greedy layer-wise training as in Belilovsky, Eickenberg & Oyallon 2019,
    https://arxiv.org/abs/1812.11446, section 3.
    """

    def __init__(self, parts: int, epochs_per_block: int | None = None):
        super().__init__()
        self.parts = parts
        self.epochs_per_block = epochs_per_block

    def on_train_begin(self, logs=None):
        self._length = share(self.parts, self.params["epochs"], self.epochs_per_block)

    def on_epoch_begin(self, epoch, logs=None):
        stage, done = divmod(epoch, self._length)
        if done == 0 and stage < self.parts:
            renew(self.model.optimizer, self.model.trainable_variables)
        self.model.enter(min(stage, self.parts - 1))

    def on_epoch_end(self, epoch, logs=None):
        logs["block"] = self.model.stage + 1

    def on_train_end(self, logs=None):
        self.model.enter(None)


def share(parts: int, epochs: int, epochs_per_block: int | None = None) -> int:
    """The epochs of each part but the last.

    Raises:
        UserError: if none is left for the last.
    """
    length = epochs // parts if epochs_per_block is None else epochs_per_block
    if length < 1 or length * (parts - 1) >= epochs:
        at = f" at {length} epochs per block" if epochs_per_block else ""
        raise UserError(
            f"{parts} parts that learn in turn{at} need more than {epochs} epochs: raise the number of "
            "epochs, or train simultaneously."
        )
    return length


def last_turn(parts: int, epochs: int, epochs_per_block: int | None = None) -> int:
    """The epoch, from 0, in which the last part begins."""
    return (parts - 1) * share(parts, epochs, epochs_per_block)


def renew(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    """Gives the optimizer of these variables its initial state back, but for its learning rate."""
    if not optimizer.built:
        return
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(variables)
    for variable, initial in zip(optimizer.variables, fresh.variables, strict=True):
        if variable.name != "learning_rate":
            variable.assign(initial)


def check(schedule: str, rule) -> None:
    """Raises a UserError unless the schedule exists and the rule can follow it."""
    refused = refusal(schedule, rule)
    if refused:
        raise UserError(refused)


def refusal(schedule: str, rule) -> str | None:
    """A sentence that says why the rule cannot follow the schedule, or None."""
    if schedule not in SCHEDULES:
        return f"Unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}."
    if schedule == "sequential" and not rule.local:
        return (
            f"The sequential schedule trains block by block, and rule {rule.name!r} needs all blocks at "
            "once to teach one: train them simultaneously."
        )
    return None
