"""What the contract is held against: every rule of bpfree, so that a new one is tested by itself."""

import toy
from oracles import ORACLES
from oracles.mlp import Problem

from bpfree import rules


def _names() -> list[str]:
    # Rules that other tests define are theirs to test.
    names = [n for n in rules.names() if rules.parse(n)[0].__module__.startswith("bpfree.")]
    differing = [
        alias
        for alias, (name, preset) in rules.aliases().items()
        if name in names and any(rules.parse(name)[0].options()[k] != v for k, v in preset.items())
    ]
    return [*names, *differing]


SPECS = [*_names(), "dfa:recompute=true"]
"""Every rule, every alias that is more than another word for it, and options with code of their own."""


def oracle(spec: str, learner, x, y, w, task: str = "cce"):
    """The closed form's gradients with the learner's present weights, or None if there is none."""
    rule, options = rules.parse(spec)
    if rule.name not in ORACLES:
        return None
    feedback = toy.values(getattr(learner.rule, "feedback", []))
    problem = Problem(toy.values(learner.trainable_variables), feedback, x, y, w, task)
    return ORACLES[rule.name](problem, **options)
