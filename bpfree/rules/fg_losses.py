"""Losses of a block's output: what a forward gradient aims at, and what its guesses are gradients of.

Each is a function `(rule, replay, index, h)` that returns the loss of every example (N,), unweighted, of the
output h (N, …) of block `index`. All of them are the compiled loss, of different outputs.
"""

from __future__ import annotations

from collections.abc import Callable


def of_network(rule, replay, index: int, h):
    """`global`: of the network's outputs."""
    return replay.batch.losses(replay.outputs(h, index))


def of_auxiliary_net(rule, replay, index: int, h):
    """`local`: of the block's auxiliary net's."""
    return replay.batch.losses(replay.through(rule.heads[index], h, index))


def of_random_net(rule, replay, index: int, h):
    """`ntk` and `fixed-ntk`: of an untrained net's."""
    return replay.batch.losses(replay.through(rule.random[index], h, index))


def of_next_block(rule, replay, index: int, h):
    """`above`: the next block's local loss, which is the network's if that block is the last."""
    if index + 1 == len(rule.heads):
        return of_network(rule, replay, index, h)
    return of_auxiliary_net(rule, replay, index + 1, replay.block(index + 1, h))


LOSSES: dict[str, Callable] = {
    "global": of_network,
    "local": of_auxiliary_net,
    "above": of_next_block,
    "ntk": of_random_net,
    "fixed-ntk": of_random_net,
}
"""By the name of the target, or of the guess."""
