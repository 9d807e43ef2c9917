"""A later batch: its events are compared with a script, and its values are scanned; under a cross-check also walked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.neurons.count import NOWHERE, follow_foreign_neuron, follow_own_neuron
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.plain_layers import is_weight_layer, plain_call
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import Call, PartCall, find, plain_name
from snn_energy.profiler.tracking.follower import Follower, ReplayError
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationLog
from snn_energy.profiler.tracking.script import CallStep
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.walk import ON_CONSTANT, OVER_TIME, Walk, is_at_rest, parts_over_time


def follow_call(raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, follower: Follower) -> bool:
    """Compare a function that has returned; False if it is not the next event of the script."""
    step = follower.call(raw, args, kwargs, out)
    if isinstance(step, CallStep) and step.inputs:
        entry = find(plain_name(raw))
        if entry is not None and entry.parts is not None:
            made = list(tensors_in([out]))
            call = Call(plain_name(raw), args, kwargs, follower.traced_inputs(step), made, NOWHERE)
            _follow_parts(entry.parts(call), follower)
    return step is not False


def follow_plain_layer(module: nn.Module, x: Tensor, out: Any, follower: Follower) -> bool:
    """Compare a layer that is one function call; False if it is not the next event of the script."""
    name, args, kwargs = plain_call(module, x)
    if isinstance(out, Tensor) and is_weight_layer(module) and not follower.is_traced(x):
        facts = (is_at_rest(x, follower.parameters),)
        return follower.call(ON_CONSTANT, args, kwargs, out, facts) not in (True, False)
    if not follower.expects(OVER_TIME):
        return follower.call(name, args, kwargs, out) is not False
    if follower.call(OVER_TIME, args, kwargs, out) is False:
        return False
    _follow_parts(parts_over_time(module, x, out), follower)
    return True


def _follow_parts(parts: Iterable[PartCall], follower: Follower) -> None:
    for name, args, out in parts:
        if follower.call(name, args, {}, out) is False:
            raise ReplayError(f"'{name}' is another part of the same call than before")


def follow_neuron(
    module: nn.Module,
    spec: NeuronSpec | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    follower: Follower,
    observer: SpikeObserver,
    batch: BatchShape,
) -> bool:
    """Count the spikes of a neuron; False if its call is not the next event of the script."""
    if spec is not None:
        return follow_foreign_neuron(module, spec, args, kwargs, out, follower, batch)
    assert isinstance(module, LIF)
    return follow_own_neuron(module, args, kwargs, out, follower, observer, batch)


def are_same_sums(joint: NonzeroSums | None, one: NonzeroSums | None) -> bool:
    """True if sums of one time step, scanned with other steps or alone, are equal.

    The steps may share a smaller unit, of which each value is a multiple within 4 units in its last place.
    """
    if joint is None or one is None:
        return joint is one
    if joint.nonzeros.shape != one.nonzeros.shape:  # spikes, scanned as their reader needs them
        rows = math.gcd(len(joint.nonzeros), len(one.nonzeros))
        sums = [scan.nonzeros.reshape(rows, -1).sum(1) for scan in (joint, one)]
        return torch.equal(*sums) and joint.bound == one.bound
    if not torch.equal(joint.nonzeros, one.nonzeros):
        return False
    if joint.values is None or one.values is None or "real" in (joint.values.kind, one.values.kind):
        return joint.bound == one.bound
    a, b = ((s.nonzeros if s.levels is None else s.levels) * (s.values.unit or 1.0) for s in (joint, one) if s.values)
    return torch.allclose(a, b, rtol=2.0 ** (3 - one.values.bits), atol=0.0)


class CrossCheck:
    """A follower beside the full walk of the same batch: it must find what the walk finds, or depart."""

    def __init__(self, follower: Follower) -> None:
        self.follower, self.scans, self.table = follower, follower.scans, follower.table
        self.has_departed = False

    def event(self, same: Callable[[Follower], bool | CallStep], walk: Walk, modules: Mapping[str, nn.Module]) -> None:
        """The next event, before it is walked. Raises ReplayError where the follower departs in another state."""
        if self.has_departed:
            return
        self.scans.is_recorded = False
        try:
            self.has_departed = same(self.follower) is False
        finally:
            self.scans.is_recorded = True
        if self.has_departed:
            self._require_same_state(walk, modules)

    def _require_same_state(self, walk: Walk, modules: Mapping[str, nn.Module]) -> None:
        scopes = ModuleScopes(walk.scopes.model, walk.scopes.is_leaf)
        records = self.follower.hand_over(scopes, self.table, modules)
        self._require_same_records(walk.log, records)
        if scopes.stack != walk.scopes.stack:
            raise ReplayError("a pass that departs from its script goes on in other modules")
        for ref in self.follower.slots.refs:
            tensor = ref()
            if tensor is None:
                continue
            mine, walked = self.table.get(tensor), walk.table.get(tensor)
            if (mine is None) != (walked is None) or (mine and walked and not mine.facts.equals(walked.facts)):
                raise ReplayError(f"a pass that departs from its script knows {mine and mine.facts} of a tensor")

    def _require_same_records(self, log: OperationLog, count: int) -> None:
        script = self.follower.script
        mine, deferred = script.records[:count], script.deferred()
        if len(mine) != len(log.records):
            raise ReplayError(f"{len(mine)} operations are followed where {len(log.records)} are counted")
        for followed, walked in zip(mine, log.records, strict=True):
            sides = deferred.get(id(followed), frozenset())
            name = followed.difference(walked, without=sides)
            other = next(
                (side for side in sides if not are_same_sums(getattr(followed, side), getattr(walked, side))), None
            )
            if name or other:
                raise ReplayError(f"{walked.layer}: '{walked.op}' is followed wrongly: another {name or other}")

    def end(self, log: OperationLog) -> bool:
        """True if the whole pass was the same. Raises ReplayError if its operations were not."""
        if self.has_departed or not self.follower.is_complete:
            return False
        self.follower.finish()
        self._require_same_records(log, len(self.follower.script.records))
        return True
