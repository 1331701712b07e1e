"""A learner's gradients under its own rule or another, compiled once per rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from bpfree import autodiff, rules
from bpfree.errors import UserError
from bpfree.seeds import derive


class GradientFunctions:
    """Compiles and keeps the gradients of a learner's objective, by rule.

    A rule other than the learner's own is built on the same weights and belongs to nobody: it is
    neither trained nor saved.
    """

    def __init__(self, learner):
        self._learner = learner
        self._compiled: dict[Any, tuple] = {}

    def __call__(self, arguments: Sequence[Any], rule, training: bool, seed: int | None) -> list:
        """The gradients on the batch `(x, y[, weights])`; see `Learner.gradients`."""
        own = rule is None or isinstance(rule, str)
        key = (rule if own else id(rule), training, self._learner.stage)
        if key not in self._compiled:
            self._compiled[key] = self._compile(rule, training)
        function, state, _ = self._compiled[key]
        return function(*arguments, state_values=None if seed is None else _reseeded(state, seed))

    def _compile(self, rule, training: bool) -> tuple[Callable, list, rules.Rule]:
        learner = self._learner
        applied, foreign = learner.rule, []
        if rule is not None:
            applied = rules.get(rule, seed=learner.seed)
            self._check(applied)
            learner.build_rule(applied)
            # Keras tracks the network that a rule was built with, among the rule's own weights.
            known = set(map(id, learner.variables))
            foreign = [variable for variable in applied.variables if id(variable) not in known]

        def objective(*batch):
            return learner.objective(applied, batch, training)

        state = [*learner.non_trainable_variables, *foreign]
        function = autodiff.gradients(
            objective, learner.trainable_variables, state, bool(learner.jit_compile)
        )
        return function, state, applied

    def _check(self, rule: rules.Rule) -> None:
        network = self._learner.network
        # The weights are there already, so how they were made is no reason to refuse.
        refusal = rule.refusal(network.problem_type, network.activation, fw_init=None)
        if refusal:
            raise UserError(refusal)


def _reseeded(state: Sequence[keras.Variable], seed: int) -> list:
    """The state's values, with a random state derived from `seed` for each seed generator."""
    return [
        ops.convert_to_tensor([derive(seed, "mask", index), 0], dtype=variable.dtype)
        if variable.name == "seed_generator_state"
        else ops.convert_to_tensor(variable)
        for index, variable in enumerate(state)
    ]
