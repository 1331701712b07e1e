"""Sharing a GPU: environments in which a process does not take all of its memory."""

from __future__ import annotations

_USABLE = 0.9  # of a GPU's memory, by all who share it

ON_DEMAND = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Memory is taken as it is needed, on either backend; to be set before the backend meets the GPU."""


def environment(gpus: float) -> dict[str, str]:
    """That of a worker: memory on demand, and on JAX no more than its share of a GPU, if it has one.

    Args:
        gpus: that the worker has; below 1, others have the rest.
    """
    if not 0 < gpus < 1:
        return ON_DEMAND
    # Its older name, where the machine has it set, would be an error beside it.
    share = {"XLA_CLIENT_MEM_FRACTION": f"{_USABLE * gpus:g}", "XLA_PYTHON_CLIENT_MEM_FRACTION": ""}
    return {**ON_DEMAND, **share}
