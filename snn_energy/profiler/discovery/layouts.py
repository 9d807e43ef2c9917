"""Where time is in what a neuron reads, by the shapes for two and three samples and by which outputs follow which."""

from __future__ import annotations

import math

from torch import Tensor

from snn_energy.profiler.discovery.observe import ModuleObservation
from snn_energy.profiler.neurons.foreign import SAMPLE_TO_SAMPLE
from snn_energy.profiler.neurons.spec import LAYOUTS, Layout, NeuronSpec
from snn_energy.running.time_mode import SAMPLES

Found = tuple[Layout, int] | str  # layout and time steps per call, or why there are none


def layout_of(
    two: ModuleObservation, three: ModuleObservation, spec: NeuronSpec, steps: int | None, is_single: bool
) -> Found:
    """(layout, time steps per call) of a neuron observed for two and three samples, or why none fits.

    steps: T as declared. is_single: the loader's batch holds one sample. Samples may be joined with other data, such as
    the windows of an image.
    """
    fewer, more = SAMPLES
    first, second = two.shapes[0], three.shapes[0]
    grows = [axis for axis, (a, b) in enumerate(zip(first, second, strict=False)) if a * more == b * fewer]
    if len(first) != len(second) or not grows:
        return f"reads {first} for two samples and {second} for three: no axis of samples"
    axis, size, known = grows[0], first[grows[0]] // fewer, spec.layout
    if axis == 1 and known in ("time-first", None):
        return "time-first", first[0]
    if axis == 0 and known == "batch-first" and len(first) > 1:
        return "batch-first", first[1]
    if axis == 0 and known == "time-last":
        return "time-last", first[-1]
    if axis == 0 and (known == "step" or (known is None and size == 1)):
        return "step", 1
    if axis == 0 and known in ("flat-batch", None):
        return "flat-batch", size
    if axis == 0 and known == "time-first" and spec.known_by == "its class":
        if is_single:  # (T*1, ...)
            return "time-first", size
        return f"reads {first} for two samples: {SAMPLE_TO_SAMPLE}"
    if axis == 0 and known == "time-first" and (found := _flat_layout(two, three, size, steps)) is not None:
        return found
    return f"wants {LAYOUTS[known or 'step']} and reads {first} for two samples"


def _flat_layout(
    two: ModuleObservation, three: ModuleObservation, size: int, steps: int | None
) -> tuple[Layout, int] | None:
    """The layout of a neuron that reads time and samples in one axis, ``size`` rows per sample.

    Time major, the rows that follow the first one lie further apart with more samples; sample major, they do not.
    """
    fewer, more = SAMPLES
    if not two.reached or not three.reached:
        return None
    stride, rows = math.gcd(*two.reached), fewer * size
    if {row * more for row in two.reached} == {row * fewer for row in three.reached}:
        is_declared = steps is not None and rows % steps == 0 and stride % (rows // steps) == 0
        return "flat", steps if steps is not None and is_declared else rows // stride
    if two.reached == three.reached and max(two.reached) < size:
        is_declared = steps is not None and size % steps == 0 and stride % (size // steps) == 0
        return "flat-batch", steps if steps is not None and is_declared else size // stride
    return None


def declared_layout(observation: ModuleObservation, spec: NeuronSpec, steps: int) -> NeuronSpec | None:
    """The layout of a neuron found in one run, where T is declared; None: as it was found."""
    if spec.layout != "time-first" or not observation.reached or steps < 2:
        return None
    rows = observation.shapes[0][0]
    if rows == steps or rows % steps:
        return None
    is_time_major = all(row % (rows // steps) == 0 for row in observation.reached)
    return NeuronSpec(spec.framework, spec.known_by, "flat" if is_time_major else "flat-batch")


def steps_first(x: Tensor, layout: Layout | None, steps: int) -> Tensor | None:
    """What a neuron reads, with its time axis in front; None where it reads one step a call."""
    if layout == "time-first":
        return x
    if layout in ("batch-first", "time-last"):
        return x.movedim(1 if layout == "batch-first" else -1, 0)
    if layout in ("flat", "flat-batch") and x.shape[0] % steps == 0:
        shape = (steps, -1, *x.shape[1:]) if layout == "flat" else (-1, steps, *x.shape[1:])
        return x.reshape(shape) if layout == "flat" else x.reshape(shape).movedim(1, 0)
    return None
