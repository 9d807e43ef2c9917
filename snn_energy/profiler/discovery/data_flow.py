"""What a neuron carries from one time step to the next, by the flow of values between its operations.

Three runs of the same operations are compared: one, one with other inputs before a time step, one with other inputs
from that step on. A value that changes with the earlier inputs alone is *past*; one that changes with the later inputs
is *present*. What must be kept at the step is the smallest set of past values through which all that is past reaches
the present: a potential and a spike that is computed from it are one variable, a potential and a synaptic current two.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Content = tuple[int, ...]  # hash of a tensor's values in each of the three runs
Value = tuple[Content, int]  # a content, and how often other operations had made the same before
Node = tuple[Value, str]  # where the flow enters and leaves a value
Edge = tuple[Node, Node]
NO_SOURCE: Node = (((), 0), "out")  # the ends of the flow
END: Node = (((), 1), "in")


class TensorValue(NamedTuple):
    """The values of a tensor as a hash, and how many they are."""

    digest: int
    elements: int


class OperationValues(NamedTuple):
    """What an operation read and what it made. is_view: it made nothing new."""

    name: str
    is_view: bool
    read: tuple[TensorValue, ...]
    made: tuple[TensorValue, ...]


def value_of(tensor: Tensor) -> TensorValue:
    """The hash of a tensor's values; equal for copies and views of the same values."""
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return TensorValue(hash(values.view(torch.uint8).numpy().tobytes()), tensor.numel())


class ValueRecorder(TorchDispatchMode):
    """Records the values that every operation reads and makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[OperationValues] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = args[1:] if name in _OVERWRITE else [args, kwargs]
        read = tuple(value_of(leaf) for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        out = func(*args, **(kwargs or {}))
        made = () if "empty" in name else tuple(value_of(t) for t in tree_leaves(out) if isinstance(t, Tensor))
        self.operations.append(OperationValues(name, func.is_view, read, made))
        return out


_OVERWRITE = ("copy_", "zero_", "fill_")  # what they write over is not read


@dataclass
class Flow:
    """``elements`` of each value, and the values that it was made from.

    past, present: those that depend on the inputs before the step, and from it on.
    """

    of_content: dict[Content, int] = field(default_factory=dict)
    elements: dict[Value, int] = field(default_factory=dict)
    producers: dict[Value, set[Value]] = field(default_factory=lambda: defaultdict(set))
    past: set[Value] = field(default_factory=set)
    present: set[Value] = field(default_factory=set)


def flow_of(runs: Sequence[Sequence[OperationValues]], of_step: int) -> Flow | None:
    """The flow of values in three runs; None if they do not have the same operations. of_step: elements of a step."""
    if len({tuple(operation.name for operation in run) for run in runs}) > 1:
        return None
    flow, latest = Flow(), dict[Content, int]()
    for operations in zip(*runs, strict=True):
        read = {(content, latest.setdefault(content, 0)) for content in _contents([o.read for o in operations], flow)}
        for content in _contents([o.made for o in operations], flow):
            is_new = content in latest and not operations[0].is_view and (content, latest[content]) not in read
            latest[content] = latest.get(content, 0) + is_new
            value = content, latest[content]
            flow.producers[value] |= read - {value}
    for value in {*flow.producers, *(source for sources in flow.producers.values() for source in sources)}:
        flow.elements[value] = flow.of_content[value[0]]
    _mark(flow, of_step)
    return flow


def _contents(found: Sequence[Sequence[TensorValue]], flow: Flow) -> Iterator[Content]:
    for same in zip(*found, strict=True):
        content = tuple(one.digest for one in same)
        flow.of_content[content] = same[0].elements
        yield content


def _mark(flow: Flow, of_step: int) -> None:
    """Mark what is past and present: what changed, and what is made of it even if it did not (a spike may not)."""
    for marked, run in ((flow.past, 1), (flow.present, 2)):
        marked.update(value for value in flow.elements if value[0][0] != value[0][run])
        readers: dict[Value, list[Value]] = defaultdict(list)
        for value, sources in flow.producers.items():
            for source in sources:
                readers[source].append(value)
        waiting = [value for value in marked if flow.elements[value] <= of_step]
        while waiting:
            for reader in readers[waiting.pop()]:
                if reader not in marked and len(set(reader[0])) > 1:  # constants stem from nothing
                    marked.add(reader)
                    waiting += [reader] if flow.elements[reader] <= of_step else []


def is_complete(flow: Flow, inputs: Collection[Content], of_step: int) -> bool:
    """False if a value depends on earlier inputs by a way that was not seen: a Python number, a mix of time steps."""
    for value in flow.past:
        if value[0] in inputs or flow.elements[value] > of_step:
            continue
        sources = flow.producers.get(value, set()) & flow.past
        if value in flow.present:  # a slice of a tensor over all steps holds one step alone
            sources = {source for source in sources if _is_of_steps(source, flow, of_step)}
        if not sources:
            return False
    return True


def _is_of_steps(value: Value, flow: Flow, of_step: int) -> bool:
    """True for a value of one step, or one that is put together of such."""
    parts = {value, *flow.producers.get(value, set())} & flow.past
    return any(flow.elements[part] <= of_step for part in parts)


def _of_later_steps(flow: Flow, of_step: int) -> set[Value]:
    """What is present and of a step's size, or is read by that: no results of all steps, put together, no means."""
    found = {value for value in flow.present if of_step < 2 * flow.elements[value] <= 2 * of_step}
    waiting = list(found)
    while waiting:
        sources = flow.producers.get(waiting.pop(), set()) & flow.present - found
        found |= sources
        waiting += sources
    return found


