"""HyperModel: the learners of a sweep."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import keras
import keras_tuner

from bpfree import architectures, autodiff, rules, schedule
from bpfree.architectures.parts import FORWARD_INITIALIZERS
from bpfree.data.preprocessing import scaler
from bpfree.errors import UserError
from bpfree.layers.activations import ACTIVATIONS
from bpfree.layers.projection import check_initializer
from bpfree.learner import Learner
from bpfree.metrics import metrics
from bpfree.tuning import grid, optimizers

_RANGES = {
    "lr": (sys.float_info.min, math.inf, "positive and finite"),
    "weight_decay": (0, math.inf, "0 or positive, and finite"),
    "reg_rate": (0, 1, "a dropout rate in [0, 1)"),
    "batch_size": (1, math.inf, "at least 1"),
    "epochs_per_block": (0, math.inf, "0 (equal shares) or positive"),
}

STEPS_PER_EXECUTION = 10
"""Steps that TensorFlow takes per call from Python; the learner's results do not depend on it."""


class HyperModel(keras_tuner.HyperModel):
    """Builds a compiled learner from hyperparameters named as on the command line.

    Args:
        input_shape: of one example.
        outputs: classes, or values to reconstruct.
        choices: the values of every hyperparameter, see `bpfree.tuning.space.choices`; the first is
            the default.
        epochs: of a run, for learning-rate schedules.
        examples: in the training data, likewise.
        problem_type: `classification` or `reconstruction`.
        use_xla: whether XLA compiles the steps.
        rates: the one learning rate that a rule meets, by its spec string; rules left out meet all.

    Raises:
        UserError: for an unknown value, or if no combination of rule and network can work.
    """

    seeds_itself = True
    """Whether every random choice of a learner has a seed of its own, derived from the run's."""

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        choices: Mapping[str, Sequence],
        epochs: int,
        examples: int,
        problem_type: str = "classification",
        use_xla: bool = True,
        rates: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.outputs = outputs
        self.choices = dict(choices)
        self.epochs = epochs
        self.examples = examples
        self.problem_type = problem_type
        self.use_xla = use_xla
        self.rates = dict(rates or {})
        self._check()

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Registers the whole space: the feedback initialiser only for rules that project, and for a rule of
        `rates` its learning rate alone."""
        algorithms = self.choices["algorithm"]
        projecting = [spec for spec in algorithms if rules.parse(spec)[0].projects]
        for name, values in self.choices.items():
            if name == "lr" and self.rates:
                for spec in algorithms:
                    with hp.conditional_scope("algorithm", [spec]):
                        _declare(hp, name, [self.rates[spec]] if spec in self.rates else values)
            elif name != "bw_init" or len(projecting) == len(algorithms):
                _declare(hp, name, values)
            elif projecting:
                with hp.conditional_scope("algorithm", projecting):
                    _declare(hp, name, values)

    def build(self, hp: keras_tuner.HyperParameters) -> Learner:
        """The compiled learner; `hp.values["seed"]`, where there is one, is the run's seed."""
        values = hp.values
        options = {"bw_init": values["bw_init"]} if "bw_init" in values else {}
        rule = rules.get(values["algorithm"], **options)
        network = self._network(values, rule)
        per_block = values["epochs_per_block"] or None
        decay, decoupled = values["weight_decay"], optimizers.decouples(values["optimizer"])
        learner = Learner(
            network,
            rule,
            weight_decay=None if decoupled else decay or None,
            seed=values.get("seed"),
            schedule=values["schedule"],
            epochs_per_block=per_block,
        )
        epochs = self.epochs
        if values["schedule"] == "sequential":
            # The last part's: the others have as many, or a few less where these are left over.
            epochs -= schedule.last_turn(rule.parts(network), epochs, per_block)
        steps = max(1, self.examples // values["batch_size"])
        learner.compile(
            optimizer=optimizers.get(
                values["optimizer"], values["lr"], values["lr_schedule"], epochs, steps, decay
            ),
            loss=self._loss(),
            metrics=metrics(self.problem_type),
            jit_compile=self.use_xla or autodiff.ALWAYS_COMPILED,
            steps_per_execution=min(STEPS_PER_EXECUTION, steps),
        )
        return learner

    def program(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the compiled program: constants, as opposed to values of variables."""
        constants = {**values, "algorithm": rules.program(values["algorithm"])}
        for name in ("bw_init", "fw_init"):
            constants.pop(name, None)
        for name in ("reg_rate", "weight_decay"):
            if name == "reg_rate" or not optimizers.decouples(values["optimizer"]):
                constants[name] = bool(values[name])
        if values["lr_schedule"] == "constant":
            del constants["lr"]
        return constants

    def admissible(self, values: Mapping[str, Any]) -> bool:
        """Whether it is in the grid."""
        return self.refusal(values) is None

    def refusal(self, values: Mapping[str, Any]) -> str | None:
        """Why these values cannot work together, in a sentence; None where they can."""
        refused = architectures.refusal(values["arch"], values["batch_norm"])
        if refused:
            return refused
        rule = rules.get(values["algorithm"])
        refused = rule.refusal(self.problem_type, values["activation"], values["fw_init"])
        return refused or schedule.refusal(values["schedule"], rule)

    def try_out(self) -> None:
        """Builds a learner; if its network and rule cannot work with these data, of the next ones.

        Raises:
            UserError: if none can: the first one's.
        """
        hp, tried, errors = keras_tuner.HyperParameters(), set(), []
        self.declare_hyperparameters(hp)
        for values in filter(self.admissible, grid.points(hp.space)):
            pair = values["arch"], values["algorithm"]
            if pair not in tried:
                tried.add(pair)
                hp.values = dict(values)
                try:
                    return self.build(hp).build((None, *self.input_shape))
                except UserError as error:
                    errors.append(error)
        raise errors[0]

    def _network(self, values, rule):
        return architectures.get(
            values["arch"],
            rule.input_shape(self.input_shape, self.outputs),
            self.outputs,
            activation=values["activation"],
            batch_norm=values["batch_norm"],
            dropout=values["reg_rate"],
            use_bias=values["use_bias"],
            fw_init=values["fw_init"],
            problem_type=self.problem_type,
            seed=values.get("seed"),
        )

    def _loss(self):
        if self.problem_type == "reconstruction":
            return keras.losses.MeanSquaredError()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def _check(self) -> None:
        """Answers every impossible value before anything is trained or written."""
        for optimizer in self.choices["optimizer"]:
            for lr_schedule in self.choices["lr_schedule"]:
                optimizers.check(optimizer, lr_schedule)
        for bw_init in self.choices["bw_init"]:
            check_initializer(bw_init)
        for name in self.choices["scaler"]:
            scaler(name)
        for name, (least, below, wanted) in _RANGES.items():
            for value in self.choices[name]:
                if not least <= value < below:
                    raise UserError(f"{name} must be {wanted}, received {value}.")
        for name, values in self.choices.items():
            if len(set(values)) < len(values):
                raise UserError(
                    f"A value of {name} is given twice in {list(values)}: give it once."
                )
        for arch in self.choices["arch"]:
            architectures.check(arch)
        for name, known in (("activation", ACTIVATIONS), ("fw_init", FORWARD_INITIALIZERS)):
            for value in self.choices[name]:
                if value not in known:
                    raise UserError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}.")
        deciding = ("algorithm", "activation", "fw_init", "schedule", "arch", "batch_norm")
        refusals = [
            self.refusal(dict(zip(deciding, values, strict=True)))
            for values in product(*(self.choices[name] for name in deciding))
        ]
        if all(refusals):
            raise UserError(refusals[0])
        if "sequential" in self.choices["schedule"]:
            for arch, spec in product(self.choices["arch"], self.choices["algorithm"]):
                rule = rules.get(spec)
                if schedule.refusal("sequential", rule):
                    continue
                shape = rule.input_shape(self.input_shape, self.outputs)
                parts = rule.parts(architectures.get(arch, shape, self.outputs))
                for per_block in self.choices["epochs_per_block"]:
                    schedule.share(parts, self.epochs, per_block or None)
                    self._check_equal(parts, per_block)

    def _check_equal(self, parts: int, per_block: int) -> None:
        """A schedule that ends with a block's epochs would leave a longer last part at its end."""
        ending = [name for name in self.choices["lr_schedule"] if name in ("cosine", "multistep")]
        if ending and per_block and self.epochs != parts * per_block:
            raise UserError(
                f"{parts} parts learn in turn, and a {ending[0]} schedule needs as many epochs for the "
                f"last as for the others, received {self.epochs} epochs at {per_block} per block: "
                f"give {parts * per_block} epochs, or a constant learning rate."
            )


def _declare(hp: keras_tuner.HyperParameters, name: str, values: Sequence) -> None:
    if len(values) == 1:
        hp.Fixed(name, values[0])
    elif isinstance(values[0], bool):
        hp.Boolean(name, default=values[0])
    else:
        hp.Choice(name, list(values), default=values[0])
