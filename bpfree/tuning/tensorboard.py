"""TensorBoard logs of an execution, alike on both backends and without TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoard(keras.callbacks.Callback):
    """Writes an epoch's logs as scalars, weights as histograms, and the run's hyperparameters.

    Keras's own callback needs TensorFlow, and its HParams callback does too.

    Args:
        log_dir: of this execution.
        hyperparameters: name to value.
        histogram_freq: epochs between histograms of the weights; 0 writes none.
    """

    def __init__(
        self, log_dir: str | Path, hyperparameters: Mapping[str, Any], histogram_freq: int = 0
    ):
        super().__init__()
        self.log_dir = Path(log_dir)
        self.hyperparameters = dict(hyperparameters)
        self.histogram_freq = histogram_freq

    @property
    def reads_weights(self) -> bool:
        """Whether an epoch's end needs the model; the callback does its work there alone."""
        return self.histogram_freq > 0

    def on_train_begin(self, logs=None):
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(self.log_dir))
        group = self.log_dir.parent.name
        self._write(hparams_pb(self.hyperparameters, trial_id=group), step=0)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self._write(scalar_pb(name, float(value)), epoch + 1)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, weight in _named_weights(self.model.network):
                self._write(histogram_pb(name, keras.ops.convert_to_numpy(weight)), epoch + 1)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _write(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _named_weights(network) -> Iterator[tuple[str, keras.Variable]]:
    from bpfree.analysis.trackers import parts

    for place, layer in parts(network):
        for weight in layer.trainable_variables:
            yield f"{place}/{weight.name}", weight
