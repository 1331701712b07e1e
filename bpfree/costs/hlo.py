"""Floating-point operations of a program in the text form of XLA's intermediate language (HLO).

Both backends write a training step down in it before they compile it. The count is by the rules of XLA's
own cost analysis, which TensorFlow does not offer: 2 per product within a product of matrices or a
convolution, 1 per element of other floating-point arithmetic, none for functions like `exp`, for whole
numbers (random bits are made of them) and for moving data. As in the compiled program, what is not used,
or computed a second time, is not counted; a loop counts as often as it runs, if the text says how often.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_ARITHMETIC = frozenset(
    "abs add ceil clamp divide floor maximum minimum multiply negate remainder round-nearest-afz "
    "round-nearest-even sign subtract".split()
)
_FLOATING = ("f", "bf", "c")  # how the names of such types begin
_MOVES = ("bitcast", "convert", "copy", "reshape")  # which often leave all as it is
_COUNTLESS = ("while", "conditional", "custom-call")  # where the text does not say what they do
_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*)")
_ARRAY = re.compile(r"\w+\[([\d,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_IRRELEVANT = re.compile(r", (metadata|frontend_attributes|sharding|origin)=\{.*")
_WINDOW = re.compile(r"(\w+)=([\w\-]+)")


class Unknown(Exception):
    """The text does not say how many operations there are."""


class _Value(NamedTuple):
    """What an instruction computes; equal for two that compute the same."""

    opcode: str
    shape: str
    operands: tuple[int, ...]
    attributes: str


class _Instruction(NamedTuple):
    name: str
    root: bool
    shape: str
    opcode: str
    arguments: list[str]
    attributes: str


def flops(text: str) -> int:
    """The floating-point operations of a module's entry computation.

    Args:
        text: an HLO module as XLA prints it.

    Raises:
        Unknown: it has a loop whose number of turns depends on data, a branch or a call of a library.
    """
    computations, entry = _parse(text)
    module = _Module(computations)
    return module.count(module.result(entry, None))


class _Module:
    """Values of a module's computations, each once."""

    def __init__(self, computations: dict[str, list[_Instruction]]):
        self._computations = computations
        self._values: list[_Value] = []
        self._numbers: dict[_Value, int] = {}

    def result(self, computation: str, arguments: Sequence[int] | None) -> int:
        """The number of a computation's result; that of a called one is seen through."""
        here: dict[str, int] = {}
        number = -1
        for line in self._computations[computation]:
            number = here[line.name] = self._number(computation, line, here, arguments)
            if line.root:
                return number
        return number

    def _number(self, computation, line: _Instruction, here, arguments) -> int:
        if line.opcode == "parameter":
            place = int(line.arguments[0])
            if arguments is not None:
                return arguments[place]
            return self._new(_Value("parameter", line.shape, (), f"{computation} {place}"))
        if line.opcode == "constant":
            return self._new(_Value("constant", line.shape, (), ",".join(line.arguments)))
        operands = tuple(here[name] for name in line.arguments)
        if line.opcode == "call":
            return self.result(_named(line.attributes, "to_apply"), operands)
        if line.opcode in _MOVES and line.shape == self._values[operands[0]].shape:
            return operands[0]
        if line.opcode == "get-tuple-element":
            return self._element(operands[0], int(_named(line.attributes, "index")), line.shape)
        return self._new(_Value(line.opcode, line.shape, operands, line.attributes))

    def _element(self, whole: int, place: int, shape: str) -> int:
        value = self._values[whole]
        if value.opcode == "tuple":
            return value.operands[place]
        return self._new(_Value("get-tuple-element", shape, (whole,), f"{place}"))

    def _new(self, value: _Value) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self._values)
            self._values.append(value)
        return self._numbers[value]

    def count(self, result: int) -> int:
        """The operations that a result takes."""
        total, needed, seen = 0, [result], set()
        while needed:
            number = needed.pop()
            if number not in seen:
                seen.add(number)
                total += self._operations(self._values[number])
                needed += self._values[number].operands
        return total

    def _operations(self, value: _Value) -> int:
        if value.opcode in _ARITHMETIC:
            return _elements(value.shape) if value.shape.startswith(_FLOATING) else 0
        if value.opcode in _COUNTS:
            return _COUNTS[value.opcode](value, [self._values[n].shape for n in value.operands])
        if value.opcode == "while":
            return self._loop(value)
        if value.opcode in _COUNTLESS:
            raise Unknown(f"{value.opcode}: {value.attributes}")
        return 0

    # -- loops ----------------------------------------------------------------------------------

    def _loop(self, loop: _Value) -> int:
        """Operations of a loop that counts one of its variables up to a constant."""
        state = self._new(_Value("parameter", loop.shape, (), f"{loop}"))
        test = self._values[self.result(_named(loop.attributes, "condition"), [state])]
        after = self.result(_named(loop.attributes, "body"), [state])
        start = self._values[loop.operands[0]]
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            raise Unknown(f"a loop that goes on while {test.opcode}")
        counter, bound = (self._values[number] for number in test.operands)
        turns = self._at_first(bound, state, start) - self._at_first(counter, state, start)
        self._check_count(counter, test.operands[0], self._values[after])
        return max(0, turns) * (self.count(after) + self.count(test.operands[0]))

    def _at_first(self, value: _Value, state: int, start: _Value) -> int:
        """A variable's value before the loop, or a constant's."""
        if value.opcode == "get-tuple-element" and value.operands == (state,):
            if start.opcode != "tuple":
                raise Unknown("a loop whose variables are not known at first")
            value = self._values[start.operands[int(value.attributes)]]
        if value.opcode != "constant" or not value.attributes.lstrip("-").isdigit():
            raise Unknown("a loop up to a number that is computed")
        return int(value.attributes)

    def _check_count(self, counter: _Value, number: int, after: _Value) -> None:
        """Makes sure that a turn adds 1 to the counter."""
        if counter.opcode == "get-tuple-element" and after.opcode == "tuple":
            step = self._values[after.operands[int(counter.attributes)]]
            others = [self._values[n] for n in step.operands if n != number]
            if step.opcode == "add" and [o.attributes for o in others] == ["1"]:
                return
        raise Unknown("a loop that does not count its turns")


