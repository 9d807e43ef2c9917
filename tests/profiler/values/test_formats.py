"""Numbers of 16 bits, integers and bools are counted exactly, and networks in them as the same network in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.kinds import least_upper_bound
from snn_energy.models.neurons import LIF
from snn_energy.profiler.values.bounds import NOTHING, ValueBound
from snn_energy.profiler.values.scan import observed_values, scan

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SHAPES = ((3, 4, 5), (2, 64, 8), (5, 1, 7), (1, 3, 1))
MAX_K = 10


def whole_numbers(shape: tuple[int, ...], most: int, seed: int = 0) -> Tensor:
    """0 ... most, half of them 0; the largest and 1 are among them."""
    k = torch.randint(1, most + 1, shape, generator=torch.Generator().manual_seed(seed))
    k[torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.5] = 0
    k.view(-1)[0] = most
    k.view(-1)[-1] = 1
    return k


def as_scanned(x: Tensor, bound: ValueBound, dim: int) -> tuple[Any, Any, Any]:
    shape = (x.shape[0], x.shape[1], x.shape[2])
    found, _ = scan(x, shape, bound, MAX_K, "here", False, dim)
    return found.nonzeros, found.levels, found.resolve_values(int(found.nonzeros.sum()))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_known", [False, True], ids=["observed", "proven"])
@pytest.mark.parametrize("most", [1, 3, 9])
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE], ids=str)
def test_sums_of_whole_numbers_are_exact_in_every_format(
    dtype: torch.dtype, most: int, is_known: bool, shape: tuple[int, int, int], dim: int
) -> None:
    k = whole_numbers(shape, most)
    bound = ValueBound(1.0, most, True) if is_known else NOTHING
    nonzeros, levels, values = as_scanned(k.to(dtype), bound, dim)
    assert torch.equal(nonzeros.long(), (k != 0).sum(dim))
    assert values.kind == ("binary" if most == 1 else "integer")
    assert values.unit == 1
    if most > 1:
        assert values.max_k == most
        assert torch.equal(levels.long(), k.sum(dim))


@pytest.mark.parametrize("unit", [1.0, 0.25, 0.3])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_spikes_of_both_signs_are_ternary_in_every_format(dtype: torch.dtype, unit: float) -> None:
    k = whole_numbers((3, 4, 5), 1) * torch.tensor([1, -1, 1, -1, 1])
    nonzeros, _, values = as_scanned(k.to(dtype) * unit, NOTHING, 1)
    assert values.kind == "ternary"
    assert values.unit == torch.tensor(unit, dtype=dtype).double()
    assert torch.equal(nonzeros.long(), (k != 0).sum(1))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
def test_a_mask_is_binary(dtype: torch.dtype) -> None:
    k = whole_numbers((3, 4, 5), 1)
    nonzeros, _, values = as_scanned(k.to(dtype), NOTHING, 1)
    assert values.kind == "binary"
    assert torch.equal(nonzeros.long(), k.sum(1))


@pytest.mark.parametrize("most", [3, 6])
@pytest.mark.parametrize("unit", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sums_of_spikes_that_a_format_rounds_are_integer(dtype: torch.dtype, unit: float, most: int) -> None:
    """Spikes are added one after the other, each sum rounded."""
    one = torch.tensor(unit, dtype=dtype)
    sums = [torch.zeros((), dtype=dtype)]
    for _ in range(most):
        sums.append(sums[-1] + one)
    k = whole_numbers((4, 8, 4), most)
    x = torch.stack(sums)[k]
    nonzeros, levels, values = as_scanned(x, NOTHING, 1)
    assert (values.kind, values.max_k) == ("integer", most)
    assert torch.equal(nonzeros.long(), (k != 0).sum(1))
    assert torch.equal(levels.long(), k.sum(1))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_real_values_are_real_in_every_format(dtype: torch.dtype) -> None:
    x = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    nonzeros, levels, values = as_scanned(x, NOTHING, 1)
    assert (values.kind, levels) == ("real", None)
    assert torch.equal(nonzeros.long(), (x != 0).sum(1))


def test_a_tensor_of_few_real_values_is_real_in_a_coarse_format() -> None:
    """1 and 2.03 differ from 1 and 2 by 4 ulp of bfloat16; they are no sums of spikes."""
    x = torch.tensor([0.0, 1.0, 2.03125, 3.0])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert observed_values(x.to(dtype), 0.0, 3.0, MAX_K).kind == "real"


def test_batches_of_a_coarse_format_join_as_their_values_do() -> None:
    """0.3 is 0.30078125 in bfloat16, and three of them 0.90234375, five 1.5."""
    c = torch.tensor(0.3, dtype=torch.bfloat16)
    three, five = c + c + c, c + c + c + c + c
    sets = [observed_values(v.reshape(1), 0.0, float(v), MAX_K) for v in (c, three, five)]
    joined, _, factor = least_upper_bound(sets[0], sets[1], MAX_K)
    joined, _, last = least_upper_bound(joined, sets[2], MAX_K)
    assert (joined.kind, joined.levels, factor, last) == ("integer", {1, 3, 5}, 3, 5)


# --- whole networks ---------------------------------------------------------------------------------------------------


class Integrate(nn.Module):
    """Integrate and fire at 1, soft reset, over all steps; exact in every format on multiples of 0.5."""

    def forward(self, current: Tensor) -> Tensor:
        u = torch.zeros_like(current[0])
        spikes = []
        for step in current:
            u = u + step
            spikes.append((u >= 1).to(current.dtype))
            u = u - spikes[-1]
        return torch.stack(spikes)


def halves(module: nn.Module, seed: int) -> None:
    """Weights and biases of -0.5, 0 and 0.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator) / 2)


