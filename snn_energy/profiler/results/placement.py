"""Which time step, which layer and which neuron an operation belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snn_energy.core.errors import ProfilingError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.notes import folded_note
from snn_energy.profiler.axes.roles import ONCE
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


def readers_of(placed: Sequence[PlacedOperation]) -> dict[int, set[int]]:
    """Index of an operation -> indices of the operations that read its output."""
    readers: dict[int, set[int]] = defaultdict(set)
    for index, item in enumerate(placed):
        for source in item.event.inputs:
            readers[source].add(index)
    return readers


def folds_into(
    index: int, placed: Sequence[PlacedOperation], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> str | None:
    """Note of a BatchNorm or constant scale that folds away (design, rules 3 and 6), else None.

    BatchNorm folds into a conv or linear layer that is its only producer, through reshapes only, and has no other
    reader. A constant scale folds if all its readers are products, weight layers or neurons.
    """
    event = placed[index].event
    if not event.foldable:
        return None
    if event.op == "norm":
        (source,) = event.inputs if len(event.inputs) == 1 else (None,)
        if source is None or placed[source].event.op not in ("conv", "linear"):
            return None
        if readers[source] != {index} or source in outputs:
            return None
        return folded_note(placed[source].layer)
    found = readers.get(index, set())
    if not found or index in outputs:
        return None
    for reader in found:
        is_sink = placed[reader].event.op in (*OPERATIONS, "neuron")
        if not is_sink and (placed[reader].event.op != "scale" or folds_into(reader, placed, readers, outputs) is None):
            return None
    return folded_note("its readers")


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
    when = [_when(event, time_steps) for event in events]
    if mode == "loop" and time_steps > 1:
        when = _loop_steps(events, when, time_steps)
    calls: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    indices: dict[tuple[str, int | None, int, str], list[int]] = defaultdict(list)
    own = [step if step is not None and step >= 0 and time_steps > 1 else None for step in when]  # numbered by step
    for event, step in zip(events, own, strict=True):
        if event.invocation not in calls[event.scope, step]:
            calls[event.scope, step].append(event.invocation)
        indices[event.scope, step, event.invocation, event.suffix].append(event.index)
    placed = []
    for event, step, own_step in zip(events, when, own, strict=True):
        layer = event.layer
        if event.suffix:
            rank = indices[event.scope, own_step, event.invocation, event.suffix].index(event.index)
            layer = f"{event.scope}{event.suffix}{rank}"
        call = calls[event.scope, own_step].index(event.invocation)
        steps = list(range(time_steps)) if step is None else [step]
        placed.append(PlacedOperation(event, f"{layer}#call{call}" if call else layer, steps))
    return placed


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
