"""The counts of some consecutive samples, before they are merged with those of other parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.kinds import ValueSet

Side = tuple[str, str]  # layer; left, right or emitted
Run = tuple[int, int]  # first sample, sample after the last
CountArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Operation:
    """What all samples share for one operation: its place, its sizes, and which counts it has.

    steps: time step of each of its rows. streamed, other: elements of its operands per sample and step, None if absent.
    counted: names of its per-sample counts. inputs: indices of the operations that it reads.
    """

    layer: str
    steps: tuple[int, ...]
    timed: bool
    op: str
    inputs: tuple[int, ...]
    active: tuple[bool, ...]
    counted: tuple[str, ...]
    constant: bool
    note: str
    feeds_neuron: bool
    integrates_only: bool
    streamed: int | None
    other: int | None
    elementwise_ops: int
    dense_macs: int
    neurons: int
    state_variables: int | None
    output_elements: int
    weights: int
    biases: int
    reduction: int
    out_channels: int
    positions: int
    groups: int

    @property
    def structure_keys(self) -> tuple[Any, ...]:
        """What must be equal in all passes of one network."""
        sizes = self.dense_macs, self.neurons, self.state_variables, self.output_elements, self.weights
        return self.layer, self.steps, self.inputs, self.active, self.counted, sizes


@dataclass(frozen=True)
class PartialCounts:
    """Counts of the samples ``start`` to ``start + samples``.

    rules: time, time_steps, max_k, input_kind. header: entries of the counts' header. correct: correctly classified
    samples, None if unknown. outputs: indices of the operations that the network returns. values: of every operand,
    in this part only; limits: the largest multiple that counts as integer in each; loader: the operands that are the
    loader's tensor; computed: those that real arithmetic made, True if they show that they have few values. worked: one
    flag per row (of the operations in order), True if a sample gave it work. not_counted: layer -> why its work is
    unknown. arrays: name ->
    (rows, samples), with the rows of the operations that count it.
    """

    start: int
    samples: int
    rules: Mapping[str, Any]
    header: Mapping[str, Any]
    correct: int | None
    operations: tuple[Operation, ...]
    outputs: frozenset[int]
    values: Mapping[Side, ValueSet]
    limits: Mapping[Side, int]
    loader: frozenset[Side]
    computed: Mapping[Side, bool]
    worked: tuple[bool, ...]
    not_counted: Mapping[str, str]
    arrays: Mapping[str, CountArray]

    @property
    def stop(self) -> int:
        """The sample after the last one."""
        return self.start + self.samples
