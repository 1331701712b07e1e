"""Metrics of scores: `error`, which papers on learning rules report, and Keras's made to take logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_CROSS_ENTROPIES = tuple(
    getattr(keras.metrics, f"{kind}_crossentropy")
    for kind in ("binary", "categorical", "sparse_categorical", "binary_focal", "categorical_focal")
)
_ACCURACIES = ("accuracy", "acc", "binary_accuracy", "binaryaccuracy")


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


def of_scores(identifier: Any, outputs: int | None) -> Any:
    """A metric as one of scores (logits), where it is a cross entropy or has a `from_logits` that says how.

    Args:
        identifier: what Keras's compile takes in its list of metrics.
        outputs: D, or None if unknown. A single output's class is its sign.

    Returns:
        The metric, or the identifier as it is: other metrics see scores and must be meant for them.
    """
    named = isinstance(identifier, str)
    if named and identifier.lower() in _ACCURACIES:  # among which Keras chooses by shapes
        if outputs == 1:
            return keras.metrics.BinaryAccuracy(identifier, threshold=0.0)
        return identifier
    if identifier in _CROSS_ENTROPIES:
        return keras.metrics.MeanMetricWrapper(identifier, identifier.__name__, from_logits=True)
    try:
        metric = keras.metrics.get(identifier)
    except ValueError:  # an unknown name, of which Keras will say so
        return identifier
    if getattr(metric, "from_logits", None) is not False:
        return identifier
    name = identifier if named else metric.name
    return type(metric).from_config({**metric.get_config(), "name": name, "from_logits": True})
