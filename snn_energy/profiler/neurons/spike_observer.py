"""Sums of a running neuron's spikes, computed step by step while a step is in the processor cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snn_energy.models.neurons import Observer
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.values.exact_sums import sums_exactly
from snn_energy.profiler.values.scan_cache import SumLayout


class StepSums(NamedTuple):
    """Sums of every time step: ``shape`` of one step, ``of_steps`` (T, A/T, kept) float32, ``steps``: its T views."""

    layout: SumLayout
    shape: tuple[int, int, int]
    of_steps: Tensor
    steps: Sequence[Tensor]

    @classmethod
    def zeros(cls, layout: SumLayout, time_steps: int, device: torch.device) -> StepSums:
        """Zero sums, before the first step."""
        (rows, p, q), dim = layout
        shape = (rows // time_steps, p, q)
        of_steps = torch.zeros(time_steps, shape[0], shape[3 - dim], device=device)
        return cls(layout, shape, of_steps, of_steps.unbind(0))


class SpikeObserver:
    """Sums each step's spikes in every layout in which earlier batches read them; reset for each call of a neuron.

    sums: empty if none were computed. steps: the observed (active) ones, in order. last_potential: of the last one.
    """

    def __init__(self) -> None:
        self.sums: list[StepSums] = []
        self.steps: list[int] = []
        self.last_potential: Tensor | None = None
        self._is_running = False
        self._amplitude, self._batch = 1.0, BatchShape(1, 1)
        self._layouts: tuple[SumLayout, ...] = ()

    def begin(self, amplitude: float, batch: BatchShape, layouts: Iterable[SumLayout]) -> None:
        """Start a neuron's call; ``layouts``: those in which its output was read before."""
        self.sums, self.steps, self.last_potential = [], [], None
        self._is_running = True
        self._amplitude, self._batch, self._layouts = amplitude, batch, tuple(dict.fromkeys(layouts))

    def end(self) -> None:
        """End the neuron's call; observations before the next ``begin`` are ignored."""
        self._is_running = False

    def observe(self, step: int, spike: Tensor, potential: Tensor) -> None:
        """Sum one step's spikes (B, ...) while they are in the processor cache."""
        if not self._is_running:
            return
        if not self.steps and spike.dim() >= 2 and spike.numel() and spike.is_contiguous():
            self.sums = self._room(spike)
        self.steps.append(step)
        for sums in self.sums:
            torch.sum(spike.view(sums.shape), sums.layout[1], dtype=torch.float32, out=sums.steps[step])
        self.last_potential = potential

    def _room(self, spike: Tensor) -> list[StepSums]:
        """Zero sums for every layout; none if float32 would not hold the sums exactly."""
        batch, steps, size = spike.shape[0], self._batch.time_steps, spike.numel()
        if not sums_exactly(self._amplitude, size):
            return []
        by_row: SumLayout = ((steps * batch, size // batch, 1), 1)
        layouts = [one for one in self._layouts if math.prod(one[0]) == steps * size and one[0][0] % steps == 0]
        return [StepSums.zeros(layout, steps, spike.device) for layout in layouts or [by_row]]

    def beside(self, other: Observer) -> Observer:
        """An observer that calls ``other``, the one that was set before, and then this one."""

        def both(step: int, spike: Tensor, potential: Tensor) -> None:
            other(step, spike, potential)
            self.observe(step, spike, potential)

        return both
