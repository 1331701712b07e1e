"""Data: `load` a set with fixed splits, scale it, and feed it in a seeded order."""

from importlib import import_module

from bpfree.data.catalog import check_name, load, names
from bpfree.data.dataset import Dataset

__all__ = ["Dataset", "batches", "check_name", "load", "names", "preprocessing"]


def __getattr__(name: str):
    """`bpfree.data.batches` needs Keras, so it is imported on first use."""
    if name in {"batches", "preprocessing"}:
        return import_module(f"bpfree.data.{name}")
    raise AttributeError(f"module 'bpfree.data' has no attribute {name!r}")
