"""Looking inside a training run: trackers, recorded beside the metrics of every epoch."""

from bpfree.analysis.trackers import (
    BPCosine,
    Gradients,
    LocalLoss,
    Tracker,
    WeightAlignment,
    Weights,
)

__all__ = ["BPCosine", "Gradients", "LocalLoss", "Tracker", "WeightAlignment", "Weights"]
