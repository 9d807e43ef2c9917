"""A NIR graph as a network that is called once per time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from snn_energy.checkpoints.nir.nodes import Delay, NIRIntegrator, NIRThreshold
from snn_energy.checkpoints.nir.read import Shape, shape_text
from snn_energy.core.errors import DataError


@dataclass(frozen=True)
class Step:
    """One node in the order of a time step, and the nodes it reads: of this step, and of the step before."""

    name: str
    module: str | None  # None: it passes its input on
    reads: tuple[str, ...]
    reads_previous: tuple[str, ...]


class NIRNetwork(nn.Module):
    """A NIR graph; ``forward`` runs one time step, (B, ...) -> (B, ...), and keeps the state for the next.

    Nodes are submodules under their own names (characters that a module name cannot contain become "_").
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        steps: Sequence[Step],
        entry: str,
        exits: Sequence[str],
        input_shape: Shape,
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.steps, self.entry, self.exits, self.input_shape = tuple(steps), entry, tuple(exits), input_shape
        self.delayed_sources = frozenset(source for step in steps for source in step.reads_previous)
        self.previous_outputs: dict[str, Tensor] = {}  # outputs that the next step reads

    def reset_state(self) -> None:
        """Reset every neuron and delay to rest."""
        self.previous_outputs = {}
        for module in self.children():
            if isinstance(module, NIRIntegrator | NIRThreshold | Delay):
                module.reset_state()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """x: (B, ...) input of one time step. A tuple if the graph has several outputs. Raises DataError."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise DataError(f"the graph reads (B, {shape_text(self.input_shape)}) in every step, not {tuple(x.shape)}")
        values = {self.entry: x}
        for step in self.steps:
            inputs = [values[name] for name in step.reads]
            inputs += [self.previous_outputs[name] for name in step.reads_previous if name in self.previous_outputs]
            total = inputs[0]
            for other in inputs[1:]:
                total = total + other
            values[step.name] = total if step.module is None else self._modules[step.module](total)  # type: ignore[misc]
        self.previous_outputs = {name: values[name] for name in self.delayed_sources}
        outs = tuple(values[name] for name in self.exits)
        return outs[0] if len(outs) == 1 else outs
