"""Compiled losses: any Keras loss as a batch mean of scores, or a sentence that says why not."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from bpfree.errors import UserError

_NEEDS = {
    **dict.fromkeys(
        ("CategoricalGeneralizedCrossEntropy", "KLDivergence", "Poisson", "Dice", "Tversky"),
        "probabilities",
    ),
    "Circle": "embeddings",
    "CTC": "sequences",
}
"""What Keras's other losses need, by name."""


@keras.saving.register_keras_serializable("bpfree")
class FunctionLoss(keras.losses.Loss):
    """A user's own function `(y_true, y_pred) -> losses per example`, as a Loss that averages them.

    Args:
        function: must be registered with Keras to be saved with a model.
    """

    def __init__(self, function, **kwargs):
        # TensorFlow takes only some names for a scope: "<lambda>" and "_private" are not among them.
        super().__init__(**{"name": "function_loss", **kwargs})
        self.function = function

    def call(self, y_true, y_pred):
        losses = self.function(y_true, y_pred)
        if len(losses.shape) == 0:
            raise UserError(
                f"A loss must have one value per example, received a scalar from {self.name!r}: leave "
                "out the sum or mean over the batch, e.g. by axis=-1."
            )
        return losses

    def get_config(self):
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": function}

    @classmethod
    def from_config(cls, config):
        config["function"] = keras.saving.deserialize_keras_object(config["function"])
        return cls(**config)


def get(identifier: Any) -> keras.losses.Loss:
    """The loss as one of scores (logits), averaged over the batch.

    Args:
        identifier: a Keras loss's name, its function, a Loss, its configuration, or an own function
            of scores, which returns one value per example. A loss that would expect probabilities is
            made to take logits.

    Raises:
        UserError: for an unknown name, a loss that needs something else than scores and has no
            `from_logits`, one that is not a batch mean, or several losses.
    """
    loss = _resolve(identifier)
    if loss.reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        raise UserError(
            f"A loss must be a mean over the batch, received {loss.name!r} with reduction="
            f"{loss.reduction!r}: use reduction='sum_over_batch_size'."
        )
    for name in (base.__name__ for base in type(loss).__mro__):
        if name in _NEEDS:
            raise UserError(
                f"Networks put out scores (logits), and {name} needs {_NEEDS[name]}: "
                "use a cross entropy, or a function of scores of your own."
            )
    if getattr(loss, "from_logits", None) is False:
        loss = type(loss).from_config({**loss.get_config(), "from_logits": True})
    return loss


def _resolve(identifier) -> keras.losses.Loss:
    if isinstance(identifier, keras.losses.Loss):
        return identifier
    several = isinstance(identifier, (list, tuple)) or (
        isinstance(identifier, dict) and "class_name" not in identifier
    )
    if identifier is None or several:
        raise UserError(
            f"A learner is compiled with one loss, received {identifier!r}: "
            "name one, e.g. loss='sparse_categorical_crossentropy'."
        )
    try:
        found = keras.losses.get(identifier)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"Unknown loss {identifier!r}: name a Keras loss, e.g. 'categorical_crossentropy'."
        ) from error
    if isinstance(found, keras.losses.Loss):
        return found
    return _class_of(found) or FunctionLoss(found)


def _class_of(function) -> keras.losses.Loss | None:
    """The Keras Loss that wraps this Keras loss function, or None for a user's own."""
    for member in vars(keras.losses).values():
        if inspect.isclass(member) and issubclass(member, keras.losses.Loss):
            if member is not keras.losses.Loss and getattr(member(), "fn", None) is function:
                return member()
    return None
