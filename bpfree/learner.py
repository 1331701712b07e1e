"""Learner: a Keras model that trains a BlockNetwork by a learning rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import keras
import numpy as np
from keras import ops

from bpfree import added_losses, autodiff, losses, rules
from bpfree import schedule as schedules
from bpfree.errors import UserError
from bpfree.gradients import GradientFunctions
from bpfree.metrics import of_scores
from bpfree.network import BlockNetwork, kernels, layers_of
from bpfree.precision import full, width
from bpfree.rules.rule import zero
from bpfree.rules.trace import Batch
from bpfree.seeds import fresh


@keras.saving.register_keras_serializable("bpfree")
class Learner(keras.Model):
    """Trains `network` by `rule` with Keras's own training step.

    The objective has the task loss's value and the surrogates' gradient,

        sg(task) + (s − sg(s)),    s = Σ_l surrogate_l + head's surrogate + regularisers

    so the logged `loss` is the task loss, comparable between rules; regularisers are logged as `reg`.
    What layers add to the loss (activity regularisers, `add_loss`) is among them, for every rule by a
    forward pass of its own; gradients stop in it where the rule cuts.
    `compile`, `fit`, `evaluate`, `predict` and `save` are Keras's; `predict` returns scores (logits).

    Args:
        network: a BlockNetwork.
        rule: a rule, its name or its spec string, e.g. `"dfa"` or `"ll:loss=mse"`.
        weight_decay: λ ≥ 0, adds `λ/2 Σ K²` over all kernels to the regularisers, alike for every
            rule and optimizer. None leaves it out of the program.
        seed: the run's seed, from which the rule derives its own if it has none. None: from Python's
            random state.
        schedule: `simultaneous`, or `sequential`: block by block, see `bpfree.schedule.BlockByBlock`.
        epochs_per_block: of a sequential schedule, ≥ 1; the head learns in those that are left. None
            shares the epochs of `fit` out equally.

    Raises:
        UserError: if the rule cannot train this network, or not by this schedule.
    """

    def __init__(
        self,
        network: BlockNetwork,
        rule: str | rules.Rule = "bp",
        weight_decay: float | None = None,
        seed: int | None = None,
        schedule: str = "simultaneous",
        epochs_per_block: int | None = None,
        **kwargs,
    ):
        # Keras would cast targets and weights to half precision along with the inputs.
        super().__init__(**{**kwargs, "autocast": False})
        self.network = network
        self.rule = rules.get(rule)
        self.seed = fresh() if seed is None else seed
        if self.rule.seed is None:
            self.rule.seed = self.seed
        self.weight_decay = weight_decay
        self.reg = None
        self.rule.check(network)
        schedules.check(schedule, self.rule)
        self.schedule = schedule
        self.epochs_per_block = epochs_per_block
        self.stage = None

    @property
    def compute_dtype(self) -> str:
        """float32 whatever the policy is, so that rules see weights in full; layers keep to their own.

        float64 where Keras's floatx is.
        """
        return width()

    def build(self, input_shape) -> None:
        """Builds network, rule and the weight of the weight decay.

        Args:
            input_shape: with a batch axis, of any size; a pair (inputs, targets) means the first.
        """
        if isinstance(input_shape[0], Sequence):
            input_shape = input_shape[0]
        shape = (None, *input_shape[1:])
        self._shape = shape
        if not self.network.built:
            self.network.build(shape)
        self.build_rule(self.rule)
        if self.network.fw_init == "aligned":
            self.rule.align(self.network)
        if self.weight_decay is not None:
            self.decay = self.add_weight(
                name="weight_decay",
                shape=(),
                initializer=keras.initializers.Constant(self.weight_decay),
                trainable=False,
            )
        self._adds = self._layers_add_losses()
        if self._adds or self._weight_regularizer() is not None:
            self.reg = keras.metrics.Mean("reg")

    def build_rule(self, rule: rules.Rule) -> None:
        """Builds a rule for the built network, unless it is built."""
        if not rule.built:
            rule.build(self.network, self._shape, self.network.outputs)

    def compile(
        self, optimizer="adam", loss=None, metrics=None, weighted_metrics=None, **kwargs
    ) -> None:
        """Keras's compile; loss and metrics are made to take logits, see `bpfree.losses.get` and
        `bpfree.metrics.of_scores`."""
        outputs = self._outputs()
        both = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        for name, given in both.items():
            if isinstance(given, (list, tuple)):
                both[name] = [of_scores(metric, outputs) for metric in given]
        super().compile(optimizer=optimizer, loss=losses.get(loss), **both, **kwargs)
        self._gradient_functions = GradientFunctions(self)
        self._train_functions = {}
        self.stage = None

    def _outputs(self) -> int | None:
        """The network's number of outputs; where it is not built, that of units at its head's end, if any."""
        if self.network.built:
            return self.network.outputs
        return getattr(layers_of(self.network.head)[-1], "units", None)

    def fit(
        self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs
    ):
        """Keras's fit, by the learner's schedule."""
        if self.schedule == "sequential":
            parts = self.rule.parts(self.network)
            callbacks = [schedules.BlockByBlock(parts, self.epochs_per_block), *(callbacks or [])]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def enter(self, stage: int | None) -> None:
        """Lets only one block learn from now on: the others neither move nor have a backward pass.

        A frozen block is in inference mode. Each stage is a program of its own, compiled once.

        Args:
            stage: the block's index, L for the head; None lets all learn.
        """
        if stage == self.stage:
            return
        self._train_functions[self.stage] = self.train_function
        self.stage = stage
        # JAX recognises a program by its function, which must not be that of another stage.
        self.train_step = partial(Learner.train_step, self)
        self.train_function = self._train_functions.get(stage)
        self.make_train_function()

    # -- one step -------------------------------------------------------------------------------

    def train_step(self, *arguments):
        """Keras's own step, with labels and weights handed to the rule beside the inputs."""
        *state, data = arguments
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        inputs = (x, y) if weights is None else (x, y, weights)
        if not self.built:  # TensorFlow comes here first, and rules know their weights once built
            self.build(tuple(x.shape))
        scaled = [
            (index, multiplier)
            for index, multiplier in enumerate(self._lr_multipliers())
            if multiplier != 1.0
        ]
        if not scaled:
            return super().train_step(*state, (inputs, y, weights))
        # JAX hands the values over and gets them back; TensorFlow's variables hold them.
        before = list(state[0][0]) if state else [v + 0 for v in self.trainable_variables]
        result = super().train_step(*state, (inputs, y, weights))
        return self._scale_steps(result, before, scaled)

    def test_step(self, *arguments):
        """Keras's own step, on the outputs and the scores of `Rule.assess`."""
        *state, data = arguments
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        return super().test_step(*state, ((x,), y, weights))

    def _lr_multipliers(self) -> list[float]:
        multipliers = [self.rule.lr_multiplier(variable) for variable in self.trainable_variables]
        frozen = set(map(id, self._frozen()))
        return [
            0.0 if id(variable) in frozen else multiplier
            for variable, multiplier in zip(self.trainable_variables, multipliers, strict=True)
        ]

    def _frozen(self) -> list[keras.Variable]:
        """The variables that do not learn at this stage."""
        if self.stage is None:
            return []
        learning = set(map(id, self.rule.trained_with(self.network, self.stage)))
        return [variable for variable in self.trainable_variables if id(variable) not in learning]

    def _scale_steps(self, result, before, scaled):
        """The step's result with `v ← before + m (v − before)` for the variables in `scaled`."""
        if not isinstance(result, tuple):
            for index, multiplier in scaled:
                variable = self.trainable_variables[index]
                variable.assign(_part_way(before[index], variable, multiplier))
            return result
        logs, (values, *state) = result
        values = list(values)
        for index, multiplier in scaled:
            values[index] = _part_way(before[index], values[index], multiplier)
        return logs, (values, *state)

    def call(self, inputs, training=False):
        """Scores of inputs x; of a batch (x, y[, weights]) in training the rule's whole lesson, and of
        (x,) what is evaluated."""
        if not isinstance(inputs, (tuple, list)):
            return self.rule.predict(self.network, inputs)
        regularizer = self._regularizer(self.rule, inputs[0], training)
        logged = {} if regularizer is None else {"reg": regularizer}
        if not training:
            outputs, scores = self.rule.assess(self.network, inputs[0])
            return {"outputs": outputs, "scores": scores, **logged}
        surrogates, outputs = self._lesson(self.rule, *inputs)
        scores = self.rule.training_scores(self.network, inputs[0], outputs)
        surrogate = self._chosen(surrogates)
        return {"outputs": outputs, "scores": scores, "surrogate": surrogate, **logged}

    def _chosen(self, surrogates):
        """The sum of the surrogates that are learned from at this stage."""
        if self.stage is None:
            return sum(surrogates)
        return surrogates[self.stage] + zero(self._frozen())

    def objective(self, rule: rules.Rule, batch, training: bool = True):
        """The scalar whose gradient a step follows: the rule's surrogates and the regularisers.

        Args:
            rule: built on this learner's network.
            batch: `(x, y)` or `(x, y, weights)`.
            training: False puts dropout and batch statistics into inference mode.
        """
        regularizer = self._regularizer(rule, batch[0], training)
        surrogates, _ = self._lesson(rule, *batch, training=training)
        total = self._chosen(surrogates) if rule is self.rule else sum(surrogates)
        return total + (0.0 if regularizer is None else regularizer)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The task loss; in training, its value with the surrogates' gradient."""
        lesson = y_pred if isinstance(y_pred, dict) else {"outputs": y_pred}
        task = self._task_loss(y, lesson["outputs"], sample_weight)
        regularizer = lesson.get("reg", 0.0)
        if "reg" in lesson:
            self.reg.update_state(regularizer)
        if "surrogate" not in lesson:
            return task
        return _with_gradient_of(task, lesson["surrogate"] + regularizer)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, scores, sample_weight)

    def _lesson(self, rule, x, y, weights=None, training=True):
        if weights is None:
            weights = ops.ones((ops.shape(x)[0],), width())
        weights = self._weights(weights)
        stage = self.stage if rule is self.rule else None
        whole, each = (
            lambda outputs, weights: self._task_loss(y, outputs, weights),
            lambda outputs: self._task_losses(y, outputs),
        )
        batch = Batch(x, y, weights, whole, training, stage, each)
        rule.before_step(self.network, batch)
        surrogates, outputs = rule.lesson(self.network, batch)
        self._check_surrogates(rule, surrogates)
        return surrogates, outputs

    def _check_surrogates(self, rule: rules.Rule, surrogates: Sequence) -> None:
        blocks = len(self.network.blocks)
        shapes = [tuple(getattr(surrogate, "shape", ())) for surrogate in surrogates]
        if shapes != [()] * (blocks + 1):
            raise UserError(
                f"Rule {rule.name!r} must have one scalar for each of the {blocks} blocks (and the head), "
                f"received shapes {shapes[:-1]}: average over batch and units, e.g. with trace.batch.mean."
            )

    def _weights(self, weights):
        weights = ops.reshape(ops.cast(weights, width()), (-1,))
        if self.loss.reduction == "mean_with_sample_weight":
            weights = weights / ops.mean(weights)
        return weights

    def _task_loss(self, y, outputs, weights):
        return self.loss(y, full(outputs), sample_weight=weights)

    def _task_losses(self, y, outputs):
        dtype = self.loss.dtype  # to which a loss casts what it is called with
        losses = self.loss.call(ops.cast(y, dtype), ops.cast(full(outputs), dtype))
        return ops.mean(ops.reshape(losses, (ops.shape(outputs)[0], -1)), axis=1)

    def _regularizer(self, rule: rules.Rule, x, training: bool):
        """All regularisers' sum, or None where there are none."""
        of_weights = self._weight_regularizer()
        if not self._adds:
            return of_weights
        modes = [training and self.stage in (None, i) for i in range(len(self.network.blocks) + 1)]
        of_layers = added_losses.added(self.network, x, modes, rule.cut)
        return of_layers if of_weights is None else of_weights + of_layers

    def _layers_add_losses(self) -> bool:
        """Whether layers add to the loss.

        Raises:
            UserError: if they do, and the rule gives the network more than its inputs.
        """
        shape = self._shape[1:]
        given = self.rule.input_shape(shape, self.network.outputs)
        adds = added_losses.adds(self.network, given)
        if adds and given != shape:
            raise UserError(
                f"Layers of this network add to the loss, as activity regularisers do, and rule "
                f"{self.rule.name!r} appends labels to the inputs: use another label embedding."
            )
        return adds

    def _weight_regularizer(self):
        """The sum of what regularises weights, or None."""
        own = [(v, v.regularizer) for v in self.trainable_variables if v.regularizer is not None]
        terms = [full(regularizer(variable)) for variable, regularizer in own]
        if self.weight_decay is not None:
            terms.append(self.decay / 2 * sum(ops.sum(ops.square(v)) for v in kernels(self)))
        penalty = self.rule.penalty(self.network)
        terms += [] if penalty is None else [penalty]
        return sum(terms) if terms else None

    # -- looking inside -------------------------------------------------------------------------

    def gradients(
        self,
        x,
        y,
        sample_weight=None,
        rule: str | rules.Rule | None = None,
        training: bool = True,
        seed: int | None = None,
    ) -> list:
        """What the next step would hand to the optimizer, without taking it: changes no state.

        Args:
            x: inputs (N, …).
            y: targets.
            sample_weight: shape (N,), or None.
            rule: another rule on the same weights, e.g. `"bp"` as the reference for alignment.
            training: whether dropout and batch statistics are in training mode.
            seed: draws dropout masks from this seed instead of the model's present random state.

        Returns:
            One gradient per entry of `trainable_variables`; zeros, never None.
        """
        if not self.built:
            self.build(tuple(x.shape))
        batch = [ops.convert_to_tensor(part) for part in (x, y, sample_weight) if part is not None]
        return self._gradient_functions(batch, rule, training, seed)

    def surrogates(self, x, y, sample_weight=None) -> list[float]:
        """The value of every block's surrogate and of the head's on a batch; changes no state."""
        batch = [ops.convert_to_tensor(part) for part in (x, y, sample_weight) if part is not None]
        with autodiff.isolated(self.variables):
            values, _ = self._lesson(self.rule, *batch)
        return [float(value) for value in values]

    # -- saving ---------------------------------------------------------------------------------

    def save_own_variables(self, store) -> None:
        """Keras's, and the random states, which Keras leaves out: dropout goes on where it was."""
        super().save_own_variables(store)
        for index, variable in enumerate(_random_states(self)):
            store[f"random_state_{index}"] = np.asarray(variable)

    def load_own_variables(self, store) -> None:
        states = {key: store[key] for key in store.keys() if key.startswith("random_state_")}
        super().load_own_variables({key: store[key] for key in store.keys() if key not in states})
        for index, variable in enumerate(_random_states(self)):
            if f"random_state_{index}" in states:
                variable.assign(states[f"random_state_{index}"])

    def get_config(self) -> dict:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "network": serialize(self.network),
            "rule": serialize(self.rule),
            "weight_decay": self.weight_decay,
            "seed": self.seed,
            "schedule": self.schedule,
            "epochs_per_block": self.epochs_per_block,
        }

    def compile_from_config(self, config) -> None:
        """Compiles a loaded learner; Keras does so only where `compile` is its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        for part in ("network", "rule"):
            config[part] = deserialize(config[part], custom_objects)
        return cls(**config)


def _part_way(before, after, multiplier: float):
    # Where the multiplier is 0 the step itself need not be there.
    return before + multiplier * (after - before) if multiplier else before


def _with_gradient_of(value, surrogate):
    # In this order: (value + s) - s would lose the value's digits where s is large.
    return ops.stop_gradient(value) + (surrogate - ops.stop_gradient(surrogate))


def _random_states(model) -> list:
    """The variables that are neither weights nor metrics: the seed generators' states."""
    known = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in known]
