"""bpfree: train neural networks without backpropagation, and compare learning rules fairly."""

from importlib import import_module

__version__ = "0.1.0"

_CLASSES = {"Learner": "bpfree.learner", "BlockNetwork": "bpfree.network"}
_MODULES = {
    "analysis",
    "architectures",
    "autodiff",
    "data",
    "layers",
    "reporting",
    "rules",
    "tuning",
}
__all__ = sorted([*_CLASSES, *_MODULES])


def __getattr__(name: str):
    """Imports on first use: `import bpfree` alone loads neither Keras nor TensorFlow."""
    if name in _CLASSES:
        return getattr(import_module(_CLASSES[name]), name)
    if name in _MODULES:
        return import_module(f"bpfree.{name}")
    raise AttributeError(f"module 'bpfree' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
