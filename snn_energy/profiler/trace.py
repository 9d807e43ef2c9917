"""What is known of live tensors, what an operation leaves, and what it did in the batch before.

A ``TensorTrace`` goes with a tensor, an ``OperationRecord`` with an operation. A ``Step`` remembers one call: where a
later batch makes the same call on tensors of which the same is known, its outcome is the same but for the counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_energy.profiler.axes.needed_steps import Steps
from snn_energy.profiler.axes.roles import Roles
from snn_energy.profiler.rules import Geometry
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.exact_sums import coincidences, weighted_rows
from snn_energy.profiler.values.scan import NonzeroSums

SumLayout = tuple[tuple[int, int, int], int]  # a tensor seen as (A, P, Q), summed over this axis of it


class StepSums(NamedTuple):
    """Sums over one time step after another: ``shape`` of one step, (T, A/T, kept) float32 ``of_steps``."""

    way: SumLayout
    shape: tuple[int, int, int]
    of_steps: Tensor
    steps: Sequence[Tensor]

    @classmethod
    def zeros(cls, way: SumLayout, time_steps: int, device: torch.device) -> StepSums:
        """No step seen yet."""
        (rows, p, q), dim = way
        shape = (rows // time_steps, p, q)
        of_steps = torch.zeros(time_steps, shape[0], shape[3 - dim], device=device)
        return cls(way, shape, of_steps, of_steps.unbind(0))


class ScanRequest(NamedTuple):
    """How one reader scans a tensor."""

    way: SumLayout
    with_levels: bool
    where: str
    operand: str
    invocation: int


class ScanResults(dict[Hashable, NonzeroSums]):
    """Scans of one piece of memory by how it was seen; ``writer`` names the call that wrote it."""

    writer: tuple[str, int] | None = None


class TensorFacts(NamedTuple):
    """What is known of a tensor before its values are looked at.

    roles: which axes hold time and samples. timed: it holds all T steps; else ``step`` is None (no time yet), a
    step, or ONCE. active: (T,) where timed, else (1,): steps in which some source works. constant: same values at
    every step. sources: events whose outputs it holds.
    """

    roles: Roles
    timed: bool
    step: int | None
    active: Steps
    constant: bool
    sources: frozenset[int]
    bound: ValueBound

    def equals(self, other: TensorFacts) -> bool:
        """The same, value by value."""
        return self is other or (
            self.roles == other.roles
            and self.timed == other.timed
            and self.step == other.step
            and np.array_equal(self.active, other.active)
            and self.constant == other.constant
            and self.sources == other.sources
            and self.bound == other.bound
        )


class TensorTrace:
    """What is known of one live tensor: facts, and scans that all views of the same memory share."""

    __slots__ = ("active", "bound", "constant", "facts", "roles", "scans", "sources", "step", "timed")

    def __init__(self, facts: TensorFacts, scans: ScanResults | None = None) -> None:
        self.facts = facts
        self.scans = ScanResults() if scans is None else scans
        self.roles, self.timed, self.step, self.active, self.constant, self.sources, self.bound = facts

    def but(self, *, scans: ScanResults | None = None, **changes: Any) -> TensorTrace:
        """A copy with some facts changed; it shares the scans unless others are given."""
        return TensorTrace(self.facts._replace(**changes), self.scans if scans is None else scans)


@dataclass
class Operand:
    """What an event read: size per row, non-zeros per row, and its scan for the kind."""

    elements: int
    nonzeros: Tensor
    scan: NonzeroSums


@dataclass
class OperationRecord:
    """One operation in one forward pass. Tensors are (R,) int64, one entry per row; sizes are per row.

    ``left`` and ``right`` are the scans of its operands, of ``left_elements`` and ``right_elements`` per row;
    ``finish`` makes the counts of them. ``reads``, ``leaves``: what is known of the operands and of the result of an
    element-wise operation.
    """

    layer: str
    scope: str
    invocation: int
    index: int
    suffix: str
    op: str
    timed: bool
    step: int | None
    active: Steps
    constant: bool
    inputs: frozenset[int]
    output_elements: int
    note: str = ""
    reads: tuple[ValueBound, ...] = ()
    leaves: ValueBound | None = None
    left: NonzeroSums | None = None
    right: NonzeroSums | None = None
    left_elements: int = 0
    right_elements: int = 0
    geometry: Geometry | None = None
    streamed: Operand | None = None
    other: Operand | None = None
    sops: Tensor | None = None
    multi_left: Tensor | None = None
    multi_right: Tensor | None = None
    spikes: Tensor | None = None
    emitted: NonzeroSums | None = None
    integrates_only: bool = False
    dense_macs: int = 0
    elementwise_ops: int = 0
    weights: int = 0
    biases: int = 0
    neurons: int = 0
    reduction: int = 0
    out_channels: int = 0
    positions: int = 0
    groups: int = 0
    foldable: bool = False

    def copy(self) -> OperationRecord:
        """The same again, field by field."""
        other = object.__new__(OperationRecord)
        other.__dict__.update(self.__dict__)
        return other

    @property
    def call(self) -> tuple[Any, ...]:
        """Who called it, and when: all that its place among the rows depends on."""
        return self.layer, self.scope, self.invocation, self.index, self.suffix, self.op, self.timed, self.step

    def finish(self) -> None:
        """Make the counts from the scans of the operands."""
        if self.left is None or self.streamed is not None:
            return
        if self.right is not None:
            self._finish_product(self.left, self.right)
        elif self.geometry is not None:
            self._finish_weighted(self.left, self.geometry)

    def _finish_weighted(self, left: NonzeroSums, geometry: Geometry) -> None:
        """SOPs = sum over positions of non-zeros there x outputs they feed."""
        nonzeros = left.nonzeros.sum(1, dtype=torch.int64)
        fan_out = geometry.same_fan_out
        if fan_out is not None:
            self.sops = nonzeros * fan_out
            self.multi_left = None if left.levels is None else left.levels.sum(1, dtype=torch.int64) * fan_out
        else:
            weights = geometry.fan_out_on(nonzeros.device)
            self.sops = weighted_rows(left.nonzeros, weights)
            self.multi_left = None if left.levels is None else weighted_rows(left.levels, weights)
        self.streamed = Operand(self.left_elements, nonzeros, left)

    def _finish_product(self, left: NonzeroSums, right: NonzeroSums) -> None:
        """SOPs = coincidences of non-zeros. Scans are (R, G, K)."""
        most = self.positions * (self.out_channels // max(1, self.groups))
        self.sops = coincidences(left.nonzeros, right.nonzeros, most)
        if left.levels is not None:
            self.multi_left = coincidences(left.levels, right.nonzeros, most * MOST_LEVELS)
        if right.levels is not None:
            self.multi_right = coincidences(left.nonzeros, right.levels, most * MOST_LEVELS)
        self.streamed = Operand(self.left_elements, left.nonzeros.flatten(1).sum(1, dtype=torch.int64), left)
        self.other = Operand(self.right_elements, right.nonzeros.flatten(1).sum(1, dtype=torch.int64), right)


MOST_LEVELS = 255  # no |k| is larger

TensorKey = tuple[TensorFacts | None, torch.Size, tuple[int, ...], torch.dtype]


class Step(NamedTuple):
    """One call of a function in the batch before, with all that its outcome followed from, and the outcome.

    ``event`` is None where the call is not an operation. ``shares`` is the index of the operand whose memory the
    result shares. ``keys``: how the event's operands were scanned, in the scans of the first tensors.
    """

    raw: str
    scope: tuple[str, int]
    label: str | None
    nth: int
    rest: tuple[Any, ...]
    options: Mapping[str, Any]
    operands: tuple[TensorKey, ...]
    out: TensorKey
    event_at: int
    event: OperationRecord | None
    facts: TensorFacts
    shares: int | None
    keys: tuple[Hashable, ...]


TENSOR = "<tensor>"


def split_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]:
    """The tensors of a call in order, its other arguments, and its keywords with a mark where a tensor is."""
    tensors, rest = [a for a in args if isinstance(a, Tensor)], tuple(a for a in args if not isinstance(a, Tensor))
    options = {}
    for name, value in kwargs.items():
        options[name] = TENSOR if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            tensors.append(value)
    return tensors, rest, options


def plain_values(values: Iterable[Any]) -> bool:
    """True where values can be compared with ``==`` and are no tensors: numbers, texts, tuples of them."""
    return all(
        value is None
        or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
        or (isinstance(value, (tuple, list)) and all(isinstance(v, (bool, int, float, str)) for v in value))
        for value in values
    )


def key_of(tensor: Tensor, trace: TensorTrace | None) -> TensorKey:
    """What a later batch's tensor is compared with."""
    return None if trace is None else trace.facts, tensor.shape, tensor.stride(), tensor.dtype


