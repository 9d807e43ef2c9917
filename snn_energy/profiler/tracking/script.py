"""The script of a forward pass: its events in order, each with all that its outcome depends on except values.

A batch whose forward pass repeats the events of the script has the same operations; only its values are scanned.
Tensors are numbered ("slots") in the order in which the events read and return them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan_cache import Arrange, Reader, SumLayout
from snn_energy.profiler.values.scan_group import Form, ScanGroup, Target
from snn_energy.profiler.values.traces import ScanResults, TensorFacts, TensorTrace

Parameters = Mapping[int, Mapping[int, str]]  # names of the model's parameters by storage and offset


class Slots:
    """The tensors of one forward pass by number, held weakly; those that stem from the loader are found by object."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Tensor]] = []
        self._traced: dict[int, int] = {}

    def copy(self) -> Slots:
        """The same tensors and numbers."""
        other = Slots()
        other.refs, other._traced = list(self.refs), dict(self._traced)
        return other

    def clear(self) -> None:
        """Forget all tensors: a new batch begins."""
        self.refs.clear()
        self._traced.clear()

    def add(self, tensor: Tensor) -> int:
        """The number of another tensor."""
        self.refs.append(weakref.ref(tensor))
        return len(self.refs) - 1

    def mark_traced(self, tensor: Tensor, slot: int) -> None:
        """From now on, a tensor is found under this number."""
        self._traced[id(tensor)] = slot

    def of(self, tensor: Tensor) -> int | None:
        """The latest number of a tensor that stems from the loader; None for any other."""
        slot = self._traced.get(id(tensor))
        return slot if slot is not None and slot < len(self.refs) and self.refs[slot]() is tensor else None

    def drop_from(self, slot: int) -> None:
        """Forget the tensors from a number on."""
        del self.refs[slot:]


# ---- arguments of a call ---------------------------------------------------------------------------------------


class Slot(int):
    """An argument that stems from the loader: the tensor of this number."""


class Group(NamedTuple):
    """A list, tuple, dict or slice among arguments: its class, and its parts."""

    kind: type
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class OtherTensor:
    """An argument without a number: a weight, a constant, or a buffer that was written to through a view.

    facts: of such a buffer. place: storage and offset of a parameter or a view of one. value: of a tensor of one
    element where it decides the outcome, such as a factor or an index; None elsewhere.
    """

    ref: weakref.ref[Tensor]
    facts: TensorFacts | None
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    place: tuple[int, int] | None
    value: Tensor | None

    def matches(self, tensor: object, table: TensorTable, parameters: Parameters) -> bool:
        """True if another batch's argument leads to the same outcome."""
        if not isinstance(tensor, Tensor):
            return False
        trace = table.get(tensor)
        if (trace is None) != (self.facts is None):
            return False
        if trace is not None and self.facts is not None and not trace.facts.equals(self.facts):
            return False
        if self.ref() is not tensor and not self._is_alike(tensor, parameters):
            return False
        return self.value is None or torch.equal(self.value, tensor)

    def _is_alike(self, tensor: Tensor, parameters: Parameters) -> bool:
        return (
            tensor.shape == self.shape
            and tensor.stride() == self.stride
            and tensor.dtype == self.dtype
            and tensor.device == self.device
            and place_of(tensor, parameters) == self.place
        )


def place_of(tensor: Tensor, parameters: Parameters) -> tuple[int, int] | None:
    """Storage and offset of a parameter or buffer of the model, or of a view of one; None for other tensors."""
    storage = tensor.untyped_storage()._cdata
    return (storage, int(tensor.storage_offset())) if storage in parameters else None


PLAIN = frozenset(
    (type(None), bool, int, float, complex, str, type(...), torch.dtype, torch.device, torch.Size, torch.layout,
     torch.memory_format)
)  # fmt: skip


class IncomparableError(Exception):
    """An argument of a class whose values cannot be compared between batches."""


# ---- events ----------------------------------------------------------------------------------------------------


