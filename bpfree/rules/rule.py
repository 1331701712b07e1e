"""Rule: the base of every learning rule."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.precision import full
from bpfree.rules.trace import Batch, Trace

REGISTRY: dict[str, type[Rule]] = {}
"""Every rule class by its name; filled by subclassing `Rule`."""


class Rule(keras.layers.Layer):
    """A learning rule: one scalar per block (a surrogate) whose gradient is the block's update.

    The gradient of the surrogates' sum with respect to a block's own weights *is* the rule's update
    direction; `stop_gradient` is placed so that it is. Where d stands in for ∂L/∂h, the surrogate is
    `Σ sg(d)·h` (a step moves h along −d). Every surrogate is a weighted mean over the batch, so
    duplicating a batch changes no gradient; `trace.error` already carries weights and 1/N.

    A subclass needs a `name` and `surrogates`, and is registered by being defined. Its constructor
    arguments are its options: kept as attributes of the same name, they are its configuration, and
    on the command line `name:option=value,option=value`.

    Args:
        seed: the run's seed; every weight of the rule derives its own. None: the learner gives its own.
    """

    name = ""
    aliases: dict[str, dict[str, Any]] = {}
    """Further names, each with the options it stands for."""
    cut = True
    """Whether gradients stop between blocks."""
    projects = False
    """Whether the rule owns feedback matrices, so that `bw_init` means something to it."""
    local = False
    """Whether a block learns from itself and the targets alone, so that blocks can learn in turn."""
    stochastic = False
    """Whether the rule itself draws random numbers in a step, beyond what the network's layers do."""
    per_block = ()
    """Names of options that take one value for all blocks, or a list with one for each."""
    as_weights = ()
    """Names of options that only decide the values of weights: rules that differ in them alone are one
    program."""
    alone: str | None = None
    """Why its networks cannot train together as one program, in a sentence; None where they can."""
    heads = ()
    """Trained auxiliary heads, one per block. Only for rules that have some."""

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**{"name": type(self).name, **kwargs})
        self.seed = seed

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not vars(cls).get("name"):
            return
        known = REGISTRY.get(cls.name)
        # A notebook cell that is run again defines the same class of the same module again.
        if known is not None and (known.__module__, known.__name__) != (
            cls.__module__,
            cls.__name__,
        ):
            raise UserError(
                f"A rule named {cls.name!r} exists already, {known.__module__}.{known.__name__}: "
                f"give {cls.__name__} another name."
            )
        REGISTRY[cls.name] = keras.saving.register_keras_serializable("bpfree")(cls)

    # -- what a rule says -----------------------------------------------------------------------

    def build(self, network, input_shape, outputs: int) -> None:
        """Creates the rule's own weights, once the network is built.

        Args:
            network: the built BlockNetwork; `network.hidden_shapes` are its activations' shapes.
            input_shape: with the batch axis, which is None.
            outputs: D.
        """

    def surrogates(self, trace: Trace) -> list:
        """One scalar per block, from a forward pass."""
        raise NotImplementedError(f"{type(self).__name__} defines no surrogates.")

    def lesson(self, network, batch: Batch) -> tuple[list, Any]:
        """All surrogates, the head's included, and the outputs.

        The head learns from the true task loss, on a stopped input when `cut`. Override for rules
        with a forward pass of their own.
        """
        trace = self.trace(network, batch)
        return [*self.surrogates(trace), batch.task_loss(trace.outputs)], trace.outputs

    def before_step(self, network, batch: Batch) -> None:
        """Updates the rule's own weights, before the lesson. Only for rules that train feedback."""

    def predict(self, network, x):
        """Class scores or reconstructed values, in the form of the head's output (N, D)."""
        return network.trace(x, training=False, cut=False)[-1]

    def activations(self, network, x) -> list:
        """`[h_1, …, h_L]` of inputs as the prediction sees them, in inference mode."""
        return network.trace(x, training=False)[:-1]

    def assess(self, network, x) -> tuple[Any, Any]:
        """What `evaluate` measures: the task loss's outputs, and the scores of the other metrics.

        They are the same wherever the prediction is what the task loss is of.
        """
        scores = self.predict(network, x)
        return scores, scores

    def training_scores(self, network, x, outputs):
        """What the metrics that training logs are of: the lesson's outputs, unless the prediction differs."""
        return outputs

    def input_shape(self, shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
        """What the network is given for examples of this shape: theirs, unless labels are appended."""
        return shape

    def penalty(self, network):
        """A scalar that the rule adds to the objective: it enters the gradient and `reg`, never `loss`."""
        return None

    def parts(self, network) -> int:
        """How many parts learn in a sequential schedule: the blocks and the head."""
        return len(network.blocks) + 1

    def trained_with(self, network, index: int) -> list:
        """The variables that learn from surrogate `index`: the block's and its auxiliary head's."""
        layers = [[*network.blocks, network.head][index], *self.heads[index : index + 1]]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def lr_multiplier(self, variable) -> float:
        """What a step of this variable is multiplied by, after the optimizer: 0 keeps it as it is."""
        return 1.0

    def align(self, network) -> None:
        """Starts the forward weights aligned with the feedback. Only for rules that have some."""
        raise NotImplementedError(f"{type(self).__name__} has no feedback to align weights with.")

    def refusal(self, problem_type: str, activation: str | None, fw_init: str | None) -> str | None:
        """A sentence that says why the rule cannot work there, or None."""
        if fw_init == "aligned" and type(self).align is Rule.align:
            return (
                f"fw_init 'aligned' sets forward weights from matrices that project the outputs to every "
                f"block, and rule {self.name!r} has none: choose another fw_init."
            )
        if fw_init == "zeros" and (activation == "relu" or not self.cut):
            return (
                f"Zero forward weights cannot leave zero under rule {self.name!r} with activation "
                f"{activation!r}, since no signal passes: choose another fw_init."
            )
        return None

    def risk(self, activation: str | None) -> str | None:
        """A sentence that says what is likely to go wrong there, or None."""
        return None

    def check(self, network) -> None:
        """Raises a UserError where the rule cannot work, and warns where it is likely to fail."""
        refusal = self.refusal(network.problem_type, network.activation, network.fw_init)
        if refusal:
            raise UserError(refusal)
        risk = self.risk(network.activation)
        if risk:
            warnings.warn(risk, stacklevel=3)

    # -- what the base does ---------------------------------------------------------------------

    def trace(self, network, batch: Batch) -> Trace:
        """A forward pass, cut as the rule asks."""
        modes = [batch.mode(index) for index in range(len(network.blocks) + 1)]
        *activations, outputs = network.trace(batch.x, modes, self.cut)
        return Trace(network, batch, activations, outputs)

    def get_config(self) -> dict:
        config = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy}
        return {**config, **{option: getattr(self, option) for option in self.options()}}

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The constructor's arguments with their defaults, those of base classes included."""
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Rule) and "__init__" in vars(base):
                for parameter in inspect.signature(base.__init__).parameters.values():
                    if (
                        parameter.kind is parameter.POSITIONAL_OR_KEYWORD
                        and parameter.name != "self"
                    ):
                        found[parameter.name] = parameter.default
        return found

    def get_build_config(self):
        # The learner builds its rule; Keras could not, without the network.
        return None


def zero(variables):
    """0, with a zero gradient for each of the variables: the surrogate of what learns nothing.

    Without it TensorFlow's gradient would be None. One entry of each variable suffices.
    """
    entries = (ops.reshape(variable, (-1,))[0] for variable in variables)
    return sum((0 * full(entry) for entry in entries), 0.0)
