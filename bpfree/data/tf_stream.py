"""Batches as a tf.data pipeline: Python is asked once an epoch, for the order."""

from __future__ import annotations

import tensorflow as tf

from bpfree.data.batches import Batches

_AHEAD = 2  # batches made ready while the model trains on another


class Pipeline:
    """A `tf.data.Dataset` of one epoch's batches, whose values equal theirs to the last bit.

    A sweep of small networks starts thousands of epochs, so an iteration must begin and end quickly: the
    order lies in a variable, since to ask Python within the pipeline takes longer than an epoch of the
    digits, and nothing is tuned, since threads that tune are waited for.

    Attributes:
        dataset: the batches of an epoch, at first of `batches.epoch`.

    Args:
        batches: batches without augmentation.
    """

    def __init__(self, batches: Batches):
        self._batches = batches
        with tf.device("CPU"):  # the pipeline runs there, and the set may be larger than a GPU
            x = tf.constant(batches.x)
            y = None if batches.y is None else tf.constant(batches.y)
            bounds = tf.constant(batches.bounds, tf.int64)
            self._order = tf.Variable(batches.order(batches.epoch), trainable=False)
        sizes = set((batches.bounds[1:] - batches.bounds[:-1]).tolist())
        size = sizes.pop() if len(sizes) == 1 else None

        # Its conditions are Python's; converted, it would leave a file when the process replaces itself.
        @tf.autograph.experimental.do_not_convert
        def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.ensure_shape(self._order[bounds[index] : bounds[index + 1]], (size,))
            scale = batches.scale
            scaled = (tf.cast(tf.gather(x, rows), tf.float32) - scale.offset) / scale.scale
            if batches.problem_type == "reconstruction":
                width = batches.x[0].size
                return scaled, tf.reshape(scaled, (-1 if size is None else size, width))
            return scaled, tf.gather(y, rows)

        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.range(len(batches)).map(batch).prefetch(_AHEAD)
        self.dataset = dataset.with_options(options)

    def begin(self, epoch: int) -> None:
        """Iterations that start from now on are in this epoch's order."""
        self._order.assign(self._batches.order(epoch))