class Residual(nn.Module):
    """A stem, a residual block whose second layer reads sums of spikes, attention of spikes, and a head."""

    def __init__(self, neuron: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 8)
        self.q, self.k, self.head = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(4, 3)
        self.n1, self.n2, self.n3, self.nq, self.nk = (neuron() for _ in range(5))
        halves(self, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, samples = x.shape[:2]
        h = self.n1(self.stem(x.flatten(0, 1)).unflatten(0, (steps, samples)))
        h = h + self.n2(self.one(h.flatten(0, 1)).unflatten(0, (steps, samples)))  # 0, 1 or 2
        tokens = h.flatten(3)
        q, k = self.nq(self.q(tokens)), self.nk(self.k(tokens))
        h = self.n3(self.two(tokens)) + (q + k) @ k.mT.contiguous() @ q.sign()
        return self.head(h.mT.mean(2)).mean(0)


def spikingjelly() -> nn.Module:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    made: nn.Module = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
    return made


def ours() -> nn.Module:
    return LIF(leak=1.0, v_th=1.0)


NEURONS = {"by hand": Integrate, "spikingjelly": spikingjelly, "ours": ours}


class Inside(nn.Module):
    """Autocast within the forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x)


def frames() -> Tensor:
    return (torch.rand(3, 4, 1, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.5).float()


def rows_of(model: nn.Module, x: Tensor, around: Any = None, **declared: Any) -> pd.DataFrame:
    with around or nullcontext():
        frame = se.profile(model, [x, x[:, :2]], time="axis0", time_steps=3, **declared).to_frame()
    frame["layer"] = frame["layer"].str.replace(r"^model\.?", "", regex=True)
    return frame


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(
    "form", ["float64", "float16", "bfloat16", "autocast around", "autocast to float16", "autocast inside"]
)
def test_a_network_in_another_format_counts_as_in_float32(name: str, form: str) -> None:
    model, x = Residual(NEURONS[name]), frames()
    wanted = rows_of(model, x)
    if form.startswith("autocast"):
        dtype = torch.float16 if form.endswith("float16") else torch.bfloat16
        around = None if form.endswith("inside") else torch.autocast("cpu", dtype)
        found = rows_of(Inside(model) if form.endswith("inside") else model, x, around)
    else:
        dtype = getattr(torch, form)
        found = rows_of(model.to(dtype), x.to(dtype))
    pd.testing.assert_frame_equal(found.drop(columns="group"), wanted.drop(columns="group"))
    kinds = wanted[wanted["dense_macs"] > 0].groupby("layer", sort=False)["input_kind"].first()
    assert kinds["one"] == "binary"
    assert kinds["two"] == kinds["q"] == "integer"
    spikes = wanted[wanted["op"] == "neuron"]["spikes"]
    assert spikes.sum() > 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_shipped_network_runs_in_sixteen_bits(dtype: torch.dtype) -> None:
    model = se.create_model("dts-spikformer-2-64", image_size=8, in_channels=1, num_classes=4, time_steps=2).to(dtype)
    x = torch.rand(2, 1, 8, 8).to(dtype)
    frame = se.profile(model, [x]).to_frame()
    read: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args: read.update({name: read.get(name, 0) + int(args[0].count_nonzero())})

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        model.eval()(x)
    rows = frame[frame["op"] == "linear"].groupby("layer")
    assert rows["input_nonzeros"].sum().loc[list(read)].to_dict() == read