def kept_elements(flow: Flow, of_step: int) -> int:
    """The smallest number of elements through which all that is past alone reaches the present (a minimum cut)."""
    past = flow.past - flow.present
    capacity: dict[Edge, int] = defaultdict(int)
    unlimited = sum(flow.elements.values()) + 1
    for value in past:
        entry = value, "in"
        capacity[entry, (value, "out")] = flow.elements[value]
        sources = flow.producers.get(value, set()) & past
        for source in sources:
            capacity[(source, "out"), entry] = unlimited
        if not sources:
            capacity[NO_SOURCE, entry] = unlimited
    for value in _of_later_steps(flow, of_step):
        for source in flow.producers.get(value, set()) & past:
            capacity[(source, "out"), END] = unlimited
    return _maximum_flow(capacity)


def _maximum_flow(capacity: dict[Edge, int]) -> int:
    """The largest flow from NO_SOURCE to END, by shortest augmenting paths (Edmonds and Karp)."""
    neighbours: dict[Node, set[Node]] = defaultdict(set)
    for a, b in capacity:
        neighbours[a].add(b)
        neighbours[b].add(a)
    total = 0
    while (path := _path(lambda a, b: capacity[a, b] > 0, neighbours)) is not None:
        least = min(capacity[edge] for edge in path)
        for a, b in path:
            capacity[a, b] -= least
            capacity[b, a] += least
        total += least
    return total


def _path(is_open: Callable[[Node, Node], bool], neighbours: Mapping[Node, Iterable[Node]]) -> list[Edge] | None:
    """The edges of a shortest open path from NO_SOURCE to END; None if there is none."""
    before: dict[Node, Node] = {}
    waiting = deque([NO_SOURCE])
    while waiting and END not in before:
        at = waiting.popleft()
        for after in neighbours.get(at, ()):
            if after not in before and after != NO_SOURCE and is_open(at, after):
                before[after] = at
                waiting.append(after)
    if END not in before:
        return None
    edges, at = [], END
    while at != NO_SOURCE:
        edges.append((before[at], at))
        at = before[at]
    return edges