def matches(tensor: Tensor, trace: TensorTrace | None, before: TensorKey) -> bool:
    """True where a tensor is known as the one before was."""
    facts, shape, stride, dtype = before
    if (trace is None) != (facts is None):
        return False
    if trace is not None and facts is not None and trace.facts is not facts and not trace.facts.equals(facts):
        return False
    return tensor.shape == shape and tensor.stride() == stride and tensor.dtype == dtype


def keeps_scans(
    events: Sequence[OperationRecord], keys: Sequence[Hashable], before: Sequence[TensorTrace | None]
) -> bool:
    """True where an operation's scans are found again under these keys in the scans of its first tensors."""
    if len(events) != 1:
        return False
    scans = [scan for scan in (events[0].left, events[0].right) if scan is not None]
    if not len(scans) == len(keys) <= len(before):
        return False
    for mine, key, trace in zip(scans, keys, before, strict=False):
        found = None if trace is None else trace.scans.get(key)
        if found is None or found.nonzeros.data_ptr() != mine.nonzeros.data_ptr():
            return False
    return True


def as_rows(
    found: Sequence[NonzeroSums | None], event: OperationRecord
) -> tuple[NonzeroSums | None, NonzeroSums | None]:
    """The scans of an event's operands in the shape in which it counts them."""
    if len(found) == 1:
        return found[0], None
    left, right = (scan and grouped(scan, event.groups, event.reduction) for scan in found)
    return left, right


def grouped(scan: NonzeroSums, groups: int, kept: int) -> NonzeroSums:
    """A scan of (rows * groups, kept) sums as (rows, groups, kept)."""
    levels = None if scan.levels is None else scan.levels.reshape(-1, groups, kept)
    return replace(scan, nonzeros=scan.nonzeros.reshape(-1, groups, kept), levels=levels)
