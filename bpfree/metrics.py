"""`error`: the metric that papers on learning rules report."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("bpfree")
def misclassified(y_true, y_pred):
    """100 where the highest score is not the label's, else 0; per example (N,).

    Args:
        y_true: labels (N,) or one-hot (N, D).
        y_pred: scores (N, D).
    """
    y_true = ops.convert_to_tensor(y_true)
    if len(y_true.shape) == 2 and y_true.shape[1] > 1:
        y_true = ops.argmax(y_true, axis=-1)
    y_true = ops.cast(ops.reshape(y_true, (-1,)), "int32")
    hit = ops.equal(y_true, ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
    return 100.0 * (1.0 - ops.cast(hit, "float32"))


def metrics(problem_type: str) -> list:
    """The metrics of a problem: `error` in per cent of the examples, and `accuracy` as a fraction;
    in reconstruction `error` is the root mean squared error per pixel, in units of the scaled data.
    """
    if problem_type == "reconstruction":
        return [keras.metrics.RootMeanSquaredError(name="error")]
    return [
        keras.metrics.MeanMetricWrapper(misclassified, name="error"),
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    ]
