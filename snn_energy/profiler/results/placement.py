"""Which time step, which layer and which neuron an operation belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from snn_energy.core.errors import ProfilingError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.notes import folded_note
from snn_energy.profiler.axes.roles import ONCE
from snn_energy.profiler.results.after_loop import steps_behind_loops
from snn_energy.profiler.tracking.operation_log import OperationRecord


@dataclass
class PlacedOperation:
    """One recorded operation with its final layer name and the time steps of its rows."""

    event: OperationRecord
    layer: str
    steps: list[int]

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """Identifies it among the operations of the pass."""
        return self.layer, tuple(self.steps)

    @property
    def when(self) -> int | None:
        """As in ``needed_steps.Node``: None if all steps are covered at once."""
        return None if self.event.timed else self.steps[0]


def readers_of(records: Sequence[OperationRecord]) -> dict[int, set[int]]:
    """Index of an operation -> indices of the operations that read its output."""
    readers: dict[int, set[int]] = defaultdict(set)
    for index, record in enumerate(records):
        for source in record.inputs:
            readers[source].add(index)
    return readers


def folded_operations(
    placed: Sequence[PlacedOperation], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> dict[int, str]:
    """Notes of the BatchNorms and constant scales that fold away (design, rules 3 and 6), by index.

    A BatchNorm folds into a conv or linear layer that is its only producer, through reshapes alone, and has no other
    reader; where the layer's weights are used several times, the same BatchNorm must follow every time. A constant
    scale folds if all its readers are products, weight layers or neurons, in every time step in
    which something reads it.
    """
    sources = {
        index: source
        for index in range(len(placed))
        if (source := _norm_source(index, placed, readers, outputs)) is not None
    }
    norm_of = {source: index for index, source in sources.items()}
    uses: dict[Hashable, set[Hashable]] = defaultdict(set)  # weights -> the BatchNorms behind them, None for none
    for index, item in enumerate(placed):
        if item.event.op in ("conv", "linear"):
            norm = norm_of.get(index)
            uses[_weights_of(item.event)].add(None if norm is None else _weights_of(placed[norm].event))
    found = {
        index: folded_note(placed[source].layer)
        for index, source in sources.items()
        if len(uses[_weights_of(placed[source].event)]) == 1
    }
    scales = {
        index: _scale_folds(index, placed, readers, outputs)
        for index in range(len(placed))
        if placed[index].event.op == "scale"
    }
    folding = {placed[index].layer for index, folds in scales.items() if folds}
    computed = {placed[i].layer for i, folds in scales.items() if not folds and (readers.get(i) or i in outputs)}
    folded = [index for index in scales if placed[index].layer in folding - computed]
    return found | dict.fromkeys(folded, folded_note("its readers"))


def _weights_of(event: OperationRecord) -> Hashable:
    """What holds the weights of an operation: a parameter, else the place in the network that computes them."""
    return event.weight_name or (event.scope, event.suffix, event.index)


def _norm_source(
    index: int, placed: Sequence[PlacedOperation], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> int | None:
    """The conv or linear layer whose output a BatchNorm reads, and nothing else does; None if there is none."""
    event = placed[index].event
    if event.op != "norm" or not event.foldable or event.reads_padding or len(event.inputs) != 1:
        return None
    (source,) = event.inputs
    is_layer = placed[source].event.op in ("conv", "linear")
    return source if is_layer and readers[source] == {index} and source not in outputs else None


def _scale_folds(
    index: int, placed: Sequence[PlacedOperation], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> bool:
    """True where everything that reads a constant scale can take its factor: products, layers, neurons, scales."""
    found = readers.get(index, set())
    if not placed[index].event.foldable or placed[index].event.op == "norm" or not found or index in outputs:
        return False
    return all(
        placed[reader].event.op in (*OPERATIONS, "neuron")
        or (placed[reader].event.op == "scale" and _scale_folds(reader, placed, readers, outputs))
        for reader in found
    )


def feeds_neuron(
    index: int, placed: Sequence[PlacedOperation], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> bool:
    """True if all readers of the output, directly or through element-wise operations, are neurons."""
    found = readers.get(index, set())
    if not found or index in outputs:
        return False
    return all(
        placed[r].event.op == "neuron"
        or (placed[r].event.op not in OPERATIONS and feeds_neuron(r, placed, readers, outputs))
        for r in found
    )


def assign_steps(events: Sequence[OperationRecord], time_steps: int, mode: str) -> list[PlacedOperation]:
    """Assign time steps and a name to every operation: ``#matmul0`` in call order, ``#call1`` for further calls.

    Timed operations cover all steps. In mode "loop" the calls of a module (or, at the top level, the operations of one
    kind) are distributed over the steps in order. Raises ProfilingError if T does not divide the number of calls.
    """
    records = list(events)
    when = [_when(event, time_steps) for event in events]
    if mode == "loop" and time_steps > 1:
        events = _with_layer_names(events, when, time_steps)
        when = _loop_steps(events, when, time_steps)
    elif time_steps > 1:
        when = _at_their_readers(events, when, time_steps)
        when = steps_behind_loops(events, readers_of(events), when, time_steps)
        events = _with_layer_names(events, when, time_steps)
    covered = [_numbered_in(step, time_steps) for step in when]
    calls = _numbers([(event.scope, event.invocation) for event in events], covered)
    ranks = _numbers([((event.scope, event.invocation, event.suffix), event.index) for event in events], covered)
    placed = []
    for record, event, step, call, rank in zip(records, events, when, calls, ranks, strict=True):
        layer = f"{event.scope}{event.suffix}{rank}" if event.suffix else event.layer
        steps = list(range(time_steps)) if step is None else [step]
        placed.append(PlacedOperation(record, f"{layer}#call{call}" if call else layer, steps))
    return placed


def _numbered_in(step: int | None, time_steps: int) -> list[int]:
    """Time steps in which an operation needs a number of its own; ONCE stands for none of them."""
    if step is None:
        return [ONCE, *range(time_steps)]
    return [step if time_steps > 1 else ONCE]


def _numbers(items: Sequence[tuple[Hashable, Hashable]], covered: Sequence[Sequence[int]]) -> list[int]:
    """The number of each item (group, identity): the smallest that no other one of its group has in a common step."""
    owners: dict[Hashable, Hashable] = {}
    found: list[int] = []
    for (group, identity), steps in zip(items, covered, strict=True):
        number = 0
        while any(owners.get((group, step, number), identity) != identity for step in steps):
            number += 1
        owners.update({(group, step, number): identity for step in steps})
        found.append(number)
    return found


def _with_layer_names(
    events: Sequence[OperationRecord], when: Sequence[int | None], time_steps: int
) -> list[OperationRecord]:
    """Operations of one weight in one layer, once per time step, all under the layer's own name.

    A layer whose forward loops over time calls its function T times; the first call alone bears the layer's name.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        if event.weight_name is not None and event.op in OPERATIONS:
            groups[event.scope, event.invocation, event.op, event.weight_name].append(i)
    named = list(events)
    for members in groups.values():
        steps = [when[i] for i in members]
        is_a_step_each = len(members) == time_steps and len(set(steps)) in (1, time_steps)
        if len(members) < 2 or not is_a_step_each or any(events[i].timed for i in members):
            continue
        first = events[members[0]]
        for nth, i in enumerate(members):
            named[i] = events[i].copy()
            named[i].layer, named[i].suffix, named[i].index = first.layer, first.suffix, first.index
            if len(set(steps)) == 1:  # as calls of a module, dealt out over the steps
                named[i].invocation = (first.invocation + 1) * len(events) + nth
    return named


