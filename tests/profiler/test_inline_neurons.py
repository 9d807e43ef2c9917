"""Networks whose neurons are no modules: time is where layers with weights are called once per step, or asked for."""

from __future__ import annotations

import pytest
import torch
from own_networks import Does, spikes
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError

pytestmark = pytest.mark.usefixtures("one_thread")
T = 4


def inline(model: Does, x: Tensor) -> Tensor:
    """Two layers in a loop, potentials in local variables; the last one adds up."""
    mem, out = torch.zeros(len(x), 8), torch.zeros(len(x), 3)
    for _ in range(T):
        mem = 0.9 * mem + model.first(x)
        fired = (mem > 0.3).float()
        mem = mem - 0.3 * fired
        out = out + model.second(fired)
    return out / T


def network(calls: int = T) -> Does:
    torch.manual_seed(0)
    layers = {"first": nn.Linear(6, 8), "second": nn.Linear(8, 3)}
    return Does(inline, **layers) if calls == T else Does(lambda m, x: m.second(m.first(x).relu()), **layers)


def fired_per_step(model: Does, x: Tensor) -> list[int]:
    mem, found = torch.zeros(len(x), 8), []
    with torch.no_grad():
        for _ in range(T):
            mem = 0.9 * mem + model.first(x)  # type: ignore[operator]
            fired = (mem > 0.3).float()
            mem = mem - 0.3 * fired
            found.append(int(fired.sum()))
    return found


def test_layers_that_are_called_t_times_are_a_loop_over_time() -> None:
    model, x = network(), torch.rand(3, 6)
    counts = se.profile(model, [x, x[:1]], time_steps=T)
    frame = counts.to_frame()
    assert counts.header["time"] == "loop"
    both = [a + b for a, b in zip(fired_per_step(model, x), fired_per_step(model, x[:1]), strict=True)]
    assert sum(both) > 0
    assert frame[frame["layer"] == "second"]["sops"].tolist() == [3 * count for count in both]
    assert frame[frame["layer"] == "first"]["dense_macs"].tolist() == [48 * 4] * T


def test_how_often_layers_are_called_is_said_where_t_is_not() -> None:
    with pytest.raises(ProfilingError, match=r"^time_steps= is needed .*its layers 4 times.*--time-steps 4"):
        se.profile(network(), [torch.rand(3, 6)])
    assert se.profile(network(calls=1), [torch.rand(3, 6)]).time_steps == 1  # nothing hints at time


@pytest.mark.parametrize("steps", [2, 5])
def test_another_number_of_steps_than_of_calls_is_refused(steps: int) -> None:
    with pytest.raises(ProfilingError, match="time= must say where time is"):
        se.profile(network(), [torch.rand(3, 6)], time_steps=steps)


def test_a_layer_that_reads_other_shapes_in_its_calls_is_no_loop_over_time() -> None:
    def pyramid(model: Does, x: Tensor) -> Tensor:
        return torch.stack([model.head(x[:, :, :size]).mean((1, 2)) for size in (8, 7, 6, 5)], 1)

    model = Does(pyramid, head=nn.Conv1d(2, 3, 1))
    with pytest.raises(ProfilingError, match="time= must say where time is"):
        se.profile(model, [torch.rand(3, 2, 8)], time_steps=T)


def over_axis1(model: Does, x: Tensor) -> Tensor:
    """All steps at once through the weights, a loop over the second axis inline."""
    current = model.first(x)
    mem, fired = torch.zeros(len(x), 8), []
    for t in range(x.shape[1]):
        mem = 0.9 * mem + current[:, t]
        fired.append((mem > 0.3).float())
        mem = mem - 0.3 * fired[-1]
    return model.second(torch.stack(fired, 1))


def test_an_axis_of_t_steps_is_named_and_works_with_that_word() -> None:
    torch.manual_seed(0)
    model, x = Does(over_axis1, first=nn.Linear(6, 8), second=nn.Linear(8, 3)), spikes(3, T, 6)
    with pytest.raises(ProfilingError, match=r"an axis of its batches has 4 steps: --time axis1$"):
        se.profile(model, [x], time_steps=T)
    counts = se.profile(model, [x], time="axis1")  # T is the size of that axis
    frame = counts.to_frame()
    assert (counts.samples, counts.header["time_steps"]) == (3, T)
    assert frame[frame["layer"] == "first"]["sops"].tolist() == [8 * int(x[:, t].sum()) for t in range(T)]


@pytest.mark.parametrize("time", ["loop", "call", "flat", "repeat-axis0"])
def test_a_declared_time_of_unknown_length_is_refused(time: str) -> None:
    with pytest.raises(ProfilingError, match=rf"^time='{time}' needs time_steps= \(--time-steps\)"):
        se.profile(network(), [torch.rand(3, 6)], time=time)
