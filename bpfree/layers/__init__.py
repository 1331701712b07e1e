"""Keras layers that Keras lacks."""

from bpfree.layers.activations import step
from bpfree.layers.dropout import Dropout
from bpfree.layers.projection import RandomProjection

__all__ = ["Dropout", "RandomProjection", "step"]
