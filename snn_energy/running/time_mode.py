"""Time modes: where the time axis is in the input of a network, and how the network is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.running.inputs import Inputs, as_taken, call, main_of
from snn_energy.running.outputs import result_of

Layout = Literal["axis0", "axis1", "axis-last", "flat", "flat-batch"]
SHAPES: dict[Layout, str] = {
    "axis0": "(T, B, ...)",
    "axis1": "(B, T, ...)",
    "axis-last": "(B, ..., T)",
    "flat": "(T*B, ...)",
    "flat-batch": "(B*T, ...)",
}


SAMPLES = (2, 3)  # of the runs that look at a network: the axis that grows is that of samples

FIRST_STEPS = 8  # of a network that is called once per time step, when it is inspected


@dataclass(frozen=True)
class TimeMode:
    """One way in which a network gets its time steps (``core.vocabulary.TIME_MODES``).

    layout: order of T and B in a batch with time; None if it has only samples. repeats_input: the loader gives only
    samples, and the layout is that of T copies of them. calls_per_step: the network is called once per time step.
    """

    name: str
    layout: Layout | None = None
    repeats_input: bool = False
    calls_per_step: bool = False

    @property
    def given(self) -> Layout | None:
        """Layout of the loader's batches; None if they hold only samples."""
        return None if self.repeats_input else self.layout

    @property
    def read(self) -> Layout | None:
        """Layout of the input of one network call; None if it holds only samples."""
        return None if self.calls_per_step else self.layout

    @property
    def has_one_input(self) -> bool:
        """True where all steps run in one go: an operation on values constant over time is constant over time."""
        return not self.calls_per_step and self.name != "loop"

    @property
    def steps_in_front(self) -> bool:
        """True if the rows of a flat batch are time major, False if they are sample major."""
        return self.layout in ("axis0", "flat")

    def samples_of(self, x: Any, steps: int) -> int:
        """Number of samples in a batch. Raises ProfilingError if its shape does not fit the mode."""
        x = main_of(x)
        if isinstance(x, Tensor) and (x.is_complex() or x.layout != torch.strided):
            raise ProfilingError(f"the loader gave a {x.dtype} tensor of layout {x.layout}; give dense real numbers")
        if not isinstance(x, Tensor) or x.dim() == 0:
            raise ProfilingError(f"the loader must give tensors with samples in front, not {type(x).__name__}")
        has_axes = self.given in ("axis0", "axis1", "axis-last")
        if (x.dim() > 1 and 0 in x.shape[1:]) or (x.dim() == 1 and has_axes):
            raise ProfilingError(f"the loader gave {tuple(x.shape)}; every axis behind the samples must hold something")
        if has_axes:
            time, samples = {"axis0": (0, 1), "axis1": (1, 0)}.get(self.given or "", (x.dim() - 1, 0))
            if x.dim() < 2 or x.shape[time] != steps:
                assert self.given is not None
                wanted = SHAPES[self.given].replace("T", f"T={steps}")
                raise ProfilingError(f"time='{self.name}' wants {wanted}, the loader gave {tuple(x.shape)}")
            return int(x.shape[samples])
        if self.given is None:
            return int(x.shape[0])
        self._require_whole_steps(x, steps)
        return int(x.shape[0]) // steps

    def _require_whole_steps(self, x: Tensor, steps: int) -> None:
        if x.shape[0] % steps:
            order = "T*B" if self.given == "flat" else "B*T"
            raise ProfilingError(
                f"time='{self.name}' wants ({order}, ...) with T={steps}, the loader gave {tuple(x.shape)}"
            )

    def first_samples(self, x: Any, samples: int, steps: int) -> Any:
        """``samples`` samples of a batch with all their time steps; a smaller batch is repeated cyclically.

        Raises ProfilingError if there are no samples, or if T does not divide the number of rows.
        """
        if isinstance(x, Inputs):
            held = self.samples_of(x, steps)

            def first(part: Tensor) -> Tensor:
                layout = self.layout_of(part, x, held)
                if layout == "constant":
                    return part
                mode = self if layout == "batch" else TimeMode("inside")
                taken: Tensor = mode.first_samples(part, samples, steps)
                return taken

            return x.map(first)
        if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
            raise ProfilingError(
                "the loader must give tensors with at least one sample in front to look at the model with"
            )
        is_flat = self.given in ("flat", "flat-batch")
        if is_flat:
            self._require_whole_steps(x, steps)
            x = x.unflatten(0, (steps, -1) if self.given == "flat" else (-1, steps))
        axis = 1 if self.given in ("axis0", "flat") else 0
        chosen: Tensor = x.index_select(axis, torch.arange(samples, device=x.device) % x.shape[axis])
        return chosen.flatten(0, 1) if is_flat else chosen

    def layout_of(self, part: Tensor, x: Tensor | Inputs, samples: int) -> Literal["batch", "samples", "constant"]:
        """What one of several inputs holds: all that the first one does in front, samples alone, or neither."""
        in_front = 2 if self.given in ("axis0", "axis1") else 1
        if part.dim() >= in_front and part.shape[:in_front] == x.shape[:in_front]:
            return "batch"
        return "samples" if part.dim() and part.shape[0] == samples else "constant"

    def feed(self, x: Any, steps: int) -> list[Any]:
        """Inputs of the network, one item per call: T of them with ``calls_per_step``, else one."""
        if isinstance(x, Inputs):
            held, calls = self.samples_of(x, steps), steps if self.calls_per_step else 1
            fed = {
                id(part): self.feed(part, steps) if self.layout_of(part, x, held) == "batch" else [part] * calls
                for part in x.tensors()
            }

            def at_call(number: int) -> Inputs:
                return x.map(lambda part: fed[id(part)][number])

            return [at_call(number) for number in range(calls)]
        if self.calls_per_step:
            return [x] * steps if self.repeats_input else list(x)
        return [repeated(x, self.layout, steps)] if self.repeats_input and self.layout else [x]

    def first_steps(self, steps: int) -> int:
        """How many time steps show what a network does: all, or the first ones where each is a call of its own."""
        return min(steps, FIRST_STEPS) if self.calls_per_step else steps

    def of_first_steps(self, x: Any, steps: int) -> Any:
        """The first steps of a batch that holds one call of the network per time step; else the batch."""
        return x[:steps] if self.calls_per_step and not self.repeats_input and isinstance(x, Tensor) else x

    def run(self, model: nn.Module, x: Any, steps: int) -> Any:
        """Output of the network for a batch; a list of T outputs with ``calls_per_step``."""
        given = self.feed(x, steps)
        return call_per_step(model, given) if self.calls_per_step else call(model, given[0])

    def logits(self, out: Any, steps: int, samples: int) -> Tensor | None:
        """Logits (B, classes) from the result of ``run``, averaged over time steps; None if its shape does not fit.

        Of several results ``outputs.result_of`` is used: neurons return their potentials after their spikes.
        """
        if self.calls_per_step:
            parts = [result_of(part) for part in out]
            if not all(isinstance(part, Tensor) for part in parts):
                return None
            out = torch.stack([part.float() for part in parts]).mean(0)
        out = result_of(out)
        if not isinstance(out, Tensor):
            return None
        if self.layout == "axis-last" and out.dim() == 3 and out.shape[::2] == (samples, steps):
            out = out.movedim(2, 0)
        is_flat = self.layout in ("flat", "flat-batch")
        if out.dim() == 2 and is_flat and len(out) == steps * samples != samples:
            out = out.unflatten(0, (steps, samples) if self.steps_in_front else (samples, steps))
        if out.dim() == 3 and out.shape[:2] == (samples, steps) and self.layout in ("axis1", "flat-batch"):
            out = out.transpose(0, 1)
        if out.dim() == 3 and out.shape[:2] == (steps, samples):
            out = out.float().mean(0)
        return out if out.dim() == 2 and len(out) == samples else None


