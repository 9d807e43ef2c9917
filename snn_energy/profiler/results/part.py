"""What was counted of some consecutive samples, before it is merged with other parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.kinds import ValueSet

Side = tuple[str, str]  # layer; left, right or emitted
Run = tuple[int, int]  # first sample, first sample behind the last
CountArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Operation:
    """What all samples have in common for one operation: its place, its sizes, and what was counted of it.

    steps: time step of each of its rows. streamed, other: elements of its operands per sample and step, None without.
    counted: names of its per-sample counts. inputs: places of the operations that it reads.
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
    output_elements: int
    weights: int
    biases: int
    reduction: int
    out_channels: int
    positions: int
    groups: int

    @property
    def must_agree(self) -> tuple[Any, ...]:
        """What may not differ between two passes of one network."""
        sizes = self.dense_macs, self.neurons, self.output_elements, self.weights
        return self.layer, self.steps, self.inputs, self.active, self.counted, sizes


@dataclass(frozen=True)
class PartialCounts:
    """Counts of the samples ``start`` to ``start + samples``.

    rules: time, time_steps, max_k, input_kind. header: entries of the counts' header. correct: rightly classified
    samples, None where not known. outputs: places of the operations that the network returns. values: of every
    operand, in this part alone; loader: the operands that are the loader's own tensor. worked: one flag per row (of
    the operations in order), whether some sample gave it work. not_counted: layer -> why its work is not
    known. arrays: name -> (rows, samples), the rows of the operations that count it.
    """

    start: int
    samples: int
    rules: Mapping[str, Any]
    header: Mapping[str, Any]
    correct: int | None
    operations: tuple[Operation, ...]
    outputs: frozenset[int]
    values: Mapping[Side, ValueSet]
    loader: frozenset[Side]
    worked: tuple[bool, ...]
    not_counted: Mapping[str, str]
    arrays: Mapping[str, CountArray]

    @property
    def stop(self) -> int:
        """The first sample behind it."""
        return self.start + self.samples
