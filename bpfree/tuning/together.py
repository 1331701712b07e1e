"""Training the executions of many trials together, as members of populations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from bpfree.errors import SearchError
from bpfree.tuning.checkpoint import assign
from bpfree.tuning.member import Member, numbered
from bpfree.tuning.population import Program, Values
from bpfree.tuning.records import Trial

_SAVING = 0.05  # the share of the time that goes into saving, at most


class Attempt:
    """A trial whose executions are members.

    Its record becomes what it would be if they had run one after the other: a failed execution is the
    last one.
    """

    def __init__(self, trial: Trial, members: Sequence[Member]):
        self.trial, self.members = trial, list(members)
        self._begun = False

    def begin(self) -> bool:
        """Records the beginning, once; whether this was it."""
        first, self._begun = not self._begun, True
        if first:
            self.trial.begin(self.members[0].regime.until)
        return first

    def ended(self, member: Member) -> None:
        """Takes note that a member has ended, and concludes the trial with its last one."""
        if member.failure:
            for later in self.members[self.members.index(member) + 1 :]:
                later.discard()
        if not all(member.ended for member in self.members):
            return
        scores = [member.score for member in self.members if member.score is not None]
        failures = [member.failure for member in self.members if member.failure]
        if failures:
            self.trial.fail(failures[0], scores)
        else:
            self.trial.complete(sum(scores) / len(scores), scores)


def train(program: Program, slots: Sequence[Member | int], ended: Callable[[Member], None]) -> None:
    """Trains members to their ends, side by side.

    A resumed population is the same computation to the last bit: all are in the same epoch, and how many
    places there are in an epoch follows from who had not come to an end then.

    Args:
        program: theirs.
        slots: the members; in the place of one that ended in an earlier process, its epochs.
        ended: called with every member that has come to its end, or failed.

    Raises:
        OutOfMemory: the device has no room; what was saved is kept.
    """
    members = {slot: member for slot, member in enumerate(slots) if isinstance(member, Member)}
    values = _begin(members, ended)
    places: list[int | None] = [*range(len(slots))]
    stack, saving, epoch = None, _Pace(), -1
    while any(not member.ended for member in members.values()):
        epoch += 1
        alive = [slot for slot, member in enumerate(slots) if _epochs(member) > epoch]
        size = _shrunk(len(places), len(alive))
        if size < len(places):
            places = [*alive, *[None] * (size - len(alive))]
            values, stack = values | (stack.saved(members) if stack else {}), None
        here = {slot: members[slot] for slot in members if members[slot].at(epoch)}
        if stack and not here.keys() <= stack.places.keys():
            values, stack = values | stack.saved(members), None
        if not here:
            continue
        if stack is None:
            stack = _Stack(program, places, {slot: values[slot] for slot in here})
        for member in stack.train(here, saving):
            ended(member)


def _begin(members: dict[int, Member], ended: Callable[[Member], None]) -> dict[int, Values]:
    """The values of those that have something to do."""
    values = {}
    for slot, member in members.items():
        try:
            if not member.ended:
                values[slot] = member.begin()
        except SearchError:
            raise
        except Exception:
            member.fail()
        if member.ended:
            ended(member)
    return values


def _epochs(slot: Member | int) -> float:
    """In how many epochs a slot is in use, as far as is known."""
    if isinstance(slot, Member):
        return len(slot.history) if slot.ended else math.inf
    return slot


def _shrunk(size: int, alive: int) -> int:
    """The size halved as long as there is room for all; every size is compiled anew."""
    while size > 1 and alive <= size // 2:
        size //= 2
    return size


class _Stack:
    """The values of members on the device, one above the other.

    Args:
        program: theirs.
        places: the slot of every place, or None.
        values: those of the members, by slot; there is at least one, which idle places copy.
    """

    def __init__(self, program: Program, places: Sequence[int | None], values: dict[int, Values]):
        self.program = program
        self.places = {slot: place for place, slot in enumerate(places) if slot in values}
        self.size = len(places)
        idle = next(iter(values.values()))
        self._stacked, self._best = program.begin([values.get(slot, idle) for slot in places])

    def train(self, members: dict[int, Member], saving: _Pace) -> list[Member]:
        """An epoch of these members, by slot, with what it leaves on disk; those that ended."""
        meter = next(iter(members.values())).meter
        started = meter.read()
        for member in members.values():
            member.epoch_began()
        improved = np.zeros(self.size, bool)
        orders = np.stack([next(iter(members.values())).order()] * self.size)
        for slot, member in members.items():
            improved[self.places[slot]] = member.improved
            orders[self.places[slot]] = member.order()
        self._stacked, self._best, logs = self.program.epoch(
            self._stacked, self._best, improved, orders
        )
        spent = (meter.read() - started).share(len(members))
        read = any(member.reads_weights for member in members.values())
        values = self.values() if read else {}
        for slot, member in members.items():
            place = self.places[slot]
            try:
                if member.reads_weights:
                    assign(self.program.variables, numbered(values[slot]))
                member.epoch_ended({name: column[place] for name, column in logs.items()}, spent)
            except SearchError:
                raise
            except Exception:
                member.fail()
        over = {slot: member for slot, member in members.items() if member.ended}
        if saving.due():
            with saving:
                self._save(members)
        elif over:
            self._save(over)
        return list(over.values())

    def values(self) -> dict[int, Values]:
        """Copies of the members' values, by slot."""
        here = _on_host(self._stacked)
        return {slot: [np.array(v[place]) for v in here] for slot, place in self.places.items()}

    def saved(self, members: dict[int, Member]) -> dict[int, Values]:
        """Saves those that go on, whose best weights would be lost, and gives their values."""
        on = {slot: members[slot] for slot in self.places if not members[slot].ended}
        self._save(on)
        return {slot: values for slot, values in self.values().items() if slot in on}

    def _save(self, members: dict[int, Member]) -> None:
        here, best = _on_host(self._stacked), _on_host(self._best)
        for slot, member in members.items():
            place = self.places[slot]
            values = [value[place] for value in here]
            present = [values[index] for index in self.program.weights]
            member.save(values, present if member.improved else [value[place] for value in best])


def _on_host(values: Values) -> list[np.ndarray]:
    return [np.asarray(value) for value in values]


class _Pace:
    """Says when to save, so that it takes a small share of the time; the first time at once."""

    def __init__(self):
        self._next = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *error):
        now = time.monotonic()
        self._next = now + (now - self._started) * (1 / _SAVING - 1)
