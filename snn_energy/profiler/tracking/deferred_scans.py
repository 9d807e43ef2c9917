"""Finds the scans of a script that can wait: those of small tensors of one layer in several time steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.script import CallStep, OperandScan, Step
from snn_energy.profiler.values.scan_cache import ScanRequest
from snn_energy.profiler.values.scan_group import FEWEST, SMALL, ScanGroup, Target


class _Found(NamedTuple):
    """The first scan of a tensor in a layout, and all that its sums belong to."""

    scan: OperandScan
    targets: list[Target]


def defer_scans(
    events: Sequence[Step],
    records: Sequence[OperationRecord],
    families: Sequence[Sequence[int]],
    members: int | None = None,
) -> list[ScanGroup]:
    """Put scans of small tensors into groups; a tensor that has several readers is scanned at the first one.

    families: indices of the operations that are one layer in several time steps. The records must hold their sums.
    members: of a group, None for as many as there are here, at least ``FEWEST``.
    """
    steps = [step for step in events if isinstance(step, CallStep)]
    found: dict[int, _Found] = {}  # by the sums
    for step in steps:
        for scan in step.scans:
            first = found.setdefault(_sums_of(scan, records), _Found(scan, []))
            first.targets.append((scan.record, scan.side))
    groups = _groups(list(found.values()), families, members)
    for step in steps if groups else ():
        step.scans = [
            deferred for scan in step.scans if (deferred := _deferred(scan, found[_sums_of(scan, records)], groups))
        ]
        if step.prescanned is not None and step.prescanned.layout[0].numel() <= SMALL:
            step.prescanned = None  # its readers copy it
    return list({id(group): group for group in groups.values()}.values())


def _sums_of(scan: OperandScan, records: Sequence[OperationRecord]) -> int:
    return id(getattr(records[scan.record], scan.side))


def _deferred(scan: OperandScan, first: _Found, groups: Mapping[int, ScanGroup]) -> OperandScan | None:
    """A scan as it is followed; None for a further scan of a tensor that is in a group."""
    group = groups.get(id(first.scan))
    if scan.group is not None or group is None:
        return scan
    return scan._replace(group=group, targets=tuple(first.targets)) if scan is first.scan else None


def _groups(found: Sequence[_Found], families: Sequence[Sequence[int]], members: int | None) -> dict[int, ScanGroup]:
    """The group of every scan that can wait."""
    family_of = {index: number for number, members in enumerate(families) for index in members}
    alike: dict[Hashable, list[OperandScan]] = defaultdict(list)
    for scan, targets in found:
        family = frozenset(family_of.get(record, -1) for record, _ in targets)
        if scan.group is None and -1 not in family and scan.form.shape.numel() <= SMALL:
            alike[family, scan.side, scan.layout, scan.needs_levels, scan.form, scan.trace.bound].append(scan)
    groups: dict[int, ScanGroup] = {}
    for scans in alike.values():
        if members is None and len(scans) < FEWEST:
            continue
        first = scans[0]
        layer, invocation, operand = first.reader
        request = ScanRequest(first.layout, first.needs_levels, layer, operand, invocation)
        group = ScanGroup.of(request, first.trace, first.form, members or len(scans))
        groups |= {id(scan): group for scan in scans}
    return groups
