"""Spec strings: `dfa`, `ll:loss=mse`, `dfa:recompute=true,signal_scale=0.1`, `dtp:sigma=[0.2,0.1]`."""

from __future__ import annotations

import difflib
import math
import re
from ast import literal_eval
from typing import Any

from bpfree.errors import UserError
from bpfree.rules.rule import REGISTRY, Rule

_WORDS = {"true": True, "false": False, "none": None}
_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number"}
_COMMA = re.compile(r",(?![^\[]*\])")  # none within brackets: dtp:sigma=[0.2,0.1],beta=0.7


def names() -> list[str]:
    """Every registered rule."""
    return sorted(REGISTRY)


def aliases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every further name, with the rule and the options it stands for."""
    return {
        alias: (name, options)
        for name, rule in REGISTRY.items()
        for alias, options in vars(rule).get("aliases", {}).items()
    }


def parse(spec: str) -> tuple[type[Rule], dict[str, Any]]:
    """The rule's class and the options that a spec string names.

    Raises:
        UserError: for an unknown rule or option, a part that is not `option=value`, an option that is
            given twice, or a value of another kind than the option's default.
    """
    name, colon, text = spec.partition(":")
    options: dict[str, Any] = {}
    if name in aliases():
        name, preset = aliases()[name]
        options.update(preset)
    if "," in name:
        several = " ".join(f"--algorithm={part.strip()}" for part in name.split(","))
        raise UserError(
            f"A spec names one rule, received {spec!r}: repeat the flag, e.g. {several}."
        )
    if name not in REGISTRY:
        choices = [*names(), *sorted(aliases())]
        near = difflib.get_close_matches(name, choices, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(choices)}."
        raise UserError(f"Unknown rule {name!r}: {hint}")
    rule = REGISTRY[name]
    known = [option for option in rule.options() if option != "seed"]
    given: set[str] = set()
    for part in _COMMA.split(text) if colon else []:
        option, equals, value = part.partition("=")
        if not equals or option not in known:
            raise UserError(
                f"Rule {name!r} does not understand {part!r} in {spec!r}: write option=value, "
                f"with an option among {', '.join(known) or '(it has none)'}."
            )
        if option in given:
            raise UserError(f"{option} is given twice in {spec!r}: give it once.")
        given.add(option)
        options[option] = _value(value)
        default = rule.options()[option]
        listed = option in rule.per_block and isinstance(options[option], list)
        if not all(_fits(v, default) for v in (options[option] if listed else [options[option]])):
            raise UserError(
                f"Rule {name!r} received {part!r}, and {option} is {_KINDS[type(default)]}, like {default}."
            )
    return rule, options


def get(spec: str | Rule, **options) -> Rule:
    """A rule from its name, its spec string, or itself.

    Args:
        spec: e.g. `"dfa"`, `"ll:loss=mse"`, or a Rule, which is returned as it is.
        **options: constructor arguments; those in the spec string take precedence. Options that the
            rule does not have are an error.

    Raises:
        UserError: for an unknown rule or option, or a value that the rule refuses.
    """
    if isinstance(spec, Rule):
        return spec
    if not isinstance(spec, str):
        raise UserError(f"A rule is a name, a spec string or a Rule, received {spec!r}.")
    rule, parsed = parse(spec)
    unknown = set(options) - set(rule.options())
    if unknown:
        raise UserError(
            f"Rule {rule.name!r} has no option {', '.join(sorted(unknown))}: it has "
            f"{', '.join(rule.options()) or 'none'}."
        )
    return rule(**{**options, **parsed})


def program(spec: str) -> tuple[str, dict[str, Any]]:
    """What of a spec decides the compiled program: the rule's name and the options that are no weights."""
    rule, options = parse(spec)
    return rule.name, {name: v for name, v in options.items() if name not in rule.as_weights}


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the default's kind, where that is a number or a truth value."""
    if type(default) is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(default) not in _KINDS or type(value) is type(default)


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
