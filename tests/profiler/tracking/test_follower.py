"""One event of a script against one event of a later pass, and what the cross-check says of a follower at fault."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from changing import Changing, profiled
from own_networks import spikes
from torch import Tensor, nn

from snn_energy.profiler.counting_mode import CROSS_CHECK
from snn_energy.profiler.tracking import follower as follower_module
from snn_energy.profiler.tracking.follower import Follower, ReplayError
from snn_energy.profiler.tracking.operation_log import OperationLog
from snn_energy.profiler.tracking.recorder import Recorder
from snn_energy.profiler.tracking.script import CallStep, OtherTensor, Script, Slots
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import NOTHING, ValueBound
from snn_energy.profiler.values.bounds import spikes as bound_of_spikes
from snn_energy.profiler.values.scan_cache import ScanCache, StaleScanError
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

FACTS = TensorFacts(("B", None), False, None, np.ones(1, np.bool_), False, frozenset({0}), NOTHING)
WEIGHT = torch.ones(4, 4)


@dataclass
class Pass:
    """The events of one forward pass: a call begins, an input, a module that calls one function."""

    step: int | None = None
    layout: str | None = "axis0"
    constant: bool = False
    bound: ValueBound = NOTHING
    x: Callable[[], Tensor] = lambda: torch.zeros(3, 4)
    module: str = "a"
    name: str = "linear"
    args: tuple[Any, ...] = ("x", "w", 2, (3, [4]), slice(1, 2), None, ..., torch.float32, "same")
    weight: Callable[[], Tensor] = lambda: WEIGHT
    kwargs: dict[str, Any] = field(default_factory=lambda: {"alpha": 1})
    out: Callable[[], Any] = lambda: torch.zeros(3, 4)
    facts: tuple[Any, ...] = (True, 1.0)
    left: str = "a"
    is_written: bool = False  # the weight, through a view

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        w = self.weight()
        return tuple({"x": x, "w": w}.get(a, a) if isinstance(a, str) else a for a in self.args)


class Kept:
    """What a recorder or a follower works on."""

    def __init__(self) -> None:
        self.slots, self.table, self.log, self.scans = Slots(), TensorTable(), OperationLog(), ScanCache(4, None)


def recorded(events: Pass) -> tuple[Script, list[Any]]:
    """The script of a pass, and what must live on."""
    kept = Kept()
    recorder = Recorder(kept.slots, kept.table, kept.log, kept.scans)
    recorder.begin_batch()
    x, out = events.x(), events.out()
    recorder.begin_call(events.step)
    kept.table.put(x, TensorTrace(FACTS))
    recorder.input(x, events.layout, events.constant, events.bound)
    recorder.enter(events.module, (events.module, 0))
    arguments = events.arguments(x)
    write_to(arguments, kept.table, events)
    kept.table.written.clear()
    event = recorder.begin(events.name, arguments, events.kwargs, out, decides=True, facts=events.facts)
    for tensor in out if isinstance(out, tuple) else (out,):
        kept.table.put(tensor, TensorTrace(FACTS))
    recorder.end(event)
    recorder.leave(events.left)
    script = recorder.script()
    assert script is not None
    return script, [x, out, arguments]


def write_to(arguments: tuple[Any, ...], table: TensorTable, events: Pass) -> None:
    """Values that stem from the loader are in the weight."""
    if events.is_written:
        table.mark_written(arguments[1].view(-1), TensorTrace(FACTS))


def followed(script: Script, events: Pass) -> int:
    """How many events are those of the script."""
    kept = Kept()
    follower = Follower(script, kept.slots, kept.table, kept.scans, {})
    x, out = events.x(), events.out()
    arguments = events.arguments(x)
    write_to(arguments, kept.table, events)
    _ = (
        follower.begin_call(events.step)
        and follower.input(x, events.layout, events.constant, events.bound)
        and follower.enter(events.module)
        and follower.call(events.name, arguments, events.kwargs, out, events.facts)
        and follower.leave(events.left)
    )
    return follower.position


def arguments_with(**changes: Any) -> tuple[Any, ...]:
    """The arguments with some of them changed, by place."""
    found = list(Pass.args)
    for place, value in changes.items():
        found[int(place[1:])] = value
    return tuple(found)


CALL, INPUT, ENTER, FUNCTION, LEAVE, END = range(6)
OTHERS: dict[str, tuple[Pass, int]] = {
    "nothing": (Pass(), END),
    "step": (Pass(step=1), CALL),
    "layout": (Pass(layout=None), INPUT),
    "constant input": (Pass(constant=True), INPUT),
    "bound of the input": (Pass(bound=bound_of_spikes(1.0)), INPUT),
    "shape of the input": (Pass(x=lambda: torch.zeros(4, 4)), INPUT),
    "stride of the input": (Pass(x=lambda: torch.zeros(4, 3).T), INPUT),
    "dtype of the input": (Pass(x=lambda: torch.zeros(3, 4).double()), INPUT),
    "module": (Pass(module="b"), ENTER),
    "function": (Pass(name="matmul"), FUNCTION),
    "facts": (Pass(facts=(False, 1.0)), FUNCTION),
    "number": (Pass(args=arguments_with(_2=3)), FUNCTION),
    "type of a number": (Pass(args=arguments_with(_2=2.0)), FUNCTION),
    "bool for a number": (Pass(args=arguments_with(_2=True)), FUNCTION),
    "number in a tuple": (Pass(args=arguments_with(_3=(5, [4]))), FUNCTION),
    "number in a list": (Pass(args=arguments_with(_3=(3, [5]))), FUNCTION),
    "list for a tuple": (Pass(args=arguments_with(_3=[3, [4]])), FUNCTION),
    "length of a tuple": (Pass(args=arguments_with(_3=(3, [4], 5))), FUNCTION),
    "length of a list": (Pass(args=arguments_with(_3=(3, []))), FUNCTION),
    "slice": (Pass(args=arguments_with(_4=slice(1, 3))), FUNCTION),
    "step of a slice": (Pass(args=arguments_with(_4=slice(1, 2, 2))), FUNCTION),
    "none": (Pass(args=arguments_with(_5=0)), FUNCTION),
    "ellipsis": (Pass(args=arguments_with(_6=None)), FUNCTION),
    "dtype": (Pass(args=arguments_with(_7=torch.float64)), FUNCTION),
    "string": (Pass(args=arguments_with(_8="valid")), FUNCTION),
    "class that no script knows": (Pass(args=arguments_with(_2=object())), FUNCTION),
    "fewer arguments": (Pass(args=Pass.args[:-1]), FUNCTION),
    "more arguments": (Pass(args=(*Pass.args, 1)), FUNCTION),
    "constant for a traced tensor": (Pass(args=arguments_with(_0="w")), FUNCTION),
    "traced for a constant": (Pass(args=arguments_with(_1="x"), weight=lambda: torch.zeros(3, 4)), FUNCTION),
    "no tensor for a traced one": (Pass(args=arguments_with(_0=None)), FUNCTION),
    "none for a constant": (Pass(args=arguments_with(_1=None)), FUNCTION),
    "another constant of equal form": (Pass(weight=lambda: torch.zeros(4, 4)), END),
    "shape of a constant": (Pass(weight=lambda: torch.ones(2, 4)), FUNCTION),
    "value of a keyword": (Pass(kwargs={"alpha": 2}), FUNCTION),
    "name of a keyword": (Pass(kwargs={"beta": 1}), FUNCTION),
    "no keyword": (Pass(kwargs={}), FUNCTION),
    "more keywords": (Pass(kwargs={"alpha": 1, "beta": 1}), FUNCTION),
    "shape of the result": (Pass(out=lambda: torch.zeros(3, 5)), FUNCTION),
    "rows of the result": (Pass(out=lambda: torch.zeros(2, 4)), FUNCTION),
    "stride of the result": (Pass(out=lambda: torch.zeros(4, 3).T), FUNCTION),
    "dtype of the result": (Pass(out=lambda: torch.zeros(3, 4).int()), FUNCTION),
    "more results": (Pass(out=lambda: (torch.zeros(3, 4), torch.zeros(3, 4))), FUNCTION),
    "module that is left": (Pass(left="b"), LEAVE),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_the_first_event_that_differs_is_not_followed(what: str) -> None:
    other, expected = OTHERS[what]
    script, alive = recorded(Pass())
    assert followed(script, other) == expected
    assert followed(script, Pass()) == END  # nothing of the other pass is left
    assert alive


def test_a_result_less_is_not_followed() -> None:
    script, alive = recorded(Pass(out=lambda: (torch.zeros(3, 4), torch.zeros(3, 4))))
    assert followed(script, Pass()) == FUNCTION
    assert alive


def test_keywords_that_are_given_or_not_are_compared() -> None:
    script, alive = recorded(Pass(kwargs={}))
    assert followed(script, Pass(kwargs={})) == END
    assert followed(script, Pass()) == FUNCTION
    assert alive


def test_none_is_no_weight_that_is_dead() -> None:
    script, alive = recorded(Pass(weight=lambda: torch.ones(4, 4)))
    alive.clear()
    assert followed(script, Pass(args=arguments_with(_1=None))) == FUNCTION
    assert followed(script, Pass(weight=lambda: torch.ones(4, 4))) == END


def test_a_buffer_that_was_written_to_is_not_the_same_buffer_at_rest() -> None:
    script, alive = recorded(Pass(is_written=True))
    assert followed(script, Pass(is_written=True)) == END
    assert followed(script, Pass()) == FUNCTION
    assert alive


@pytest.mark.parametrize(("value", "expected"), [(2.0, END), (3.0, FUNCTION)])
def test_the_value_of_one_element_is_compared(value: float, expected: int) -> None:
    factor = torch.tensor(2.0)
    script, alive = recorded(Pass(weight=lambda: factor))
    assert followed(script, Pass(weight=lambda: torch.tensor(value))) == expected
    factor.data.fill_(value)  # the same tensor, at the same version
    assert followed(script, Pass(weight=lambda: factor)) == expected
    assert alive


def test_a_call_that_reads_nothing_of_the_loader_is_no_event() -> None:
    script, alive = recorded(Pass())
    kept = Kept()
    follower = Follower(script, kept.slots, kept.table, kept.scans, {})
    x = torch.zeros(3, 4)
    follower.begin_call(None)
    follower.input(x, "axis0", False, NOTHING)
    before = len(kept.slots.refs)
    assert follower.call("linear", (torch.zeros(3, 4), WEIGHT), {}, torch.zeros(3, 4)) is True
    assert follower.call("linear", (WEIGHT, x), {}, torch.zeros(3, 4)) is False
    assert follower.call("linear", ([WEIGHT, (x,)],), {}, torch.zeros(3, 4)) is False
    assert follower.call("linear", (), {"input": x}, torch.zeros(3, 4)) is False
    assert len(kept.slots.refs) == before
    assert follower.position == ENTER
    assert alive


def constant(tensor: Tensor, **changes: Any) -> OtherTensor:
    made = OtherTensor(
        weakref.ref(tensor), None, tensor.shape, tensor.stride(), tensor.dtype, tensor.device, None, None
    )
    return replace(made, **changes)


def test_a_constant_is_compared_by_all_that_its_reader_depends_on() -> None:
    held, table = torch.ones(2, 3), TensorTable()
    alike = torch.zeros(2, 3)
    assert constant(held).matches(alike, table, {})
    for other in (
        torch.zeros(3, 2).T, torch.zeros(2, 4)[:, :3], torch.zeros(2, 3, 1), torch.zeros(2, 3).double(),
        torch.zeros(2, 3, device="meta"), [alike], None,
    ):  # fmt: skip
        assert not constant(held).matches(other, table, {})
    ones, first = torch.zeros(1, 3), torch.zeros(2, 3)[:1]
    assert constant(ones).matches(first, table, {})
    assert not constant(ones, shape=torch.Size((2, 3))).matches(first, table, {})
    assert not constant(held).matches(alike, table, {alike.untyped_storage()._cdata: {0: "weight"}})
    table.put(alike, TensorTrace(FACTS))
    assert not constant(held).matches(alike, table, {})
    assert constant(held, facts=FACTS).matches(alike, table, {})
    assert not constant(held, facts=FACTS).matches(torch.zeros(2, 3), table, {})
    assert not constant(held, facts=FACTS._replace(constant=True)).matches(alike, table, {})


def test_numbers_of_dead_tensors_are_not_found() -> None:
    slots = Slots()
    first, second = torch.zeros(1), torch.zeros(1)
    slots.mark_traced(first, slots.add(first))
    slots._traced[id(second)] = 0  # as if second had the id of a dead tensor
    assert slots.of(first) == 0
    assert slots.of(second) is None
    slots.mark_traced(second, slots.add(second))
    slots.drop_from(1)
    assert slots.of(second) is None
    slots.clear()
    assert slots.of(first) is None
    assert slots.add(second) == 0


def test_a_tensor_is_put_again_as_it_was() -> None:
    table, x = TensorTable(), torch.zeros(2, 3)
    table.put(x, TensorTrace(FACTS._replace(bound=bound_of_spikes(1.0))))
    trace = table.get(x)
    assert trace is not None
    table.mark_written(x, None)
    table.put_again(x, trace, 0, (torch.Size((3, 2)), (2, 1)))
    found = table.get(x)
    assert found is not None
    assert found.bound.unit is None  # it was written to since
    assert table.as_put(x).shape == (3, 2)
    table.put_again(x, trace, 1, (x.shape, x.stride()))
    assert table.get(x) is trace


# ---- the cross-check -------------------------------------------------------------------------------------------


def network(self: Any, x: Tensor) -> Tensor:
    fired = x.bool().float()
    factor = torch.tensor(3.0 if self.way else 1.0)
    weighted = self.a(fired * factor)
    buffer = fired.clone()
    alias = buffer.view(3, 4)
    buffer[:, 0] = weighted[:, 0]
    product = fired.reshape(3, 2, 2) @ self.b(alias).reshape(3, 2, 2)
    return self.last(product.flatten(1) if self.way < 2 else product.flatten(1).clone())


def run(monkeypatch: pytest.MonkeyPatch, ways: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Changing(network, **{name: nn.Linear(4, 4) for name in ("a", "b", "last")})
    monkeypatch.setenv(CROSS_CHECK, "1")
    profiled(monkeypatch, model, [(way, spikes(3, 4, rate=0.5)) for way in ways], time_steps=1, max_k=8)


def of_script(change: Callable[[Script], None]) -> Callable[[Recorder], Script | None]:
    """A recorder that changes the scripts that it gives."""
    give = Recorder.script

    def changed(recorder: Recorder) -> Script | None:
        script = give(recorder)
        assert script is not None
        change(script)
        return script

    return changed


def calls_of(script: Script) -> list[CallStep]:
    return [step for step in script.steps if isinstance(step, CallStep)]


def swap_sides(script: Script) -> None:
    names = {"left": "right", "right": "left", "fired": "fired"}
    for step in calls_of(script):
        if step.name in ("matmul", "__matmul__"):
            step.scans = [scan._replace(side=names[scan.side]) for scan in step.scans]


def forget_scans(script: Script) -> None:
    for step in calls_of(script):
        step.scans = []


def other_work(script: Script) -> None:
    script.records[0] = script.records[0].copy()
    script.records[0].elementwise_ops += 1


def forget_labels(script: Script) -> None:
    for step in calls_of(script):
        step.labels = []


def other_facts(script: Script) -> None:
    for step in calls_of(script):
        step.puts = [put._replace(trace=put.trace.replace(is_padded=True)) for put in step.puts]


def forget_writes(script: Script) -> None:
    for step in calls_of(script):
        step.writes = []


def one_operation_more(script: Script) -> None:
    script.records = [*script.records, script.records[0].copy()]


@pytest.mark.parametrize(
    ("change", "ways", "message"),
    [
        (swap_sides, (0, 0), "'matmul' is followed wrongly: another left"),
        (forget_scans, (0, 0), "is followed wrongly: another left"),
        (other_work, (0, 0), "'scale' is followed wrongly: another elementwise_ops"),
        (one_operation_more, (0, 0), "operations are followed where"),
        (forget_labels, (1, 2), "goes on in other modules"),
        (other_facts, (0, 1), "knows TensorFacts.*is_padded=True"),
    ],
)
def test_the_cross_check_names_what_a_script_has_wrong(
    change: Callable[[Script], None], ways: tuple[int, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "script", of_script(change))
    with pytest.raises((ReplayError, StaleScanError), match=message):
        run(monkeypatch, ways)


def test_the_cross_check_finds_a_write_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "script", of_script(forget_writes))
    with pytest.raises((ReplayError, StaleScanError), match=r"knows TensorFacts|changed after it was scanned"):
        run(monkeypatch, (1, 2))


def test_the_cross_check_finds_a_comparison_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module.OtherTensor, "matches", lambda *_: True)
    with pytest.raises((ReplayError, StaleScanError), match=r"another (reads|leaves|left)|a: the left operand changed"):
        run(monkeypatch, (0, 1))


def test_the_cross_check_finds_nothing_in_a_script_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, (0, 0, 1, 1, 0, 1, 2, 2, 1))
