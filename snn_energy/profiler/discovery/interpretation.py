"""What a run on a few samples determines: where time is, how many steps there are, and what spikes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.running.time_mode import MODES, TimeMode


@dataclass(frozen=True)
class Interpretation:
    """time, time_steps: as arguments of ``profile``. found: how they were determined. spiking: layer -> its NeuronSpec.

    decomposed_layers: neurons with weights, or subclasses that do more; counted as the operations they are made of.
    """

    time: str
    time_steps: int
    found: str
    spiking: Mapping[str, NeuronSpec]
    decomposed_layers: frozenset[str] = frozenset()

    @property
    def mode(self) -> TimeMode:
        """How the network gets its input and is called."""
        return MODES[self.time]
