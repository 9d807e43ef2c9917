"""What is done once behind a loop over time: work on a sum, or another running result, of all time steps.

A loop that only adds up (``acc = acc + y``, ``acc += y``, ``sum(ys)``) leaves what ``stack(ys).sum(0)`` leaves, and
what reads its last result is done once per inference. A running result that is read within the steps (the potential of
a neuron) belongs to them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from snn_energy.counts.columns import OPERATIONS
from snn_energy.profiler.axes.roles import ONCE
from snn_energy.profiler.tracking.operation_log import OperationRecord

_CHOICES = frozenset(("maximum", "minimum", "fmax", "fmin", "max", "min", "amax", "amin"))


class Loop(NamedTuple):
    """Operations of one forward pass, who reads them, what the network returns, and their steps."""

    events: Sequence[OperationRecord]
    readers: Mapping[int, set[int]]
    when: Sequence[int | None]
    time_steps: int

    def is_running(self, index: int) -> bool:
        """True for an operation of one step that may be part of a running result: a sum, a scale, a choice."""
        event, step = self.events[index], self.when[index]
        is_choice = event.op in ("compare", "reduce") and event.note in _CHOICES
        return step is not None and step >= 0 and (event.op in ("add", "scale") or is_choice)


def steps_behind_loops(
    events: Sequence[OperationRecord],
    readers: Mapping[int, set[int]],
    when: Sequence[int | None],
    time_steps: int,
) -> list[int | None]:
    """The steps of all operations, ``ONCE`` for those behind a loop that only adds up what every step gives."""
    found, has_others = list(when), _have_counterparts(events, when)
    for index, event in enumerate(events):
        if when[index] != time_steps - 1 or has_others[index]:
            continue
        before = [found[source] for source in event.inputs]
        reads_once = bool(before) and all(step == ONCE for step in before)
        if reads_once or _reads_all_steps(index, Loop(events, readers, found, time_steps)):
            found[index] = ONCE
    return found


def _place(event: OperationRecord) -> Hashable:
    """What identifies an operation in all time steps: its module, and its type and weights within."""
    is_layer = event.op in OPERATIONS or event.op == "neuron"
    return event.scope, event.suffix if is_layer else event.note, event.op, event.weight_name


def _have_counterparts(events: Sequence[OperationRecord], when: Sequence[int | None]) -> list[bool]:
    """For every operation, whether another time step has the same one: of the same place, and as many before it."""
    ranks: Counter[Hashable] = Counter()
    steps_of: dict[Hashable, set[int | None]] = defaultdict(set)
    places: list[Hashable] = []
    for event, step in zip(events, when, strict=True):
        place = _place(event)
        places.append((place, ranks[place, step]))
        ranks[place, step] += 1
        steps_of[places[-1]].add(step)
    return [len(steps_of[place]) > 1 for place in places]


def _reads_all_steps(index: int, loop: Loop) -> bool:
    """True if an operation reads a running result of all steps that nothing else reads before it is complete."""
    running: set[int] = set()
    steps: set[int] = set()
    todo = [index]
    while todo:
        for source in loop.events[todo.pop()].inputs:
            step = loop.when[source]
            if step is not None and step >= 0:
                steps.add(step)
            if source not in running and loop.is_running(source):
                running.add(source)
                todo.append(source)
    last = loop.time_steps - 1
    if any((loop.when[i] or 0) < last and not loop.readers.get(i, set()) <= running for i in running):
        return False
    begins_with_two = any(loop.when[i] == 1 and _adds_two_steps(loop.events[i], loop) for i in running | {index})
    return bool(running) and steps | ({0} if begins_with_two else set()) == set(range(loop.time_steps))


def _adds_two_steps(event: OperationRecord, loop: Loop) -> bool:
    """True for y[0] + y[1] of a result y of all time steps."""
    return len(event.reads) == 2 and all(loop.events[source].timed for source in event.inputs)
