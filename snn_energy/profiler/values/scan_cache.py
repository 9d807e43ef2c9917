"""Scans of tensors, shared by all readers of the same memory, and how earlier batches read them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from snn_energy.core.kinds import ZERO, ValueSet, check_declared_kind
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.axes.rows import as_rows_first
from snn_energy.profiler.values.bounds import MOST_MULTIPLES, ValueBound, limit_of, searched_for
from snn_energy.profiler.values.scan import NonzeroSums, has_spikes_alone, not_finite, scan
from snn_energy.profiler.values.traces import TensorTrace

SumLayout = tuple[tuple[int, int, int], int]  # shape (A, P, Q) to read a tensor as, and the axis to sum over
Arrange = Callable[[Tensor], Tensor]  # moves the axes of a tensor into the order in which it is scanned


class ScanRequest(NamedTuple):
    """How one reader scans a tensor."""

    layout: SumLayout
    needs_levels: bool
    where: str
    operand: str
    invocation: int


class Reader(NamedTuple):
    """The reader of a tensor: the layer, the index of its call, and the operand ("left", "right", "spikes")."""

    layer: str
    invocation: int
    operand: str


class ScannedOperand(NamedTuple):
    """One scan of an operand: the tensor, the arguments of ``ScanCache.scan_as``, and the sums."""

    tensor: Tensor
    arrange: Arrange
    layout: SumLayout
    trace: TensorTrace
    reader: Reader
    needs_levels: bool
    sums: NonzeroSums


class ScanCache:
    """Scans of operands, and what is known of them from earlier batches; lives for the whole run.

    max_k: largest multiple that counts as integer, None for what the graph adds up. known_real: (layer, invocation,
    operand) whose values need no further scan. scanned: the operands that were scanned since it was last cleared, while
    ``is_recorded``. cross_check: the non-zeros of a reused scan are counted again and compared.
    """

    def __init__(self, max_k: int | None, input_kind: str | None, *, cross_check: bool = False) -> None:
        self._cross_check = cross_check
        self.max_k, self.input_kind = max_k, input_kind
        self.known_real: set[tuple[str, int, str]] = set()
        self.is_recorded = False
        self.scanned: list[ScannedOperand] = []
        self._levels_seen: dict[Hashable, frozenset[int]] = {}  # in earlier batches, without a common factor
        self._values_seen: dict[Hashable, ValueSet] = {}  # in the last scan of a layer
        self._requests: dict[tuple[str, int], dict[Hashable, ScanRequest]] = {}  # by writer; only reads in memory order
        self._ranges: list[tuple[str, Tensor]] = []

    def begin_batch(self) -> None:
        """Start a new batch: discard the ranges of the last one."""
        self._ranges.clear()

    def require_finite(self) -> None:
        """Raise ProfilingError if a range of this batch holds NaN or infinity."""
        sums = [r for _, r in self._ranges if r.dim() == 0]
        whole = [r.reshape(-1) for _, r in self._ranges if r.dim()] + ([torch.stack(sums)] if sums else [])
        if whole and not bool(torch.isfinite(torch.cat(whole)).all()):
            raise not_finite(next(layer for layer, r in self._ranges if not bool(torch.isfinite(r).all())))

    def add_range(self, layer: str, values: Tensor) -> None:
        """Register values of a layer that must be finite; tested at the end of the batch, when the device is done."""
        self._ranges.append((layer, values))

    def bound_of_input(self, x: Tensor) -> ValueBound:
        """Bound of a tensor of the loader: its kind as declared, or whether it holds more than spikes."""
        if self.input_kind is not None:
            most = MOST_MULTIPLES if self.input_kind == "integer" else 1
            return ValueBound(None, most, False, "declared real" if self.input_kind == "real" else None, loader=True)
        with torch._C.DisableTorchFunction():
            is_grey = not has_spikes_alone(x)
        return ValueBound(max_k=0 if is_grey else 1, loader=True, is_grey=is_grey)

    def limit_of(self, bound: ValueBound) -> int:
        """The largest multiple in an operand with this bound that counts as integer."""
        limit = limit_of(bound, self.max_k)
        return max(limit, MOST_MULTIPLES) if self.input_kind is not None and bound.loader else limit

    def requests_of(self, writer: tuple[str, int]) -> Mapping[Hashable, ScanRequest]:
        """How the output of a (layer, invocation) was read, in this batch and earlier ones."""
        return self._requests.get(writer, {})

    def scan_operand(self, x: Tensor, trace: TensorTrace, batch: BatchShape, reader: Reader) -> tuple[NonzeroSums, int]:
        """Scan of a tensor as (R, channels, positions), and its elements per row."""
        arrange = functools.partial(
            as_rows_first, roles=trace.roles, timed=trace.timed, batch=batch, where=reader.layer
        )
        rows = arrange(x)
        r = rows.shape[0]
        channels = rows.shape[1] if rows.dim() > 1 else 1
        positions = rows[0, 0].numel() if rows.dim() > 1 and r and channels else 1
        return self.scan_as(x, arrange, ((r, channels, positions), 1), trace, reader), channels * positions

    def scan_as(
        self,
        whole: Tensor,
        arrange: Arrange,
        layout: SumLayout,
        trace: TensorTrace,
        reader: Reader,
        needs_levels: bool = True,
    ) -> NonzeroSums:
        """Scan of a tensor in a layout, its axes reordered by ``arrange``.

        The scan is shared by all readers of the same memory in the same layout: equal address, shape and stride mean
        equal values (a change in place creates a new trace with new scans).
        """
        x = arrange(whole)
        is_memory = x.data_ptr() == whole.data_ptr()
        in_order = is_memory and x.is_contiguous()
        key: Hashable = (layout, needs_levels)
        if not in_order:
            key = (
                (key, x.shape, x.stride())
                if is_memory
                else (key, whole.shape, whole.stride(), trace.roles, trace.timed)
            )
        request = ScanRequest(layout, needs_levels, reader.layer, reader.operand, reader.invocation)
        if in_order and trace.scans.writer is not None:
            self._requests.setdefault(trace.scans.writer, {}).setdefault(key, request)
        found = trace.scans.get(key)
        if found is None:
            found = trace.scans[key] = self.scan_uncached(x, trace, request)
        elif self._cross_check:
            _require_same_nonzeros(found, x, request)
        if self.is_recorded:
            self.scanned.append(ScannedOperand(whole, arrange, layout, trace, reader, needs_levels, found))
        return found

    def scan_uncached(self, x: Tensor, trace: TensorTrace, request: ScanRequest) -> NonzeroSums:
        """Scan a tensor without reuse of earlier scans of its memory."""
        layout, needs_levels, where, operand, invocation = request
        declared = self.input_kind is not None and trace.bound.loader
        max_k = max(searched_for(self.limit_of(trace.bound), trace.bound.loader), trace.bound.max_k)
        is_known_real = (where, invocation, operand) in self.known_real and not declared
        history = (trace.scans.writer, request)
        known, guess = self._levels_seen.get(history, frozenset()), self._values_seen.get((where, operand), ZERO)
        found, extremes = scan(
            x, layout[0], trace.bound, max_k, where, is_known_real, layout[1], needs_levels, known, guess
        )
        values = found.values
        if trace.scans.writer and values and values.unit == trace.bound.unit and math.gcd(*values.levels) == 1:
            self._levels_seen[history] = values.levels
        if values is not None and values.unit is not None and values.reason is None:
            self._values_seen[where, operand] = values
        if extremes is not None:
            self.add_range(where, extremes)
        if found.values is not None and trace.bound.loader:
            check_declared_kind(found.values, self.input_kind, where)  # raises if they are not as declared
        return found

    def prescan(self, out: Tensor, trace: TensorTrace) -> None:
        """Scan a result in the layouts that earlier batches read, while it is in the processor cache."""
        if trace.scans.writer is None or not trace.bound.proven or trace.bound.loader or not out.is_contiguous():
            return
        for key, request in self.requests_of(trace.scans.writer).items():
            if math.prod(request.layout[0]) == out.numel():
                trace.scans[key] = self.scan_uncached(out, trace, request)


class StaleScanError(AssertionError):
    """A reused scan does not match the values: they changed without being tracked."""


def _require_same_nonzeros(found: NonzeroSums, x: Tensor, request: ScanRequest) -> None:
    """Raise StaleScanError if the non-zeros of a scan are not those of the tensor."""
    shape, dim = request.layout
    if not torch.equal(found.nonzeros, (x.reshape(shape) != 0).sum(dim, dtype=torch.int32)):
        raise StaleScanError(f"{request.where}: the {request.operand} operand changed after it was scanned")


def as_it_is(x: Tensor) -> Tensor:
    """The tensor with its axes in their order."""
    return x