def _at_their_readers(
    events: Sequence[OperationRecord], when: Sequence[int | None], time_steps: int
) -> list[int | None]:
    """Steps of operations on a state: that of their readers, if those read the state of an earlier step.

    What a loop computes from the spikes of step t to add it to the input of step t + 1 is work of step t + 1: it is
    not computed from the last step any more. What is computed from a zero state is work of the step that reads it.
    """
    readers, found = readers_of(events), list(when)
    for members in reversed(_repeated_operations(events, when)):
        moved = [step for i in members if (step := _step_of_readers(i, readers, found)) is not None]
        is_later = all((when[i] or 0) < step for i, step in zip(members, moved, strict=False))
        is_one_each = len(moved) == len(members) == len(set(moved))
        if is_one_each and is_later and time_steps - 1 not in {when[i] for i in members}:
            for i, step in zip(members, moved, strict=True):
                found[i] = step
    for i in sorted(_at_rest(events), reverse=True):
        first = _step_of_readers(i, readers, found)
        found[i] = found[i] if first is None else first
    return found


def _at_rest(events: Sequence[OperationRecord]) -> set[int]:
    """Indices of operations on a state at rest, such as zeros, and on nothing else."""
    found: set[int] = set()
    for i, event in enumerate(events):
        if event.reads_constant or (event.inputs and event.inputs <= found and event.step is None):
            found.add(i)
    return found


