"""Durable searches: space, oracles, tuner, records."""

from importlib import import_module

_HOMES = {
    "BayesianOptimization": "searches",
    "Crew": "crew",
    "GridOracle": "oracle",
    "GridSearch": "searches",
    "HyperModel": "hypermodel",
    "Hyperband": "searches",
    "RandomSearch": "searches",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Imports on first use: the record store is read without Keras."""
    if name in _HOMES:
        return getattr(import_module(f"bpfree.tuning.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bpfree.tuning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
