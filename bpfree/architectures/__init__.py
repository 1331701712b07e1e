"""Architectures by name; each returns a BlockNetwork, and none knows a rule."""

from __future__ import annotations

from collections.abc import Sequence

from bpfree.architectures.mlp import mlp, widths
from bpfree.errors import UserError
from bpfree.network import BlockNetwork

__all__ = ["check", "get", "mlp", "names"]


def names() -> list[str]:
    """What `--arch` understands, as patterns."""
    return ["500", "500-1000-500", "500x5"]


def get(arch: str, input_shape: Sequence[int], outputs: int, **options) -> BlockNetwork:
    """The network of that name.

    Args:
        arch: `"500-1000-500"` (an `mlp` with these hidden widths) or `"500x5"` (five of 500).
        input_shape: of one example, without the batch, e.g. `(28, 28, 1)`.
        outputs: D, the number of classes or of reconstructed values.
        **options: `activation`, `batch_norm`, `dropout`, `use_bias`, `fw_init`, `problem_type`,
            `seed`; see `mlp`.

    Raises:
        UserError: if the string names no architecture, or an option is out of range.
    """
    check(arch)
    return mlp(arch, input_shape, outputs, **options)


def check(arch: str) -> None:
    """Raises a UserError unless the string names an architecture; builds nothing."""
    if not arch or not arch[0].isdigit():
        raise UserError(
            f"Unknown architecture {arch!r}: write hidden widths, e.g. {', '.join(names())}."
        )
    widths(arch)
