"""In a step that a mask skips, what follows works where a function has made something else of the zeros."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from own_networks import Does, set_active_steps
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import DTSS
from snn_energy.profiler.run import UnsupportedOperationWarning

SOME, NONE = torch.tensor(0.3), torch.tensor(0.0)

OF_ZEROS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp from below": lambda o: o.clamp(min=0.1),
    "clamp to [0, 1]": lambda o: o.clamp(0, 1),
    "clamp_ in place": lambda o: o.clone().clamp_(0.2, 1),
    "clamp_max below 0": lambda o: o.clamp_max(-0.1),
    "lerp to a constant": lambda o: torch.lerp(o, SOME, 0.5),
    "lerp to 0": lambda o: torch.lerp(o, NONE, 0.5),
    "addcmul of constants": lambda o: torch.addcmul(o, SOME, SOME),
    "addcmul with a factor 0": lambda o: torch.addcmul(o, SOME, NONE),
    "addcdiv of constants": lambda o: torch.addcdiv(o, SOME, SOME),
    "where, else a constant": lambda o: torch.where(o > 0, o, SOME),
    "where, else 0": lambda o: torch.where(o > 0, o, NONE),
    "heaviside that is 0.5 at 0": lambda o: torch.heaviside(o, torch.tensor(0.5)),
    "heaviside that is 0 at 0": lambda o: torch.heaviside(o, NONE),
    "masked_fill": lambda o: o.masked_fill(o == 0, 0.4),
    "masked_fill with 0": lambda o: o.masked_fill(o > 0.5, 0.0),
    "threshold": lambda o: functional.threshold(o, 0.1, 0.7),
    "hardtanh above 0": lambda o: functional.hardtanh(o, 0.1, 1),
    "maximum": lambda o: torch.maximum(o, SOME),
    "minimum": lambda o: torch.minimum(o, SOME),
    "power 0": lambda o: o**0,
    "power 2": lambda o: o**2,
    "less than": lambda o: (o < 0.5).float(),
    "greater than": lambda o: (o > 0.5).float(),
    "greater than -1": lambda o: (o > -1).float(),
    "not equal 1": lambda o: (o != 1).float(),
    "logical or": lambda o: torch.logical_or(o, torch.tensor(True)).float(),
    "logical and": lambda o: torch.logical_and(o, torch.tensor(True)).float(),
    "relu": functional.relu,
    "remainder": lambda o: o.remainder(2),
    "one minus": lambda o: 1 - o,
    "running sum over time": lambda o: o.cumsum(0),
    "running sum over features": lambda o: o.cumsum(2),
    "logsumexp": lambda o: o.logsumexp(-1, keepdim=True).expand(4, 3, 8),
    "largest": lambda o: o.amax(-1, keepdim=True).expand(4, 3, 8),
    "flattened, clamped": lambda o: o.flatten(0, 1).clamp(min=0.1).unflatten(0, (4, 3)),
    "flattened, doubled": lambda o: (2 * o.flatten(0, 1)).unflatten(0, (4, 3)),
    "step by step": lambda o: torch.stack([step.clamp(min=0.1) for step in o]),
    "padded with a constant": lambda o: functional.pad(o[..., :6], (1, 1), value=0.3),
    "padded with zeros": lambda o: functional.pad(o[..., :6], (1, 1)),
}


@pytest.mark.parametrize("name", OF_ZEROS)
def test_what_follows_a_function_is_active_where_the_function_gives_something(name: str) -> None:
    dtss, made = DTSS(4), OF_ZEROS[name]
    set_active_steps(dtss, 2)
    model = Does(lambda self, x: self.fc(functional.gelu(made(self.lif(x)))), lif=dtss, fc=nn.Linear(8, 5, bias=False))
    x = torch.full((4, 3, 8), 3.0)  # every neuron fires at every step that is not skipped
    frame = se.profile(model, [x, x], time_steps=4, time="axis0").to_frame()
    with torch.no_grad():
        gives = [bool(step.any()) for step in made(dtss(x))]
    skipped_before = [True, True, *gives[2:]]
    rows = frame[frame["note"] == "gelu"]
    assert rows["active"].tolist() == frame[frame["layer"] == "fc"]["active"].tolist() == skipped_before
    assert rows["elementwise_ops"].tolist() == [2 * 3 * 8 * active for active in skipped_before]
    assert frame[frame["op"] == "neuron"]["active"].tolist() == [True, True, False, False]


DROPS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": functional.dropout,  # training=True is its default
    "dropout in place": lambda h: functional.dropout(h, 0.5, True, True),
    "torch.dropout": lambda h: torch.dropout(h, p=0.5, train=True),
    "dropout1d": lambda h: functional.dropout1d(h, 0.5),
    "dropout2d": lambda h: functional.dropout2d(h[..., None, None], 0.5).flatten(1),
    "dropout3d": lambda h: functional.dropout3d(h[..., None, None, None], 0.5).flatten(1),
    "alpha_dropout": lambda h: functional.alpha_dropout(h, 0.5, True),
    "feature_dropout": lambda h: torch.feature_dropout(h, 0.5, True),
    "feature_alpha_dropout": lambda h: functional.feature_alpha_dropout(h, 0.5, training=True),
}

KEEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda h: functional.dropout(h, training=False),
    "dropout of nothing": lambda h: functional.dropout(h, 0.0),
    "torch.dropout": lambda h: torch.dropout(h, 0.5, False),
    "dropout1d": lambda h: functional.dropout1d(h, 0.5, False),
    "dropout2d": lambda h: functional.dropout2d(h[..., None, None], 0.5, training=False).flatten(1),
    "alpha_dropout": functional.alpha_dropout,  # training=False is its default
    "nn.Dropout2d": lambda h: nn.Dropout2d().eval()(h[..., None, None]).flatten(1),
}


def dropping(drop: Callable[[Tensor], Tensor]) -> Does:
    return Does(lambda self, x: self.b(drop(self.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 2))


@pytest.mark.parametrize("name", DROPS)
def test_a_dropout_that_is_active_is_a_row_without_counts_and_a_warning_that_it_is_random(name: str) -> None:
    model = dropping(DROPS[name])
    with pytest.warns(UnsupportedOperationWarning, match="with training=True, which is random"):
        frame = se.profile(model, [torch.rand(3, 6)], time_steps=1).to_frame()
    assert frame["op"].tolist() == ["linear", "unsupported", "linear"]
    with pytest.raises(ProfilingError, match=r"which is random.*\(--strict\)"):
        se.profile(model, [torch.rand(3, 6)], time_steps=1, strict=True)


@pytest.mark.parametrize("name", KEEPS)
def test_a_dropout_that_is_not_active_costs_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = se.profile(dropping(KEEPS[name]), [torch.rand(3, 6)], time_steps=1).to_frame()
    assert frame["op"].tolist() == ["linear", "linear"]