def _repeated_operations(events: Sequence[OperationRecord], when: Sequence[int | None]) -> list[list[int]]:
    """Indices of operations of one step each, the same one of all steps together, in the order of the first call."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    ranks: dict[Hashable, int] = defaultdict(int)
    for i, (event, step) in enumerate(zip(events, when, strict=True)):
        if step is not None and step >= 0:
            rank = ranks[event.scope, event.suffix, event.op, step]
            ranks[event.scope, event.suffix, event.op, step] += 1
            groups[event.scope, event.suffix, event.op, rank].append(i)
    return list(groups.values())


def _step_of_readers(index: int, readers: Mapping[int, set[int]], when: Sequence[int | None]) -> int | None:
    """The first step in which the result of an operation is read; None if it is read without steps, or not at all."""
    steps = [when[r] for r in readers.get(index, ())]
    known = [step for step in steps if step is not None and step >= 0]
    return min(known) if known and len(known) == len(steps) else None


def _when(event: OperationRecord, time_steps: int) -> int | None:
    if event.timed:
        return None
    if event.step is not None:
        return event.step
    return 0 if time_steps == 1 else ONCE


def _loop_steps(events: Sequence[OperationRecord], when: Sequence[int | None], time_steps: int) -> list[int | None]:
    """Distribute the calls of each scope over the time steps.

    Layers are distributed in order, equally many calls per step; if T does not divide them, raises ProfilingError.
    Element-wise operations at the top level of a loop may differ between steps (no 0.9 * u in the first one): if their
    order contradicts what they read, they get the step of the last layer before them.
    """
    assigned = list(when)
    free = [i for i, event in enumerate(events) if event.step is None and not event.timed]
    invocations: dict[str, set[int]] = defaultdict(set)
    operations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in free:
        invocations[events[i].scope].add(events[i].invocation)
        operations[events[i].scope, events[i].suffix].append(i)
    top_level: list[list[int]] = []
    repeated: list[list[int]] = []
    cyclic: dict[int, int] = {}
    for (scope, _), members in operations.items():
        calls = sorted(invocations[scope])
        count = len(calls) if len(calls) > 1 else len(members)
        is_layer = len(calls) > 1 or events[members[0]].op in (*OPERATIONS, "neuron")
        if count > 1 and count % time_steps and is_layer:
            raise ProfilingError(
                f"{events[members[0]].layer}: called {count} times in a loop of {time_steps} time steps; which call "
                "belongs to which step cannot be told: call it equally often in every step"
            )
        for nth, i in enumerate(members):
            at = calls.index(events[i].invocation) if len(calls) > 1 else nth
            assigned[i] = ONCE if count == 1 else at * time_steps // count
            cyclic[i] = ONCE if count == 1 else at % time_steps
        if not is_layer and count > 1:
            top_level.append(members)
        elif count > time_steps:
            repeated.append(members)
    uncertain = {i for members in top_level for i in members}
    for members in top_level:
        if len(members) % time_steps or not _in_order(members, events, assigned):
            for i in members:
                assigned[i] = _last_layer_before(i, assigned, uncertain)
    for members in repeated:
        if not _reads_its_own_step(members, events, assigned):  # called layer by layer, all steps in each
            after = [cyclic[i] if i in members else step for i, step in enumerate(assigned)]
            if not _reads_its_own_step(members, events, after):
                raise ProfilingError(
                    f"{events[members[0]].layer}: called {len(members)} times in {time_steps} time steps, in an order "
                    "from which the steps cannot be told; call it step by step"
                )
            assigned = after
    return assigned


def _reads_its_own_step(
    members: Sequence[int], events: Sequence[OperationRecord], assigned: Sequence[int | None]
) -> bool:
    """True if for every operation, the latest step among its inputs is its own step."""
    for i in members:
        steps = [assigned[source] for source in events[i].inputs]
        known = [step for step in steps if step is not None and step >= 0]
        if known and max(known) != assigned[i]:
            return False
    return True


def _in_order(members: Sequence[int], events: Sequence[OperationRecord], assigned: Sequence[int | None]) -> bool:
    """True if no operation is assigned to an earlier step than one of its inputs."""
    return all((assigned[source] or 0) <= (assigned[i] or 0) for i in members for source in events[i].inputs)


def _last_layer_before(index: int, assigned: Sequence[int | None], uncertain: set[int]) -> int | None:
    """The step of the last earlier operation whose step is certain; the first step if there is none."""
    return next((assigned[i] for i in range(index - 1, -1, -1) if i not in uncertain and assigned[i] != ONCE), 0)
