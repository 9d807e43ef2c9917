"""What the profiler does not see or cannot tell is refused, warned of or counted in full; never left out quietly."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from own_networks import Does, set_active_steps, spikes
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.profiler.run import RandomNetworkWarning, UnsupportedOperationWarning

NON_ZERO_AT_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda o: o.clamp(min=0.1),
    "clamp_min": lambda o: o.clamp_min(0.1),
    "where": lambda o: torch.where(o > 0, o, torch.tensor(0.5)),
    "compare": lambda o: (o < 0.5).float(),
    "not equal": lambda o: (o != 1).float(),
    "running sum": lambda o: o.cumsum(0),
    "power": lambda o: o**0,
    "hardtanh": lambda o: functional.hardtanh(o, 0.1, 1),
    "maximum": lambda o: torch.maximum(o, torch.tensor(0.5)),
    "add": lambda o: o + 1,
    "zero": lambda o: o * 2,
}


@pytest.mark.parametrize("name", NON_ZERO_AT_ZERO)
def test_a_masked_step_that_becomes_non_zero_is_counted(name: str) -> None:
    dtss, made = DTSS(4), NON_ZERO_AT_ZERO[name]
    set_active_steps(dtss, 2)
    model = Does(lambda self, x: self.fc(made(self.lif(x))), lif=dtss, fc=nn.Linear(8, 5, bias=False))
    x = torch.rand(4, 3, 8) * 3
    frame = se.profile(model, [x, x], time_steps=4, time="axis0").to_frame()
    with torch.no_grad():
        reads = made(dtss(x))
    rows = frame[frame["layer"] == "fc"]
    assert rows["sops"].tolist() == [2 * 5 * int(step.count_nonzero()) for step in reads]
    assert rows["active"].tolist() == [t < 2 or bool(step.any()) for t, step in enumerate(reads)]
    assert frame[frame["op"] == "neuron"]["active"].tolist() == [True, True, False, False]


class Plain(torch.Tensor):
    """A subclass of Tensor."""


def through_thread(layer: nn.Module, h: Tensor) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(layer, h).result()


LOSES_SIGHT: dict[str, Callable[[Any, Tensor], Any]] = {
    "numpy": lambda self, h: self.b(torch.from_numpy(h.detach().numpy())),
    "list": lambda self, h: self.b(torch.tensor(h.tolist())),
    "parameter": lambda self, h: self.b(nn.Parameter(h.clone())),
}


def test_a_layer_called_in_another_thread_is_counted() -> None:
    model = Does(lambda self, x: through_thread(self.b, self.a(x)), a=nn.Linear(6, 4), b=nn.Linear(4, 2))
    frame = se.profile(model, [spikes(5, 6)], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["b", "sops"] == 5 * 4 * 2


@pytest.mark.parametrize("name", LOSES_SIGHT)
def test_a_layer_behind_a_break_is_a_row_and_a_warning_and_under_strict_an_error(name: str) -> None:
    model = Does(lambda self, x: LOSES_SIGHT[name](self, self.a(x)), a=nn.Linear(6, 4), b=nn.Linear(4, 2))
    with pytest.warns(UnsupportedOperationWarning, match="b: its work was not seen"):
        frame = se.profile(model, [spikes(5, 6)], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["b", "op"] == "unsupported"
    with pytest.raises(ProfilingError, match="not seen"):
        se.profile(model, [spikes(5, 6)], time_steps=1, strict=True)


def test_a_scripted_part_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(nn.Linear(4, 2), torch.rand(1, 4))  # type: ignore[no-untyped-call]
    with pytest.raises(ProfilingError, match="1: a scripted or compiled module"):
        se.profile(nn.Sequential(nn.Linear(6, 4), scripted), [spikes(5, 6)], time_steps=1)


class Ternary(LIF):
    """Fires both ways."""

    def forward(self, current: Tensor) -> Tensor:
        return super().forward(current) - super().forward(-current)


class Gained(LIF):
    """Amplitudes of its own, one a channel."""

    def forward(self, current: Tensor) -> Tensor:
        return super().forward(current) * torch.tensor([0.0, 1.0, 0.5, 2.0, 1.0, 1.0, 0.3, 0.7])


def silent(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out * 0


def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out + out.cumsum(-1)


@pytest.mark.parametrize(("neuron", "hook"), [(Ternary, None), (Gained, None), (LIF, silent), (LIF, doubled)])
def test_what_a_changed_neuron_gives_is_counted_not_what_it_should_give(neuron: type[LIF], hook: Any) -> None:
    lif, fc = neuron(), nn.Linear(8, 5)
    if hook is not None:
        lif.register_forward_hook(hook)
    x = torch.randn(4, 3, 8) * 3
    rows = se.profile(nn.Sequential(lif, fc), [x, x], time_steps=4, time="axis0").to_frame().set_index("layer")
    with torch.no_grad():
        fired = lif(x)
    assert rows.loc["1", "sops"].tolist() == [2 * 5 * int(step.count_nonzero()) for step in fired]
    assert rows.loc["0", "spikes"].tolist() == [2 * int(step.count_nonzero()) for step in fired]
    if neuron is Ternary:
        assert set(rows.loc["1", "input_kind"]) == {"ternary"}


def test_a_shared_layer_called_layer_by_layer_is_refused_or_told_apart() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        steps = [x * (torch.arange(8) < 2 * (t + 1)) for t in range(4)]
        for _ in range(2):
            steps = [self.a(step).relu() for step in steps]
        return torch.stack(steps).mean(0)

    with pytest.raises(ProfilingError, match="in an order from which the steps cannot be told"):
        se.profile(Does(forward, a=nn.Linear(8, 8)), [torch.rand(3, 8)], time_steps=4, time="loop")


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (torch.rand(5, 8), r"one tensor; give a list of batches, such as \[x\]"),
        ([torch.rand(8)], "sums over the axis of samples"),
        (None, "iterable of x or"),
        (3, "iterable of x or"),
        ([torch.rand(5, 8).to(torch.complex64)], "dense real numbers"),
        ([torch.rand(5, 8).to_sparse()], "dense real numbers"),
    ],
)
def test_a_loader_that_cannot_be_counted_is_refused(loader: Any, match: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ProfilingError, match=match):
            se.profile(nn.Linear(8, 3), loader, time_steps=1)


def test_a_layer_over_the_axis_of_samples_is_refused() -> None:
    model = Does(lambda self, x: self.fc(self.lif(x).permute(2, 0, 1)), lif=LIF(), fc=nn.Linear(4, 4))
    with pytest.raises(ProfilingError, match="fc: sums over the axis of samples"):
        se.profile(model, [torch.randn(4, 4, 4) * 3], time_steps=4, time="axis0")


def test_a_layer_over_the_axis_of_time_is_counted_once_per_inference() -> None:
    x = torch.randn(4, 3, 5) * 3
    model = Does(lambda self, x: self.fc(self.lif(x).permute(1, 2, 0)), lif=LIF(), fc=nn.Linear(4, 7))
    frame = se.profile(model, [x], time_steps=4, time="axis0").to_frame()
    (row,) = frame[frame["layer"] == "fc"].to_dict("records")
    fired = frame[frame["op"] == "neuron"]["spikes"].sum()
    assert (row["time_step"], row["sops"], row["dense_macs"]) == (-1, 7 * fired, 3 * 5 * 4 * 7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"time_steps": "4"}, "time_steps must be a whole number"),
        ({"time_steps": 1, "max_k": 0}, "max_k must be a whole number"),
        ({"time_steps": 1, "header": {"samples": 99}}, "samples is the profiler's own"),
        ({"time_steps": 1, "header": {"a": float("nan")}}, "header"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ProfilingError, match=match):
        se.profile(nn.Linear(8, 3), [torch.rand(5, 8)], **options)


def test_a_model_must_be_a_module() -> None:
    with pytest.raises(ProfilingError, match=r"model must be a torch.nn.Module, not function"):
        se.profile(lambda x: x, [torch.rand(5, 8)], time_steps=1)  # type: ignore[arg-type]


def test_outputs_that_are_not_one_row_of_logits_per_sample_give_no_accuracy() -> None:
    model = Does(lambda self, x: self.fc(x).unsqueeze(0), fc=nn.Linear(4, 3))
    counts = se.profile(model, [(torch.rand(1, 4), torch.tensor([1]))], time_steps=1)
    assert counts.header["accuracy"] in (None, 0.0, 1.0)
    shaped = Does(lambda self, x: self.fc(x).view(1, 6, 3), fc=nn.Linear(4, 3))
    counts = se.profile(shaped, [(torch.rand(6, 4), torch.zeros(6, dtype=torch.long))], time_steps=1)
    assert counts.header["accuracy"] is None or 0 <= counts.header["accuracy"] <= 1


@pytest.mark.parametrize("constant", ["q", "k", "v"])
def test_attention_with_a_learned_operand_counts_its_products(constant: str) -> None:
    learned = torch.rand(1, 2, 5, 4)

    def forward(self: Any, x: Tensor) -> Tensor:
        operands = {name: x for name in "qkv"} | {constant: learned.expand(len(x), -1, -1, -1)}
        return functional.scaled_dot_product_attention(operands["q"], operands["k"], operands["v"])

    frame = se.profile(Does(forward), [torch.rand(3, 2, 5, 4) + 0.1], time_steps=1).to_frame()
    dense = frame["dense_macs"].sum()
    assert dense == 3 * 2 * (2 * 5 * 5 * 4)
    assert np.all(frame[frame["op"].isin(["linear", "matmul"])]["sops"] > 0)


@pytest.mark.parametrize("name", ["squeeze_", "unsqueeze_", "t_"])
def test_what_cannot_be_followed_is_refused_in_one_line_or_counted(name: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.a(x)
        getattr(h, name)(*([1] if name == "unsqueeze_" else []))
        return self.b(h.reshape(-1, 4))

    model = Does(forward, a=nn.Linear(6, 4), b=nn.Linear(4, 2))
    declared = ""
    try:
        frame = se.profile(model, [spikes(5, 6)], time_steps=1).to_frame().set_index("layer")
    except ProfilingError as error:
        declared = str(error)
    assert declared.count("\n") == 0
    assert declared or frame.loc["b", "sops"] == 5 * 4 * 2


DRAWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bernoulli": lambda self, x: self.b(torch.bernoulli(x.sigmoid())),
    "compared with random numbers": lambda self, x: self.b((torch.rand_like(x) < x).float()),
    "numpy": lambda self, x: self.b((x > float(np.random.random())).float()),
    "python": lambda self, x: self.b((x > random.random()).float()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_network_that_draws_random_numbers_says_so(name: str) -> None:
    model, x = Does(DRAWS[name], b=nn.Linear(6, 2)), torch.rand(4, 6)
    with pytest.warns(RandomNetworkWarning, match="draws random numbers") as caught:
        counts = se.profile(model, [x, x], time_steps=1)
    assert len(caught) == 1
    assert counts.header["draws_random_numbers"] is True
    with pytest.raises(ProfilingError, match=r"draws random numbers.*--strict"):
        se.profile(model, [x], time_steps=1, strict=True)


@pytest.mark.parametrize("seed", range(40))
def test_seeds_that_agree_by_chance_do_not_hide_it(seed: int) -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))  # few values: two draws often agree
    with pytest.warns(RandomNetworkWarning):
        se.profile(Does(DRAWS["python"], b=nn.Linear(3, 2)), [x], time_steps=1)


def test_a_loader_that_draws_random_numbers_is_none_of_the_networks_business() -> None:
    batches = (torch.rand(4, 6) for _ in range(3))
    counts = se.profile(Does(lambda self, x: self.b(x), b=nn.Linear(6, 2)), batches, time_steps=1)
    assert "draws_random_numbers" not in counts.header
