"""Seeds: every random choice has one of its own, derived from the run's seed and a path."""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *path: str | int) -> int:
    """The seed of one random choice: a 31-bit hash of the run's seed and the choice's path.

    It depends on nothing else, so it does not change with the order in which things are created,
    and two paths practically never share one.

    Args:
        seed: the run's seed, any integer.
        *path: role and place, e.g. `"forward", 2, "kernel"`.
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def fresh() -> int:
    """A seed for a caller that named none, from Python's random state.

    `keras.utils.set_random_seed` sets that state, so a program that calls it repeats.
    """
    return random.randrange(2**31)
