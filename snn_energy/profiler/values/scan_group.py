"""Small tensors of one layer, of several time steps, are copied side by side and scanned at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import ScanCache, ScanRequest
from snn_energy.profiler.values.traces import TensorTrace

SMALL = 16384  # elements of one tensor
FEWEST = 4  # tensors of a group
MOST_KEPT = 65536  # elements of a group that are kept until they are scanned

Target = tuple[int, str]  # index of an operation, and the field that gets the sums


class Form(NamedTuple):
    """Shape, dtype and device of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class ScanGroup:
    """The scans of one operand of one layer in several time steps.

    request, trace: of the first of them. places: where the tensors are copied to, views of ``buffer``. targets: of the
    tensors copied so far.
    """

    request: ScanRequest
    trace: TensorTrace
    buffer: Tensor
    places: Sequence[Tensor]
    targets: list[Sequence[Target]] = field(default_factory=list)

    @classmethod
    def of(cls, request: ScanRequest, trace: TensorTrace, form: Form, members: int) -> ScanGroup:
        """A group of so many tensors of one form."""
        count = max(1, min(members, MOST_KEPT // max(1, form.shape.numel())))
        buffer = torch.empty((count, *form.shape), dtype=form.dtype, device=form.device)
        return cls(request, trace, buffer, buffer.unbind(0))

    def add(self, x: Tensor, targets: Sequence[Target], records: Sequence[object], scans: ScanCache) -> None:
        """Copy one tensor; scan all of them when there is no place left."""
        self.places[len(self.targets)].copy_(x)
        self.targets.append(targets)
        if len(self.targets) == len(self.places):
            self.flush(records, scans)

    def flush(self, records: Sequence[object], scans: ScanCache) -> None:
        """Scan the tensors that were copied, and hand each target its sums."""
        count = len(self.targets)
        if not count:
            return
        (rows, p, q), dim = self.request.layout
        sums = scans.scan_uncached(
            self.buffer[:count], self.trace, self.request._replace(layout=((count * rows, p, q), dim))
        )
        nonzeros = sums.nonzeros.unflatten(0, (count, rows)).unbind(0)
        levels = None if sums.levels is None else sums.levels.unflatten(0, (count, rows)).unbind(0)
        for index, targets in enumerate(self.targets):
            one = NonzeroSums(nonzeros[index], None if levels is None else levels[index], sums.values, sums.bound)
            for record, side in targets:
                setattr(records[record], side, one)
        self.targets.clear()
