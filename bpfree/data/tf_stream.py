"""Batches as a tf.data pipeline: Python is asked once an epoch, for the order."""

from __future__ import annotations

import tensorflow as tf

from bpfree.data.batches import Batches


def tf_dataset(batches: Batches) -> tf.data.Dataset:
    """A dataset of the batches of one epoch; each iteration asks `batches.epoch` when it starts.

    Its values equal those of the batches themselves to the last bit. Keras starts an iteration
    after its callbacks' `on_epoch_begin`, and prefetching stays within the iteration.

    Args:
        batches: batches without augmentation.
    """
    with tf.device("CPU"):  # the pipeline runs there, and the set may be larger than a GPU
        x = tf.constant(batches.x)
        y = None if batches.y is None else tf.constant(batches.y)
        bounds = tf.constant(batches.bounds, tf.int64)
    sizes = set((batches.bounds[1:] - batches.bounds[:-1]).tolist())
    size = sizes.pop() if len(sizes) == 1 else None

    def split(order: tf.Tensor) -> tf.data.Dataset:
        steps = tf.data.Dataset.range(len(batches))
        return steps.map(lambda i: order[bounds[i] : bounds[i + 1]])

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.ensure_shape(rows, (size,))
        scale = batches.scale
        scaled = (tf.cast(tf.gather(x, rows), tf.float32) - scale.offset) / scale.scale
        if batches.problem_type == "reconstruction":
            width = batches.x[0].size
            return scaled, tf.reshape(scaled, (-1 if size is None else size, width))
        return scaled, tf.gather(y, rows)

    def order():
        yield batches.order(batches.epoch)

    orders = tf.data.Dataset.from_generator(
        order, output_signature=tf.TensorSpec((len(batches.x),), tf.int64)
    )
    dataset = orders.flat_map(split).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return dataset.prefetch(tf.data.AUTOTUNE)
