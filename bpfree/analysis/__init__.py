"""Looking inside a training run: trackers, recorded beside the metrics of every epoch."""

from bpfree.analysis.information import NHSIC
from bpfree.analysis.probes import LinearProbe, linear_probe
from bpfree.analysis.trackers import (
    BPCosine,
    Gradients,
    LocalLoss,
    Tracker,
    WeightAlignment,
    Weights,
)
from bpfree.hsic import gaussian_kernel, linear_kernel, nhsic, nhsic_of_kernels

__all__ = [
    "BPCosine",
    "Gradients",
    "LinearProbe",
    "LocalLoss",
    "NHSIC",
    "Tracker",
    "WeightAlignment",
    "Weights",
    "gaussian_kernel",
    "linear_kernel",
    "linear_probe",
    "nhsic",
    "nhsic_of_kernels",
]
