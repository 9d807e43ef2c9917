"""Operations of one forward pass, in the order of the calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.traces import TensorTrace


class Spread(NamedTuple):
    """How the rows of a product read an operand that has fewer: sizes of its digits of time, 1 where it has none.

    own, whole: of the operand and of the product, the coarsest digit first. samples: their number, behind the digits.
    """

    own: tuple[int, ...]
    whole: tuple[int, ...]
    samples: int


@dataclass
class OperationRecord:
    """One operation in one forward pass. Sizes are per row (time step and sample).

    ``left`` and ``right`` are the scans of its operands, of ``left_elements`` and ``right_elements`` per row; ``fired``
    is that of a neuron's spikes. ``operation_counts`` makes the counts of them. ``is_amplitude_known``: the spikes have
    the value that the neuron's class guarantees. ``reads``, ``leaves``: what is known of the operands and of the result
    of an element-wise operation. ``label``: what it is counted by in its scope. ``weight_name``: the parameter that
    holds its weights. ``reads_padding``: constants lie beside the results that it reads.
    ``reads_constant``: it reads nothing of the loader, such as a zero state. left_spread, right_spread: of an operand
    that several steps read as a whole. ``of_batch``: its result for one sample depends on the others of the batch.
    ``state_variables``: of each neuron, None if unknown, and of other operations.
    """

    layer: str
    scope: str
    invocation: int
    index: int
    suffix: str
    op: str
    timed: bool
    step: int | None
    active: StepMask
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
    left_spread: Spread | None = None
    right_spread: Spread | None = None
    geometry: Geometry | None = None
    fired: NonzeroSums | None = None
    is_amplitude_known: bool = False
    integrates_only: bool = False
    dense_macs: int = 0
    elementwise_ops: int = 0
    weights: int = 0
    biases: int = 0
    neurons: int = 0
    state_variables: int | None = None
    reduction: int = 0
    out_channels: int = 0
    positions: int = 0
    groups: int = 0
    foldable: bool = False
    label: str = ""
    weight_name: str | None = None
    reads_padding: bool = False
    reads_constant: bool = False
    of_batch: bool = False

    def copy(self) -> OperationRecord:
        """A shallow copy."""
        other = object.__new__(OperationRecord)
        other.__dict__.update(self.__dict__)
        return other

    def difference(self, other: OperationRecord, without: Collection[str] = ()) -> str | None:
        """The name of the first field that differs by value; None if all are equal."""
        fields = [name for name in self.__dataclass_fields__ if name not in without]
        return next((name for name in fields if not _is_same(getattr(self, name), getattr(other, name))), None)

    @property
    def call(self) -> tuple[Any, ...]:
        """Its call site, type and time step: everything that its place among the rows depends on."""
        return self.layer, self.scope, self.invocation, self.index, self.suffix, self.op, self.timed, self.step

    @property
    def emitted(self) -> NonzeroSums | None:
        """The scan that determines which values the spikes have; None if the neuron's class guarantees them."""
        return None if self.is_amplitude_known else self.fired


def _is_same(a: object, b: object) -> bool:
    """True for equal values, tensors and arrays element by element."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (NonzeroSums, Geometry)) and type(a) is type(b):
        return all(_is_same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b


class Outcome(NamedTuple):
    """The outcome of a call.

    record: the operation, None if it is none. traces: new traces of tensors; the operation becomes their only source
    (``stemming_from``). written: tensors whose storages were written to, with the trace of the written values.
    """

    record: OperationRecord | None = None
    traces: Sequence[tuple[Tensor, TensorTrace]] = ()
    written: Sequence[tuple[Tensor, TensorTrace | None]] = ()

    def with_source(self, index: int) -> Outcome:
        """The outcome with operation ``index``, the next in the log, as the only source of its traces."""
        if self.record is None:
            return self
        own = frozenset({index})
        traces = [(x, trace.replace(sources=own)) for x, trace in self.traces]
        written = [(x, trace and trace.replace(sources=own)) for x, trace in self.written]
        return Outcome(self.record, traces, written)


class OperationLog:
    """Records of one batch in the order of the calls, and layers whose work is unknown.

    unsupported: layer -> the function without a rule. untraced_layers: layer -> why its work is unknown. Both cover
    the whole run.
    """

    def __init__(self) -> None:
        self.records: list[OperationRecord] = []
        self.unsupported: dict[str, str] = {}
        self.untraced_layers: dict[str, str] = {}

    def begin_batch(self) -> None:
        """Start the records of a new batch."""
        self.records = []

    def results(self, returned: Iterable[TensorTrace | None]) -> frozenset[int]:
        """Records whose results the model returns, by the traces of the returned tensors."""
        traces = list(returned)
        sources: frozenset[int] = frozenset().union(*(trace.sources for trace in traces if trace is not None))
        if not sources and not self.untraced_layers and traces:
            self.untraced_layers["the output"] = (
                "does not stem from the loader as far as could be followed; what comes after the break is not counted"
            )
        if not sources:  # returned in an unknown container: results that no record reads are outputs
            read = frozenset().union(*(record.inputs for record in self.records))
            sources = frozenset(range(len(self.records))) - read
        return sources
