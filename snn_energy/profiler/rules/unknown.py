"""Functions without a counting rule: a named row without counts; everything downstream counts as active."""

from __future__ import annotations

import numpy as np

from snn_energy.profiler.axes.roles import Roles
from snn_energy.profiler.rules.records import record_of
from snn_energy.profiler.rules.registry import BatchContext, Call, RuleEntry, rule
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import NOTHING
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


def unsupported(call: Call, context: BatchContext) -> Outcome:
    """A row without counts."""
    x, trace = call.inputs[0]
    record = record_of(call, context, "unsupported", call.traces, call.name)
    record.note = call.name
    made = []
    for out in call.outputs:
        kept = [role if i < out.dim() and out.shape[i] == x.shape[i] else None for i, role in enumerate(trace.roles)]
        roles: Roles = (*kept, *[None] * out.dim())[: out.dim()]
        active = np.ones_like(trace.active)
        facts = TensorFacts(roles, trace.timed, trace.step, active, trace.constant, frozenset(), NOTHING)
        made.append((out, TensorTrace(facts)))
    return Outcome(record, made)


# Several layers in one call, whose parts would be named differently in each step.
@rule(
    "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell lstm gru rnn_tanh rnn_relu",
    forgets_inputs=True,
)
def recurrent_cell(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """A recurrent layer of torch in one call: unsupported."""
    return unsupported(call, context)


UNKNOWN = RuleEntry(recurrent_cell, forgets_inputs=True)  # for every unregistered name
