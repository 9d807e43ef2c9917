"""Traces of all live tensors of one batch, by object, and writes to their storages."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from snn_energy.profiler.values.bounds import NOTHING, bound_of_choice
from snn_energy.profiler.values.traces import ScanResults, TensorTrace


class TensorTable:
    """Traces of live tensors, which are identified by object, not by address; cleared for every batch.

    A write in place starts a new generation of its storage: what is known of the values of older tensors is invalid.
    puts, written: what was entered since they were last cleared, while ``is_recorded``.
    """

    def __init__(self) -> None:
        self._traces: dict[int, tuple[weakref.ref[Tensor], TensorTrace, int, int]] = {}
        self._layouts: dict[int, tuple[torch.Size, tuple[int, ...]]] = {}  # of tensors, when they were put here
        self._generation: dict[int, int] = {}
        self._writes: dict[int, TensorTrace] = {}
        self._held: list[StorageWeakRef] = []
        self.is_recorded = False
        self.puts: list[tuple[Tensor, TensorTrace, int]] = []
        self.written: list[tuple[Tensor, TensorTrace | None]] = []

    def clear(self) -> None:
        """Forget everything: a new batch begins."""
        self._traces.clear()
        self._layouts.clear()
        self._generation.clear()
        self._writes.clear()
        self._held.clear()
        self.puts.clear()
        self.written.clear()

    def put(self, tensor: Tensor, trace: TensorTrace) -> None:
        """Set the trace of a tensor."""
        storage = tensor.untyped_storage()._cdata
        key = id(tensor)
        generation = self._generation.get(storage, 0)
        self._traces[key] = (weakref.ref(tensor), trace, storage, generation)
        self._layouts[key] = tensor.shape, tensor.stride()
        if self.is_recorded:
            self.puts.append((tensor, trace, generation))

    def put_again(
        self, tensor: Tensor, trace: TensorTrace, generation: int, layout: tuple[torch.Size, tuple[int, ...]]
    ) -> None:
        """Set the trace that a tensor got when its storage had this generation, and the tensor this layout."""
        self._traces[id(tensor)] = (weakref.ref(tensor), trace, tensor.untyped_storage()._cdata, generation)
        self._layouts[id(tensor)] = layout

    def as_put(self, tensor: Tensor) -> Tensor:
        """A traced tensor in the shape that its trace is of, where it was reshaped in place since."""
        shape, stride = self._layouts[id(tensor)]
        is_same = tensor.shape == shape and tensor.stride() == stride
        return tensor if is_same else tensor.as_strided(shape, stride)

    def get(self, tensor: Tensor) -> TensorTrace | None:
        """The trace of a tensor; None if it does not stem from the loader."""
        entry = self._traces.get(id(tensor))
        if entry is None or entry[0]() is not tensor:
            return self._writes_of_untraced(tensor)
        _, trace, storage, generation = entry
        if self._generation.get(storage, 0) != generation:  # changed in place since: the values are unknown
            written = self._writes.get(storage)
            bounds = [trace.bound] if written is None else [trace.bound, written.bound]
            trace = trace.replace(bound=bound_of_choice(bounds), scans=ScanResults(), constant=False)
            if written is not None and len(written.active) == len(trace.active):
                trace = trace.replace(active=trace.active | written.active, sources=trace.sources | written.sources)
            elif written is not None:
                trace = trace.replace(
                    active=trace.active | bool(written.active.any()),
                    sources=trace.sources | written.sources,
                )
        return trace

    def _writes_of_untraced(self, tensor: Tensor) -> TensorTrace | None:
        """The trace of an untraced buffer that was written to through a view: found by its storage, without roles."""
        if not self._writes:
            return None
        written = self._writes.get(tensor.untyped_storage()._cdata)
        if written is None:
            return None
        bound = bound_of_choice([written.bound])
        return written.replace(roles=(None,) * tensor.dim(), bound=bound, scans=ScanResults(), constant=False)

    def mark_written(self, tensor: Tensor, trace: TensorTrace | None) -> None:
        """Record a write to the storage of a tensor: what is known of its values becomes invalid."""
        if self.is_recorded:
            self.written.append((tensor, trace))
        held = StorageWeakRef(tensor.untyped_storage())  # no other storage gets this address while it is held
        self._held.append(held)
        storage = tensor.untyped_storage()._cdata
        self._generation[storage] = self._generation.get(storage, 0) + 1
        if trace is not None:
            before = self._writes.get(storage)
            if before is not None:
                is_part = tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
                bounds = [trace.bound, before.bound] if is_part else [trace.bound]
                trace = trace.replace(sources=trace.sources | before.sources, bound=bound_of_choice(bounds))
            self._writes[storage] = trace

    def forget_values(self, tensor: Tensor) -> None:
        """Discard what is known of the values of a tensor, as they may have changed; keep its origin."""
        trace = self.get(tensor)
        if trace is None:
            return
        trace = trace.replace(bound=NOTHING, scans=ScanResults(), constant=False)
        self.mark_written(tensor, trace)
        self.put(tensor, trace)
