"""Counts of operations, from the scans of their operands: SOPs, non-zeros, sums of |k|, spikes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snn_energy.profiler.tracking.operation_log import OperationRecord, Spread
from snn_energy.profiler.values.exact_sums import coincidences, sops_of_rows
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan import NonzeroSums


class OperationCounts(NamedTuple):
    """Counts of one or several calls of one operation, each (calls * R,) int64, or None where it has none.

    multi_left, multi_right: SOPs weighted with |k| of an operand; the SOPs where every |k| is 1. levels_left,
    levels_right: sums of |k| of an operand; its non-zeros where every |k| is 1.
    """

    sops: Tensor | None = None
    spikes: Tensor | None = None
    nonzeros_left: Tensor | None = None
    nonzeros_right: Tensor | None = None
    multi_left: Tensor | None = None
    multi_right: Tensor | None = None
    levels_left: Tensor | None = None
    levels_right: Tensor | None = None


def has_counts(record: OperationRecord) -> bool:
    """True for an operation that reads operands, and for a neuron; others have sizes alone."""
    return record.op == "neuron" or record.left is not None


def counts_of(records: Sequence[OperationRecord], rows: int) -> OperationCounts:
    """Counts of calls of one operation with R = ``rows`` rows each, call after call."""
    first = records[0]
    if first.integrates_only:
        return OperationCounts(spikes=torch.zeros(len(records) * rows, dtype=torch.int64))
    if first.op == "neuron":
        fired = [record.fired for record in records if record.fired is not None]
        sums = [scan.nonzeros.reshape(rows, -1) for scan in fired]
        if len({of_call.shape for of_call in sums}) > 1:  # read in other layouts
            return OperationCounts(spikes=torch.cat([of_call.sum(1, dtype=torch.int64) for of_call in sums]))
        return OperationCounts(spikes=_joined(sums).sum(1, dtype=torch.int64))
    lefts = [record.left for record in records if record.left is not None]
    rights = [record.right for record in records if record.right is not None]
    if rights:
        most = [max(scan.most_levels for scan in scans) for scans in (lefts, rights)]
        return _of_product(first, _of_calls(lefts), _of_calls(rights), (most[0], most[1]))
    assert first.geometry is not None
    return _of_weights(first.geometry, _of_calls(lefts))


def _of_calls(scans: Sequence[NonzeroSums]) -> tuple[Tensor, Tensor | None]:
    """Non-zeros and sums of |k| of several calls, one after the other along the first axis; without sums, |k| is 1."""
    levels = [scan.nonzeros if scan.levels is None else scan.levels for scan in scans]
    has_levels = any(scan.levels is not None for scan in scans)
    return _joined([scan.nonzeros for scan in scans]), _joined(levels) if has_levels else None


def _joined(sums: Sequence[Tensor]) -> Tensor:
    return sums[0] if len(sums) == 1 else torch.cat(list(sums))


def _of_weights(geometry: Geometry, left: tuple[Tensor, Tensor | None]) -> OperationCounts:
    """SOPs = sum over positions of non-zeros x fan-out. left: (R, P)."""
    nonzeros, levels = left
    totals, fan_out = nonzeros.sum(1, dtype=torch.int64), geometry.uniform_fan_out
    of_levels = totals if levels is None else levels.sum(1, dtype=torch.int64)
    if fan_out is not None:
        sops = totals * fan_out
        multi = sops if levels is None else of_levels * fan_out
    else:
        weights = geometry.fan_out_on(nonzeros.device)
        sops = sops_of_rows(nonzeros, weights)
        multi = sops if levels is None else sops_of_rows(levels, weights)
    at_outputs = geometry.at_their_outputs
    return OperationCounts(
        sops=at_outputs(sops), nonzeros_left=totals, multi_left=at_outputs(multi), levels_left=of_levels
    )


def _spread(sums: tuple[Tensor, Tensor | None], spread: Spread | None) -> tuple[Tensor, Tensor | None]:
    """Sums of an operand for every row that reads it."""
    if spread is None:
        return sums
    own, whole, samples = spread
    every: Callable[[Tensor], Tensor] = lambda t: (  # noqa: E731
        t.reshape(*own, samples, -1).expand(*whole, samples, -1).reshape(-1, t.shape[-1])
    )
    nonzeros, levels = sums
    return every(nonzeros), None if levels is None else every(levels)


def _of_product(
    record: OperationRecord,
    left: tuple[Tensor, Tensor | None],
    right: tuple[Tensor, Tensor | None],
    largest: tuple[int, int],
) -> OperationCounts:
    """SOPs = coincidences of non-zeros. left, right: (R * G, K). largest: upper bound of |k| in both."""
    by_group: Callable[[Tensor], Tensor] = lambda sums: sums.reshape(-1, record.groups, record.reduction)  # noqa: E731
    (a, a_levels), (b, b_levels) = _spread(left, record.left_spread), _spread(right, record.right_spread)
    most = record.positions * (record.out_channels // max(1, record.groups))
    sops = coincidences(by_group(a), by_group(b), most)
    multi_left = sops if a_levels is None else coincidences(by_group(a_levels), by_group(b), most * largest[0])
    multi_right = sops if b_levels is None else coincidences(by_group(a), by_group(b_levels), most * largest[1])
    of_left, of_right = (by_group(sums).flatten(1).sum(1, dtype=torch.int64) for sums in (a, b))
    levels_left, levels_right = (
        found if sums is None else by_group(sums).flatten(1).sum(1, dtype=torch.int64)
        for found, sums in ((of_left, a_levels), (of_right, b_levels))
    )
    return OperationCounts(sops, None, of_left, of_right, multi_left, multi_right, levels_left, levels_right)
