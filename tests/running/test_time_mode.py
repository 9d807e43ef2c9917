"""Every time mode: a batch is laid out by hand, and what comes back is that of every sample and step taken alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.running.time_mode import MODES, TimeMode

T, B, FEATURES, CLASSES = 3, 5, 4, 2
WEIGHT = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(0))


def loader_batch(mode: TimeMode, steps: Tensor) -> Tensor:
    """(T, B, F) as the loader of this mode gives it; samples alone where it knows no time."""
    if mode.repeats_input or mode.layout is None:
        return steps[0]
    return {
        "axis0": steps,
        "axis1": steps.transpose(0, 1),
        "axis-last": steps.movedim(0, -1),
        "flat": steps.flatten(0, 1),
        "flat-batch": steps.transpose(0, 1).flatten(0, 1),
    }[mode.layout]


def expected(mode: TimeMode, steps: Tensor) -> Tensor:
    """(B, C): the mean over steps of steps @ WEIGHT; of the same image where the loader knows no time."""
    given = steps[:1] if mode.repeats_input or mode.layout is None else steps
    return (given @ WEIGHT).mean(0)


class Linear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ WEIGHT


class TimeLast(Linear):
    """The same on (B, F, T)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


@pytest.fixture
def steps() -> Tensor:
    return torch.randn(T, B, FEATURES, generator=torch.Generator().manual_seed(1))


def test_the_modes_are_those_of_the_vocabulary() -> None:
    assert list(MODES) == list(TIME_MODES)


@pytest.mark.parametrize("name", MODES)
def test_logits_are_the_mean_over_the_steps_of_each_sample(name: str, steps: Tensor) -> None:
    mode = MODES[name]
    model = TimeLast() if name == "axis-last" else Linear()
    out = mode.run(model, loader_batch(mode, steps), T)
    logits = mode.logits(out, T, B)
    assert logits is not None
    torch.testing.assert_close(logits, expected(mode, steps))


@pytest.mark.parametrize("samples", [1, 2, B])
@pytest.mark.parametrize("name", MODES)
def test_the_first_samples_keep_all_their_steps(name: str, samples: int, steps: Tensor) -> None:
    mode = MODES[name]
    few = mode.first_samples(loader_batch(mode, steps), samples, T)
    assert mode.samples_of(few, T) == samples
    assert torch.equal(few, loader_batch(mode, steps[:, :samples]))


@pytest.mark.parametrize("name", MODES)
def test_where_there_are_too_few_samples_some_come_again(name: str, steps: Tensor) -> None:
    mode = MODES[name]
    few = mode.first_samples(loader_batch(mode, steps[:, :2]), 3, T)
    assert torch.equal(few, loader_batch(mode, steps[:, [0, 1, 0]]))


@pytest.mark.parametrize("name", MODES)
def test_a_call_reads_all_steps_or_one(name: str, steps: Tensor) -> None:
    mode = MODES[name]
    given = mode.feed(loader_batch(mode, steps), T)
    assert len(given) == (T if mode.calls_per_step else 1)
    if name == "axis-last":
        assert given[0].shape == (B, FEATURES, T)
        return
    rows = {"axis0": (T, B), "axis1": (B, T), "flat": (T * B,), "flat-batch": (B * T,), None: (B,)}[mode.read]
    assert all(tensor.shape == (*rows, FEATURES) for tensor in given)


@pytest.mark.parametrize("name", ["flat", "flat-batch"])
@pytest.mark.parametrize("method", ["samples_of", "first_samples"])
def test_rows_that_t_does_not_divide_are_refused(name: str, method: str) -> None:
    x = torch.zeros(T * B + 1, FEATURES)
    with pytest.raises(ProfilingError, match=rf"time='{name}' wants .* with T=3, the loader gave \(16, 4\)"):
        MODES[name].samples_of(x, T) if method == "samples_of" else MODES[name].first_samples(x, 2, T)


@pytest.mark.parametrize("out", [None, "text", torch.zeros(3), torch.zeros(B + 1, CLASSES), [torch.zeros(B, 2)]])
def test_what_is_no_logits_is_none(out: Any) -> None:
    assert MODES["inside"].logits(out, T, B) is None


def test_potentials_beside_spikes_are_left_out() -> None:
    spikes, potentials = torch.ones(B, CLASSES), torch.full((B, CLASSES), 7.0)
    assert torch.equal(MODES["inside"].logits((spikes, potentials), T, B), spikes)  # type: ignore[arg-type]