MODES: dict[str, TimeMode] = {
    mode.name: mode
    for mode in (
        TimeMode("inside"),
        TimeMode("loop"),
        TimeMode("axis0", "axis0"),
        TimeMode("axis1", "axis1"),
        TimeMode("axis-last", "axis-last"),
        TimeMode("flat", "flat"),
        TimeMode("flat-batch", "flat-batch"),
        TimeMode("call", None, repeats_input=True, calls_per_step=True),
        TimeMode("call-axis0", "axis0", calls_per_step=True),
        TimeMode("repeat-axis0", "axis0", repeats_input=True),
        TimeMode("repeat-axis1", "axis1", repeats_input=True),
        TimeMode("repeat-flat", "flat", repeats_input=True),
        TimeMode("repeat-flat-batch", "flat-batch", repeats_input=True),
    )
}
assert list(MODES) == list(TIME_MODES)


def repeated(x: Tensor, layout: Layout, steps: int) -> Tensor:
    """(B, ...) repeated T times: (T, B, ...), (B, T, ...), (T*B, ...) or (B*T, ...)."""
    axis = 0 if layout in ("axis0", "flat") else 1
    stacked = x.unsqueeze(axis).repeat([steps if i == axis else 1 for i in range(x.dim() + 1)])
    return stacked if layout in ("axis0", "axis1") else stacked.flatten(0, 1)


def call_per_step(model: nn.Module, xs: Sequence[Any], before: Callable[[int], None] | None = None) -> list[Any]:
    """Outputs of the model, called once per time step. A state that it returns is passed to its next call.

    It returns a state if its forward has a second argument that defaults to None and it returns a pair.
    ``before`` is called with the step index before each call.
    """
    outs: list[Any] = []
    takes_state = accepts_a_state(model) and not isinstance(xs[0], Inputs)
    for step, x in enumerate(xs):
        if before is not None:
            before(step)
        gives_state = takes_state and outs and isinstance(outs[-1], tuple) and len(outs[-1]) == 2
        outs.append(model(x, outs[-1][1]) if gives_state else call(model, x))
    return outs


def require_one_argument(model: nn.Module, x: Any) -> None:
    """Raise ProfilingError if a forward cannot be called with only the batch."""
    if isinstance(x, Inputs):
        as_taken(model, x)
        return
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError as misfit:
        raise ProfilingError(
            f"{type(model).__name__}: its forward cannot be called with one tensor ({misfit}); give several inputs as "
            "((x1, x2), y) or ({'name': x}, y), or wrap it in a module whose forward takes the batch alone"
        ) from misfit
    except ValueError:  # forward has no signature
        return


def accepts_a_state(model: nn.Module) -> bool:
    """True if a forward has exactly one argument after the batch, and it defaults to None."""
    try:
        further = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    is_positional = len(further) == 1 and further[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return is_positional and further[0].default is None