class Put(NamedTuple):
    """A trace that an event gives to a tensor: number, trace, generation of the storage, shape and stride."""

    slot: int
    trace: TensorTrace
    generation: int
    layout: tuple[torch.Size, tuple[int, ...]]


class OperandScan(NamedTuple):
    """A scan of an operand or of spikes: number of the tensor, arguments of ``ScanCache.scan_as``, and its sums' place.

    side: "left", "right" or "fired", a field of the record of this index. is_arranged: the tensor lies in
    memory as it is scanned. form: of what is scanned. group, targets: of a scan that waits for those of other steps.
    """

    slot: int
    arrange: Arrange
    layout: SumLayout
    trace: TensorTrace
    reader: Reader
    needs_levels: bool
    record: int
    side: str
    is_arranged: bool
    form: Form
    group: ScanGroup | None = None
    targets: tuple[Target, ...] = ()


class Enter(NamedTuple):
    """The forward of a module begins. writer: layer and invocation, by which its output is scanned."""

    name: str
    writer: tuple[str, int]


class Leave(NamedTuple):
    """The forward of a module ended. records: number of operations so far."""

    name: str
    records: int


class BeginCall(NamedTuple):
    """A call of the model begins, for this time step or for all. slot, records: numbers of tensors and operations."""

    step: int | None
    slot: int
    records: int


class InputStep(NamedTuple):
    """A tensor of the loader becomes the network's input."""

    layout: str | None
    constant: bool
    bound: ValueBound
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    put: Put


class Result(NamedTuple):
    """Shape, stride and dtype of a returned tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class CallStep:
    """A call of a function, of a layer that is one function, or of a neuron.

    arguments: as ``Recorder.template`` writes them. scans: of its operands. writes: storages that it changes, by a
    tensor. inputs: tensors with traces, for functions that are made of parts. labels: of the operations it recorded.
    records: number of operations after it. facts: what else must be the same, such as the active steps of a neuron.
    """

    name: str
    arguments: Group
    keywords: Group
    results: tuple[Result, ...]
    facts: tuple[Any, ...] = ()
    scans: list[OperandScan] = field(default_factory=list)
    prescanned: Put | None = None
    puts: list[Put] = field(default_factory=list)
    writes: list[tuple[int, TensorTrace | None]] = field(default_factory=list)
    inputs: list[tuple[int, TensorTrace]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    records: int = 0


Step = Enter | Leave | BeginCall | InputStep | CallStep


@dataclass
class Script:
    """All events of a forward pass, the operations that they recorded, and the scans that belong to their tensors.

    groups: of small tensors that are scanned together.
    """

    steps: list[Step]
    records: list[OperationRecord]
    scans: list[ScanResults]
    groups: list[ScanGroup] = field(default_factory=list)

    def deferred(self) -> dict[int, frozenset[str]]:
        """Fields of the records, by object, whose sums are scanned with those of other time steps."""
        found: dict[int, frozenset[str]] = {}
        for step in self.steps:
            for scan in step.scans if isinstance(step, CallStep) else ():
                for index, side in scan.targets:
                    key = id(self.records[index])
                    found[key] = found.get(key, frozenset()) | {side}
        return found

    def begin_batch(self) -> None:
        """Discard the sums of the last batch."""
        for results in self.scans:
            results.clear()
        for group in self.groups:
            group.targets.clear()


def scans_of(steps: Sequence[Step]) -> list[ScanResults]:
    """The scans of all tensors of some events, each once."""
    found: dict[int, ScanResults] = {}
    for step in steps:
        traces: list[TensorTrace] = []
        if isinstance(step, InputStep):
            traces = [step.put.trace]
        elif isinstance(step, CallStep):
            traces = [put.trace for put in step.puts] + [scan.trace for scan in step.scans]
            traces += [trace for _, trace in step.inputs]
        for trace in traces:
            found[id(trace.scans)] = trace.scans
    return list(found.values())
