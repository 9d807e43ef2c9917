"""Every event of a forward pass goes to the follower of an earlier batch's script, or to the full walk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.follow import CrossCheck, follow_call, follow_neuron, follow_plain_layer
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.tracking.deferred_scans import defer_scans
from snn_energy.profiler.tracking.follower import Follower
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.repeated_calls import RepeatedCalls, are_alike, last_calls
from snn_energy.profiler.tracking.script import CallStep, Script, Slots
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.walk import Walk

FIRST_FORETOLD = 3  # the first calls of a network from rest differ from the others
TOGETHER = 64  # time steps whose small tensors are scanned together
MOST_TRIALS = 4  # time steps in which two calls are compared


class Events:
    """The first batch of a shape is walked through in full and leaves a script, which later ones only follow.

    Where a batch differs from the script, the full walk goes on from there. follower: None while a batch is walked
    through. followed_batches: number of batches that were the same as a script throughout. cross_check: every batch is
    walked through, and compared with what a follower finds.
    """

    def __init__(self, scopes: ModuleScopes, scans: ScanCache, observer: SpikeObserver, *, cross_check: bool) -> None:
        self.scopes, self.scans, self.observer = scopes, scans, observer
        self.walk = Walk(scopes, scans, observer)
        self.calls, self.table, self.log = self.walk.calls, self.walk.table, self.walk.log
        self.follower: Follower | None = None
        self.followed_batches = 0
        self.modules: Mapping[str, nn.Module] = {}
        self._is_checked = cross_check
        self._check: CrossCheck | None = None
        self._repeated: RepeatedCalls | None = None
        self._trials = 0
        self._scripts: dict[BatchShape, Script] = {}

    def begin_run(self, modules: Mapping[str, nn.Module], parameters: Mapping[int, Mapping[int, str]]) -> None:
        """The modules of the model by name, and the names of its parameters by storage and offset."""
        self.modules = modules
        self.calls.context = replace(self.calls.context, parameters=parameters)
        self.walk.recorder.parameters = parameters

    def begin_batch(self, batch: BatchShape) -> None:
        """Forget the last forward pass; counts of a new one start."""
        self.log.begin_batch()
        self.calls.context = replace(self.calls.context, shape=batch, records=self.log.records)
        self.scans.begin_batch()
        self.table.clear()
        self.calls.slots.clear()
        self.follower, self._check, self._repeated, self._trials = None, None, None, MOST_TRIALS
        script, parameters = self._scripts.get(batch), self.calls.context.parameters
        if script is not None and not self._is_checked:
            self.walk.recorder.stop()
            self.follower = Follower(script, self.calls.slots, self.table, self.scans, parameters)
            return
        if script is not None:
            self._check = CrossCheck(Follower(script, Slots(), TensorTable(), self.scans, parameters))
        self.walk.recorder.begin_batch()

    def end_batch(self) -> None:
        """Finish the counts, and keep the script of a batch that was walked through."""
        if self.follower is not None and not self.follower.is_complete:
            self._depart()
        is_checked = self._check is not None and self._check.end(self.log)
        if self.follower is not None and self._repeated is not None:
            self.walk.resume(self.follower, self.modules)
            self._keep(self.walk.recorder.script())
        elif self.follower is not None:
            self.follower.finish()
            self.log.records = self.follower.script.records
            self.followed_batches += 1
        elif is_checked and self._repeated is None:
            self.followed_batches += 1
        else:
            self._keep(self.walk.recorder.script())

    def _keep(self, script: Script | None) -> None:
        if script is None:
            self._scripts.pop(self.calls.context.shape, None)
        else:
            self._scripts[self.calls.context.shape] = script

    def defer_scans(self, families: Sequence[Sequence[int]]) -> None:
        """From now on, small tensors of operations that are one layer in several time steps are scanned together."""
        script = self._scripts.get(self.calls.context.shape)
        if script is not None and script.records is self.log.records:
            script.groups += defer_scans(script.steps, script.records, families)

    def _depart(self) -> None:
        """This batch differs from the script: from here on, it is walked through in full."""
        if self.follower is not None:
            follower, self.follower, self._repeated = self.follower, None, None
            self.walk.resume(follower, self.modules)

    def _to_walk(self, same: Callable[[Follower], bool | CallStep]) -> Walk:
        """The walk, for the next event. same: compares the event with a script, where that is cross-checked."""
        self._depart()
        if self._check is not None:
            self._check.event(same, self.walk, self.modules)
        return self.walk

    def _foretell(self) -> None:
        """Follow the next call of the model too, if the last two were alike."""
        if self._repeated is None and self.follower is None and self._check is None and self._trials:
            recorder = self.walk.recorder
            calls = last_calls(recorder.steps, self.log.records, 2)
            self._trials -= 1
            if recorder.broken or len(calls) < 2 or not are_alike(*calls):
                return
            slots, records = self.calls.slots, self.log.records
            if self._is_checked:
                slots, records = self.calls.slots.copy(), list(records)
            of_call = [[calls[1].record + index] for index in range(len(calls[1].records))]
            groups = defer_scans(calls[1].events, self.log.records, of_call, TOGETHER)
            script, parameters = Script(list(recorder.steps), records, [], groups), self.calls.context.parameters
            follower = Follower(script, slots, self.table, self.scans, parameters, len(script.steps))
            self._repeated = RepeatedCalls(follower, calls)
            if self._is_checked:
                self._check = CrossCheck(follower)
            else:
                recorder.stop()
                self.follower = follower
        if self._repeated is not None and self._repeated.follower.is_complete:
            self._repeated.foretell()

    # ---- events -----------------------------------------------------------------------------------------------

    def begin_call(self, step: int | None) -> None:
        """A call of the model begins; step: its time step, None if time is inside the model."""
        self.calls.context = replace(self.calls.context, step=step)
        if step is not None and step >= FIRST_FORETOLD:
            self._foretell()
        if self.follower is None or not self.follower.begin_call(step):
            self._to_walk(lambda check: check.begin_call(step)).begin_call(step)

    def input(self, x: Tensor, layout: str | None, constant: bool, bound: ValueBound) -> None:
        """A tensor of the loader is the network's input."""
        if self.follower is None or not self.follower.input(x, layout, constant, bound):
            self._to_walk(lambda check: check.input(x, layout, constant, bound)).input(x, layout, constant, bound)

    def enter(self, name: str, module: nn.Module) -> None:
        """The forward of a module begins."""
        if self.follower is None or not self.follower.enter(name):
            self._to_walk(lambda check: check.enter(name)).enter(name, module)

    def leave(self, name: str, module: nn.Module, out: Any) -> None:
        """The forward of a module ended."""
        if self.follower is None or not self.follower.leave(name):
            self._to_walk(lambda check: check.leave(name)).leave(name, module, out)

    def neuron(self, module: nn.Module, spec: NeuronSpec | None, args: Any, kwargs: Any, out: Any) -> None:
        """A neuron has returned; ``spec``: of all classes but LIF."""

        def same(follower: Follower) -> bool:
            return follow_neuron(module, spec, args, kwargs, out, follower, self.observer, self.calls.context.shape)

        if self.follower is None or not same(self.follower):
            self._to_walk(same).neuron(module, spec, args, kwargs, out)

    def plain_layer(self, module: nn.Module, x: Tensor, out: Any) -> None:
        """A layer that is one function call has returned."""

        def same(follower: Follower) -> bool:
            return follow_plain_layer(module, x, out, follower)

        if self.follower is None or not same(self.follower):
            self._to_walk(same).plain_layer(module, x, out)

    def call(self, raw: str, args: Any, kwargs: Any, out: Any) -> None:
        """A function has returned."""
        if self.follower is None or not follow_call(raw, args, kwargs, out, self.follower):
            self._to_walk(lambda check: follow_call(raw, args, kwargs, out, check)).call(raw, args, kwargs, out)

    # ---- questions --------------------------------------------------------------------------------------------

    def is_traced(self, tensor: Tensor) -> bool:
        """True if a tensor stems from the loader."""
        return self.follower.is_traced(tensor) if self.follower is not None else self.table.get(tensor) is not None

    @property
    def operations(self) -> int:
        """Number of operations so far."""
        return len(self.log.records) if self.follower is None else self.follower.operations

    @property
    def writer(self) -> tuple[str, int]:
        """Layer and invocation of the module that runs, by which its output is scanned."""
        if self.follower is not None:
            return self.follower.writer
        return self.scopes.layer, self.scopes.current.invocation
