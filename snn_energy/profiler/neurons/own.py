"""One call of a LIF or DTSS layer: its spikes and its mask. Its arithmetic is the neuron update and has no rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.profiler.axes.roles import BatchShape, Roles
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.records import record_at
from snn_energy.profiler.rules.registry import BatchContext
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.bounds import SEVERAL_SPIKES, spikes
from snn_energy.profiler.values.exact_sums import whole_sums
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import Reader, ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

LIF_STATE_VARIABLES = 1  # the potential of a LIF or DTSS


class NeuronCall(NamedTuple):
    """A call of a neuron: its input with the trace of it, and the spikes that it returned.

    is_known: no hook or override can have changed its output, so the spikes are those of its class.
    """

    layer: str
    site: CallSite
    current: Tensor
    trace: TensorTrace
    spike: Tensor
    is_known: bool


def is_unhooked(module: nn.Module) -> bool:
    """True if no hook except the counting mode's, and no replaced forward, can change the output of a module."""
    own_hooks = 1  # of the counting mode
    return "forward" not in vars(module) and len(module._forward_hooks) == own_hooks and not _global_forward_hooks


def is_unmodified_lif(module: nn.Module) -> bool:
    """True for an unmodified LIF or DTSS; a subclass or a hook may return something else."""
    return type(module) in (LIF, DTSS) and is_unhooked(module)


def require_steps(call: NeuronCall, out: object, batch: BatchShape) -> None:
    """Raise ProfilingError if a neuron does not map (T, B, ...) to the same shape."""
    layer, current, steps = call.layer, call.current, batch.time_steps
    if not call.trace.timed and steps > 1:
        raise ProfilingError(f"{layer}: the neuron wants (T, B, ...) but no time axis reaches it; declare time=")
    if current.shape[0] != steps:
        raise ProfilingError(f"{layer}: the neuron reads {current.shape[0]} time steps but time_steps={steps}")
    if not isinstance(out, Tensor) or out.shape != current.shape:
        raise ProfilingError(f"{layer}: a neuron must give one tensor of the shape that it reads")


def own_neuron(module: LIF, call: NeuronCall, steps: Sequence[int], context: BatchContext) -> Outcome:
    """The outcome of one call, without the counts. steps: the active steps that the observer recorded."""
    batch, is_known = context.shape, call.is_known
    if steps and is_known:
        active = np.zeros(batch.time_steps, dtype=np.bool_)
        active[list(steps)] = True
    else:
        active = (module.time_step_mask(batch.time_steps) > 0).cpu().numpy()
    record = record_at(call.site, context, "neuron", "neuron", [call.trace], call.spike)
    record.active, record.constant, record.timed, record.step = active, False, True, None
    record.state_variables = LIF_STATE_VARIABLES
    record.neurons = record.output_elements = call.spike.numel() // max(1, batch.rows(True))
    bound = spikes(module.amplitude) if is_known else SEVERAL_SPIKES  # of a subclass
    facts = TensorFacts(call.trace.roles, True, None, active, False, frozenset(), bound)
    return Outcome(record, [(call.spike, TensorTrace(facts))])


def has_sums(call: NeuronCall, observer: SpikeObserver, batch: BatchShape) -> bool:
    """True if the observer's sums are those of the neuron's output."""
    in_order: Roles = ("T" if batch.time_steps > 1 else None, "B" if batch.samples > 1 else None)
    was_observed = bool(observer.sums) and call.is_known
    return was_observed and call.trace.roles[:2] == in_order and call.spike.is_contiguous()


def count_spikes(
    module: LIF,
    call: NeuronCall,
    record: OperationRecord,
    result: TensorTrace,
    observer: SpikeObserver,
    batch: BatchShape,
    scans: ScanCache,
) -> None:
    """Set the spikes of a record, from the observer's sums if it has them, and register what must be finite."""
    # With soft reset, NaN and infinity stay in the potential, so the last one is tested; a hard reset loses them.
    potential, current = observer.last_potential, call.current
    if module.rule == "paper" and potential is not None and call.is_known:
        scans.add_range(record.layer, potential.sum(dtype=wide_enough(potential)))
    elif current.numel():
        scans.add_range(record.layer, torch.stack(torch.aminmax(current)))
    if has_sums(call, observer, batch):
        result.scans.writer = record.layer, record.invocation
        for sums in observer.sums:
            found = NonzeroSums(whole_sums(sums.of_steps.flatten(0, 1), module.amplitude), None, None, result.bound)
            result.scans[sums.layout, True] = result.scans[sums.layout, False] = found
    else:
        found, _ = scans.scan_operand(call.spike, result, batch, Reader(record.layer, record.invocation, "spikes"))
    record.fired, record.is_amplitude_known = found, result.bound.proven  # a subclass may emit anything


def wide_enough(x: Tensor) -> torch.dtype:
    """A dtype in which a sum that is tested for NaN and infinity does not overflow."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