# -- operations of single instructions ------------------------------------------------------------


def _dot(value: _Value, operands: list[str]) -> int:
    lengths = _lengths(operands[0])
    contracted = _numbers(_named(value.attributes, "lhs_contracting_dims"))
    return 2 * _elements(value.shape) * math.prod(lengths[place] for place in contracted)


def _convolution(value: _Value, operands: list[str]) -> int:
    """Of the products, those with padding or with the holes of a dilated input are left out."""
    inputs, kernel, output = re.split(r"_|->", _named(value.attributes, "dim_labels"))
    left, right, result = (_lengths(shape) for shape in (*operands[:2], value.shape))
    window = dict(_WINDOW.findall(_named(value.attributes, "window")))
    pairs = 1
    for place, name in enumerate(sorted(set(inputs) - set("bf"))):
        size, strides, dilated, spread = (
            int(window[key].split("x")[place]) if key in window else 1
            for key in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        padding = int(window.get("pad", "x".join(["0_0"] * 9)).split("x")[place].partition("_")[0])
        inside = dilated * (left[inputs.index(name)] - 1) + 1
        pairs *= sum(
            0 <= at < inside and at % dilated == 0
            for begin in range(0, strides * result[output.index(name)], strides)
            for at in range(begin - padding, begin - padding + spread * size, spread)
        )
    groups = int(_named(value.attributes, "batch_group_count", "1"))
    examples = left[inputs.index("b")] // groups
    return 2 * pairs * examples * right[kernel.index("i")] * result[output.index("f")]


def _reduce(value: _Value, operands: list[str]) -> int:
    return _elements(operands[0]) - _elements(value.shape)


def _reduce_window(value: _Value, operands: list[str]) -> int:
    window = dict(_WINDOW.findall(_named(value.attributes, "window")))
    return _elements(value.shape) * (math.prod(map(int, window["size"].split("x"))) - 1)


def _select_and_scatter(value: _Value, operands: list[str]) -> int:
    window = dict(_WINDOW.findall(_named(value.attributes, "window")))
    return _elements(operands[1]) * math.prod(map(int, window["size"].split("x")))


def _scatter(value: _Value, operands: list[str]) -> int:
    return _elements(operands[2])


_COUNTS: dict[str, Callable[[_Value, list[str]], int]] = {
    "dot": _dot,
    "convolution": _convolution,
    "reduce": _reduce,
    "reduce-window": _reduce_window,
    "select-and-scatter": _select_and_scatter,
    "scatter": _scatter,
}


def _lengths(shape: str) -> list[int]:
    return _numbers(_ARRAY.search(shape)[1])


def _elements(shape: str) -> int:
    """Of an array, or of the first of several."""
    return math.prod(_lengths(shape))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _named(attributes: str, name: str, default: str | None = None) -> str:
    """The attribute of this name: a word, or what is in its braces."""
    found = re.search(rf"\b{name}=(?:\{{(.*?)\}}|%?([\w.\->]+))", attributes)
    if not found:
        if default is None:
            raise Unknown(f"no {name} in {attributes}")
        return default
    return found[1] if found[1] is not None else found[2]


# -- reading --------------------------------------------------------------------------------------


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of every computation, and the name of the entry."""
    computations: dict[str, list[_Instruction]] = {}
    entry, lines = "", []
    for line in text.splitlines()[1:]:
        if found := _LINE.fullmatch(line):
            lines.append(_instruction(*found.groups()))
        elif line.endswith("{"):
            words = line.removeprefix("ENTRY ").split()
            name = words[0].removeprefix("%")
            lines = computations[name] = []
            entry = name if line.startswith("ENTRY ") else entry
    if not entry:
        raise Unknown("no entry computation")
    return computations, entry


def _instruction(root: str | None, name: str, rest: str) -> _Instruction:
    shape, rest = _split(rest)
    opcode, _, rest = rest.partition("(")
    inside, attributes = _split("(" + rest)
    arguments = [part.split()[-1].removeprefix("%") for part in _parts(inside[1:-1])]
    attributes = _IRRELEVANT.sub("", attributes)
    return _Instruction(name, bool(root), shape, opcode, arguments, attributes)


def _split(text: str) -> tuple[str, str]:
    """The first word, or what is in the first parentheses, and the rest."""
    if not text.startswith("("):
        first, _, rest = text.partition(" ")
        return first, rest
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: place + 1], text[place + 1 :].lstrip()
    raise Unknown(f"unbalanced: {text}")


def _parts(text: str) -> Iterator[str]:
    """What commas outside brackets separate."""
    depth, begin = 0, 0
    text = _COMMENT.sub("", text)
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            yield text[begin:place]
            begin = place + 1
    if text[begin:].strip():
        yield text[begin:]
