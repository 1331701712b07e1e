"""What the contract is held against: every rule of bpfree, so that a new one is tested by itself."""

import toy
from oracles import ORACLES, OUTPUTS
from oracles.mlp import Problem

from bpfree import rules

COMBINED = ("fg",)
"""Rules whose aliases only combine options that have tests of their own."""


def _names() -> list[str]:
    # Rules that other tests define are theirs to test.
    names = [n for n in rules.names() if rules.parse(n)[0].__module__.startswith("bpfree.")]
    differing = [
        alias
        for alias, (name, preset) in rules.aliases().items()
        if name in names
        and name not in COMBINED
        and any(rules.parse(name)[0].options()[k] != v for k, v in preset.items())
    ]
    return [*names, *differing]


_SHORTER = {"ff_recurrent": "ff_recurrent:iterations=2,first=1,last=2"}
"""Rules whose default would be a long program, as the contract tries them."""

SPECS = [*(_SHORTER.get(name, name) for name in _names()), "dfa:recompute=true"]
"""Every rule, every alias that is more than another word for it, and options with code of their own."""


def problem(learner, x, y, w, task: str = "cce") -> Problem:
    """The batch and the learner's present weights, for a closed form."""
    feedback = toy.values(getattr(learner.rule, "feedback", []))
    for path in getattr(learner.rule, "feedback_paths", []):
        feedback += toy.values([path.kernel, path.bias])
    weights = toy.values(learner.network.trainable_variables)
    own = toy.values(learner.trainable_variables[len(weights) :])
    return Problem(weights, feedback, x, y, w, task, own)


def oracle(spec: str, learner, x, y, w, task: str = "cce"):
    """The closed form's gradients with the learner's present weights, or None if there is none."""
    rule, options = rules.parse(spec)
    if rule.name not in ORACLES:
        return None
    return ORACLES[rule.name](problem(learner, x, y, w, task), **options)


def task_loss(spec: str, learner, x, y, w) -> float:
    """The task loss with the learner's present weights, in closed form."""
    rule, options = rules.parse(spec)
    posed = problem(learner, x, y, w)
    if rule.name in OUTPUTS:
        posed.outputs = OUTPUTS[rule.name](posed, **options)
    return posed.loss()
