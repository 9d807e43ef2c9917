"""Calls of one operation in several time steps, whose counts are computed and gathered together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.counts.columns import OPERATIONS
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.results.placement import PlacedOperation
from snn_energy.profiler.tracking.operation_log import OperationRecord

Counts = npt.NDArray[np.int64]
Key = tuple[str, tuple[int, ...]]  # layer and time steps of an operation


@dataclass
class Family:
    """Operations of one layer and of equal sizes, one per time step; most have a single one, for all time steps.

    members: their keys. rows: of one member. active: one flag per row of all members, True if a source works. worked:
    True if a sample of the current part gave the row non-zero input. gathered: name -> one (members * rows, samples of
    the batch) array per batch of the current part.
    """

    layer: str
    members: tuple[Key, ...]
    rows: int
    active: StepMask
    worked: StepMask
    gathered: dict[str, list[Counts]] = field(default_factory=lambda: defaultdict(list))

    def start_part(self) -> None:
        """Forget what was gathered."""
        self.gathered, self.worked = defaultdict(list), np.zeros_like(self.active)

    def by_member(self, name: str) -> dict[Key, Counts]:
        """(rows, samples of the part) of every member; empty if nothing of this name was gathered."""
        if not self.gathered[name]:
            return {}
        whole = np.concatenate(self.gathered[name], axis=1)
        return {key: whole[i * self.rows : (i + 1) * self.rows] for i, key in enumerate(self.members)}

    def worked_by_member(self) -> dict[Key, StepMask]:
        """One flag per row of every member."""
        return {key: self.worked[i * self.rows : (i + 1) * self.rows] for i, key in enumerate(self.members)}

    def records(self, by_key: Mapping[Key, OperationRecord]) -> list[OperationRecord]:
        """The records of its members in one batch."""
        return [by_key[key] for key in self.members]

    def mark_working(self, arrays: Mapping[str, Counts]) -> None:
        """Mark the rows whose input has non-zeros, even if all their sources are masked (after x + 1 or x == 0)."""
        sides = [arrays[name] > 0 for name in ("nonzeros_left", "nonzeros_right") if name in arrays]
        if sides:
            self.worked = self.worked | np.logical_and.reduce(sides).any(1)


def families_of(placed: Sequence[PlacedOperation]) -> list[Family]:
    """The operations of a batch in families, in the order of their first members."""
    groups: dict[Hashable, list[PlacedOperation]] = defaultdict(list)
    for item in placed:
        groups[_what_is_equal(item)].append(item)
    found = []
    for members in groups.values():
        active = np.concatenate([item.event.active for item in members])
        first = members[0]
        keys = tuple(item.key for item in members)
        found.append(Family(first.layer, keys, len(first.steps), active, np.zeros_like(active)))
    return found


def _what_is_equal(item: PlacedOperation) -> Hashable:
    event, geometry = item.event, item.event.geometry
    form: tuple[Any, ...] = ()
    if geometry is not None:
        form = (geometry.positions, geometry.reduction, geometry.out_channels, geometry.groups,
                geometry.fan_out.tobytes())  # fmt: skip
    return (
        item.layer, event.op, event.timed, len(item.steps), event.integrates_only, event.left is None,
        event.right is None, event.left_elements, event.right_elements, event.groups, event.reduction, event.positions,
        event.out_channels, sizes_of(event), form,
    )  # fmt: skip


def sizes_of(event: OperationRecord) -> tuple[int, ...]:
    """The sizes of an operation that must not change between batches."""
    return (event.dense_macs, event.neurons, event.output_elements, event.weights, event.elementwise_ops)


def have_same_sizes(one: OperationRecord, other: OperationRecord) -> bool:
    """True if the sizes of an operation are those of another batch.

    What is made of all samples, such as a single number, has a size per sample in a batch of one sample alone.
    """
    pairs = zip(sizes_of(one), sizes_of(other), strict=True)
    is_per_sample = one.op in OPERATIONS or one.op == "neuron"
    return all(a == b or (not is_per_sample and {a, b} == {0, 1}) for a, b in pairs)
