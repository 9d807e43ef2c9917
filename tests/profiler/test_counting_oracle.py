"""More than a thousand random layers and products against brute force, to the digit; then the hard single cases."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import oracle
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.counts.balance import first_inconsistency

# Random cases of each family; every family asserts that it ran them all.
CASES = {
    "conv1d": 140,
    "conv2d": 220,
    "conv3d": 80,
    "depthwise": 110,
    "transposed": 140,
    "linear": 120,
    "matmul": 180,
    "einsum": 140,
    "parameter": 80,
    "attention": 140,
}
BALANCED_EVERY = 3  # cases; the sums over a whole frame take as long as all else of a case
MODES = ("axis0", "flat", "call-axis0")
NUMBERS = (1.0, 0.7, 1 / 3, 2.0, 0.1)


# torch itself says so of padding="same" with even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_at_least_a_thousand_random_cases_are_compared() -> None:
    assert sum(CASES.values()) >= 1000


# --- inputs -----------------------------------------------------------------------------------------------------


def values(uniform: Tensor, flavour: str, unit: float, rate: float) -> Tensor:
    """Values of one kind made from uniform noise in (0, 1); outside of a network or inside one."""
    fires = (uniform < rate).to(uniform.dtype)
    if flavour == "zero":
        return uniform * 0
    if flavour == "real":
        return uniform - 0.5
    if flavour == "sparse real":
        return uniform * fires
    if flavour == "binary":
        return fires * unit
    if flavour == "ternary":
        return (fires - (uniform > 1 - rate / 2).to(uniform.dtype)) * unit
    assert flavour == "integer"
    return ((uniform < rate).to(uniform.dtype) + (uniform < rate / 2) + 2 * (uniform < rate / 4)) * unit


LOADER_FLAVOURS = ("binary", "binary", "binary", "ternary", "integer", "declared", "real", "sparse real", "zero")
INNER_FLAVOURS = ("binary", "binary", "binary", "ternary", "integer", "integer", "real", "sparse real", "zero")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values at other strides."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, 9)], -1)[..., 0]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


class Folded(nn.Module):
    """Runs ``op`` on (T, B, ...) as (T*B, ...)."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class After(nn.Module):
    """Runs ``op`` on what ``made`` makes of the input."""

    def __init__(self, made: Callable[[Tensor], Tensor], op: nn.Module) -> None:
        super().__init__()
        self.made, self.op = made, op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.made(x))


def batches(steps: Tensor, mode: str | None, rng: random.Random, layout: str = "plain") -> list[Tensor]:
    """(T, B, ...) as a loader of one or two batches in the layout of a time mode."""
    samples = steps.shape[1]
    cut = rng.randrange(1, samples) if samples > 1 and rng.random() < 0.4 else samples
    parts = [part for part in (steps[:, :cut], steps[:, cut:]) if part.shape[1]]
    if mode is None:
        parts = [part[0] for part in parts]
    elif mode == "flat":
        parts = [part.flatten(0, 1) for part in parts]
    return [laid_out(part.contiguous(), layout) for part in parts]


def rows_of(counts: se.Counts, *ops: str) -> list[pd.DataFrame]:
    """One frame per layer of these ops, its rows in order of time, the index as in ``per_sample``."""
    frame = counts.rows[counts.rows["op"].isin(ops)]
    return [part.sort_values("time_step") for _, part in frame.groupby("order", sort=True)]


def check_balance(counts: se.Counts, about: object, number: Iterator[int] = itertools.count()) -> None:  # noqa: B008
    """That a saved file would load, in every third case."""
    if next(number) % BALANCED_EVERY == 0:
        assert first_inconsistency(counts) is None, about


@dataclass
class Expected:
    """Brute-force counts of one operation, arrays (T, B)."""

    dense: int
    sops: npt.NDArray[np.int64]
    gated: npt.NDArray[np.int64]
    multi: npt.NDArray[np.int64] | None
    nonzeros: npt.NDArray[np.int64]
    kind: str
    max_k: int | None = None
    other_kind: str | None = None
    other_nonzeros: npt.NDArray[np.int64] | None = None


def check(counts: se.Counts, rows: pd.DataFrame, want: Expected, about: object) -> None:
    """Every number of one operation, per step and per sample."""
    steps, samples = want.sops.shape
    assert rows["time_step"].tolist() == list(range(steps)), about
    assert counts.samples == samples, about
    assert set(rows["input_kind"]) == {want.kind}, about
    assert rows["dense_macs"].tolist() == [want.dense * samples] * steps, about
    if want.kind == "integer":
        assert set(rows["max_k"]) == {want.max_k}, about
    arrays = {"sops": want.sops, "sops_gated": want.gated, "input_nonzeros": want.nonzeros}
    if want.multi is None:
        assert rows["sops_multi"].isna().all(), about
    else:
        arrays["sops_multi"] = want.multi
    if want.other_kind is not None:
        assert set(rows["other_kind"]) == {want.other_kind}, about
        assert want.other_nonzeros is not None
        arrays["other_nonzeros"] = want.other_nonzeros
    assert counts.per_sample is not None
    for name, array in arrays.items():
        assert rows[name].tolist() == array.sum(1).tolist(), (name, about)
        assert counts.per_sample[name][rows.index].tolist() == array.tolist(), (name, about)


def layer_expected(
    steps: Tensor, kind: oracle.KindOf, dense: int, meetings: Callable[[Tensor], npt.NDArray[np.int64]]
) -> Expected:
    """Expected counts of a weight layer that reads ``steps`` (T, B, ...); meetings: (B, ...) -> (B,)."""
    sops = np.stack([meetings(oracle.indicator(x)) for x in steps])
    multi: npt.NDArray[np.int64] | None = sops
    if kind.kind == "integer":
        assert kind.unit is not None
        multi = np.stack([meetings(oracle.multiples(x, kind.unit)) for x in steps])
    elif kind.kind == "real":
        multi = None
    nonzeros = np.stack([oracle.indicator(x).flatten(1).sum(1).numpy().astype(np.int64) for x in steps])
    return Expected(dense, sops, sops, multi, nonzeros, kind.kind, kind.max_k)


def run_layer_case(
    rng: random.Random,
    op: nn.Module,
    shape: tuple[int, ...],
    dense: int,
    meetings: Callable[[Tensor], npt.NDArray[np.int64]],
    *,
    folds: bool,
) -> None:
    """One random weight layer with a random input, T, mode, batch split and memory layout."""
    time_steps, samples = rng.choice((1, 1, 2, 3)), rng.randint(1, 4)
    mode = None if time_steps == 1 and rng.random() < 0.7 else rng.choice(MODES)
    dtype = rng.choice((torch.float32, torch.float32, torch.float64))
    unit, rate, inside = rng.choice(NUMBERS), rng.choice((0.1, 0.4, 0.9)), rng.random() < 0.4
    flavour = rng.choice(INNER_FLAVOURS if inside else LOADER_FLAVOURS)
    made = "integer" if flavour == "declared" else flavour
    noise = torch.rand((time_steps, samples, *shape), dtype=dtype)
    steps = values(noise, made, unit, rate)
    if flavour == "integer" and not inside and oracle.kind_of(steps).kind == "integer":
        kind = oracle.KindOf("real", None, None)  # grey levels are not spikes
    else:
        kind = oracle.kind_of(steps) if inside else oracle.loader_kind_of(steps, made)
    op = op.to(dtype)
    if folds and mode == "axis0":
        op = Folded(op)
    if inside:
        op = After(lambda x: values(x, flavour, unit, rate), op)
    layout = rng.choice(("plain", "plain", "channels_last", "strided", "transposed"))
    loader = batches(noise if inside else steps, mode, rng, layout)
    declared = "integer" if flavour == "declared" and not inside else None
    counts = se.profile(op, loader, time_steps=time_steps, time=mode, input_kind=declared)
    about = (op, shape, time_steps, mode, [tuple(x.shape) for x in loader], dtype, flavour, unit, rate, inside, layout)
    check_balance(counts, about)
    found = rows_of(counts, "conv", "linear")
    assert len(found) == 1, about
    check(counts, found[0], layer_expected(steps, kind, dense, meetings), about)


# --- weight layers ----------------------------------------------------------------------------------------------

CONV_CLASSES = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CLASSES = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def random_conv(rng: random.Random, dims: int, depthwise: bool = False) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution that fits its input shape (C, *space)."""
    groups = rng.choice((1, 1, 2, 3))
    ins, outs = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
    if depthwise:
        groups = ins = rng.randint(2, 5)
        outs = groups * rng.randint(1, 2)
    while True:
        space = [rng.randint(2, 7 if dims < 3 else 4) for _ in range(dims)]
        kernel = [rng.randint(1, 4 if dims < 3 else 3) for _ in range(dims)]
        stride, dilation = [rng.randint(1, 3) for _ in range(dims)], [rng.randint(1, 2) for _ in range(dims)]
        padding: Any = rng.choice(([rng.randint(0, 2) for _ in range(dims)], rng.randint(0, 2), "same", "valid"))
        if padding == "same":
            stride = [1] * dims
        before = {"same": 99, "valid": 0}.get(padding, 0) if isinstance(padding, str) else padding
        room = before if isinstance(before, list) else [before] * dims
        if all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(space, room, dilation, kernel, strict=True)):
            break
    conv = CONV_CLASSES[dims](ins, outs, kernel, stride, padding, dilation, groups, bias=rng.random() < 0.5)  # type: ignore[arg-type]
    return conv, (ins, *space)


def random_transposed(rng: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    dims, groups = rng.choice((1, 2, 2, 3)), rng.choice((1, 1, 2))
    ins, outs = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
    while True:
        space = [rng.randint(1, 5 if dims < 3 else 3) for _ in range(dims)]
        kernel = [rng.randint(1, 4 if dims < 3 else 3) for _ in range(dims)]
        stride, dilation = [rng.randint(1, 3) for _ in range(dims)], [rng.randint(1, 2) for _ in range(dims)]
        padding = [rng.randint(0, 2) for _ in range(dims)]
        extra = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
        sizes = zip(space, kernel, stride, padding, dilation, extra, strict=True)
        if all((n - 1) * s - 2 * p + d * (k - 1) + e + 1 > 0 for n, k, s, p, d, e in sizes):
            break
    make = TRANSPOSED_CLASSES[dims]
    return make(ins, outs, kernel, stride, padding, extra, groups, rng.random() < 0.5, dilation), (ins, *space)


def run_conv_case(rng: random.Random, conv: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        out_space = conv(torch.zeros(1, *shape)).shape[2:]
    dense = oracle.conv_dense_macs(shape[1:], out_space, conv)
    run_layer_case(rng, conv, shape, dense, lambda x: oracle.conv_meetings(x, conv), folds=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_random_convolutions_count_what_brute_force_counts(dims: int) -> None:
    rng, done = random.Random(dims), 0
    torch.manual_seed(dims)
    for _ in range(CASES[f"conv{dims}d"]):
        run_conv_case(rng, *random_conv(rng, dims))
        done += 1
    assert done == CASES[f"conv{dims}d"]


def test_random_depthwise_convolutions_count_what_brute_force_counts() -> None:
    rng, done = random.Random(4), 0
    torch.manual_seed(4)
    for _ in range(CASES["depthwise"]):
        run_conv_case(rng, *random_conv(rng, rng.choice((1, 2, 2, 3)), depthwise=True))
        done += 1
    assert done == CASES["depthwise"]


def test_random_transposed_convolutions_count_what_brute_force_counts() -> None:
    rng, done = random.Random(5), 0
    torch.manual_seed(5)
    for _ in range(CASES["transposed"]):
        run_conv_case(rng, *random_transposed(rng))
        done += 1
    assert done == CASES["transposed"]


def test_random_linear_layers_count_what_brute_force_counts() -> None:
    rng, done = random.Random(6), 0
    torch.manual_seed(6)
    for _ in range(CASES["linear"]):
        features, outs = rng.randint(1, 9), rng.randint(1, 7)
        between = [rng.randint(1, 4) for _ in range(rng.randint(0, 2))]
        linear = nn.Linear(features, outs, bias=rng.random() < 0.5)
        run_layer_case(
            rng,
            linear,
            (*between, features),
            int(np.prod(between, dtype=int)) * features * outs,
            lambda x, outs=outs: (x.flatten(1).sum(1) * outs).numpy().astype(np.int64),
            folds=False,
        )
        done += 1
    assert done == CASES["linear"]


def test_the_fast_oracle_equals_literal_nested_loops() -> None:
    rng = random.Random(7)
    torch.manual_seed(7)
    for case in range(60):
        conv, shape = random_transposed(rng) if case % 3 == 2 else random_conv(rng, 1 + case % 2)
        ks = torch.randint(0, 4, (2, *shape)).to(torch.float64)
        loops = oracle.transposed_meetings_by_loops if conv.transposed else oracle.conv_meetings_by_loops
        for x in (ks, oracle.indicator(ks)):
            assert oracle.conv_meetings(x, conv).tolist() == loops(x.numpy(), conv), (conv, shape)


def test_layers_equal_literal_nested_loops() -> None:
    rng = random.Random(8)
    torch.manual_seed(8)
    for case in range(40):
        conv, shape = random_transposed(rng) if case % 3 == 2 else random_conv(rng, 1 + case % 2)
        x = (torch.rand(2, *shape) < 0.4).float() * 0.7
        loops = oracle.transposed_meetings_by_loops if conv.transposed else oracle.conv_meetings_by_loops
        counts = se.profile(conv, [x], time_steps=1)
        want = loops(oracle.indicator(x).numpy(), conv)
        assert counts.per_sample is not None
        assert (
            counts.per_sample["sops"].tolist() == [[w] for w in want] or counts.per_sample["sops"][0].tolist() == want
        )
        assert counts.to_frame()["sops"].sum() == sum(want)


# --- products ---------------------------------------------------------------------------------------------------

Shape = tuple[int, ...]


@dataclass
class Side:
    """One operand: its shape per sample and how its values are made."""

    shape: Shape
    flavour: str
    unit: float
    rate: float

    def of(self, noise: Tensor) -> Tensor:
        """noise: (..., prod(shape)) -> values (..., *shape)."""
        return values(noise, self.flavour, self.unit, self.rate).unflatten(-1, self.shape)


def random_side(rng: random.Random, shape: Shape, flavours: tuple[str, ...] = INNER_FLAVOURS) -> Side:
    return Side(shape, rng.choice(flavours), rng.choice(NUMBERS), rng.choice((0.1, 0.4, 0.9)))


class TwoSided(nn.Module):
    """combine(left, right, ...) of operands that are made inside from slices of the input's last axis."""

    def __init__(self, sides: list[Side], combine: Callable[..., Tensor]) -> None:
        super().__init__()
        self.sides, self.combine = sides, combine

    def operands(self, noise: Tensor) -> list[Tensor]:
        sizes = [int(np.prod(side.shape)) for side in self.sides]
        return [side.of(part) for side, part in zip(self.sides, noise.split(sizes, -1), strict=True)]

    def forward(self, noise: Tensor) -> Tensor:
        return self.combine(*self.operands(noise))


def product_expected(equation: str, left: Tensor, right: Tensor, kind_of_left: Any = oracle.kind_of) -> Expected:
    """left, right: (T, B, ...); equation per step."""
    kinds = kind_of_left(left), oracle.kind_of(right)
    steps = [oracle.product(equation, a, b) for a, b in zip(left, right, strict=True)]
    order = oracle.KIND_ORDER
    flipped = order.index(kinds[1].kind) < order.index(kinds[0].kind)
    streamed = kinds[1] if flipped else kinds[0]
    sops = np.stack([step.coincidences for step in steps])
    lefts, rights = np.stack([s.nonzeros_left for s in steps]), np.stack([s.nonzeros_right for s in steps])
    multi: npt.NDArray[np.int64] | None = sops
    if streamed.kind == "real":
        multi = None
    elif streamed.kind == "integer":
        assert streamed.unit is not None
        pairs = []
        for a, b in zip(left, right, strict=True):
            a_w = oracle.indicator(a) if flipped else oracle.multiples(a, streamed.unit)
            b_w = oracle.multiples(b, streamed.unit) if flipped else oracle.indicator(b)
            pairs.append(oracle.weighted_coincidences(equation, a_w.numpy(), b_w.numpy()))
        multi = np.stack(pairs)
    return Expected(
        steps[0].dense,
        sops,
        np.stack([step.gated_right if flipped else step.gated_left for step in steps]),
        multi,
        rights if flipped else lefts,
        streamed.kind,
        streamed.max_k,
        kinds[0].kind if flipped else kinds[1].kind,
        lefts if flipped else rights,
    )


def run_product_case(rng: random.Random, model: TwoSided, per_op: Callable[..., list[Expected]], op: str) -> None:
    time_steps, samples = rng.choice((1, 1, 2, 3)), rng.randint(1, 3)
    mode = None if time_steps == 1 and rng.random() < 0.7 else rng.choice(MODES)
    size = sum(int(np.prod(side.shape)) for side in model.sides)
    noise = torch.rand(time_steps, samples, size)
    loader = batches(noise, mode, rng, rng.choice(("plain", "strided")))
    counts = se.profile(model, loader, time_steps=time_steps, time=mode)
    about = (model.sides, model.combine, time_steps, mode, [tuple(x.shape) for x in loader])
    check_balance(counts, about)
    found, wanted = rows_of(counts, op), per_op(*model.operands(noise))
    assert len(found) == len(wanted), about
    for rows, want in zip(found, wanted, strict=True):
        check(counts, rows, want, about)


def test_random_matrix_products_count_coincidences() -> None:
    rng, done = random.Random(10), 0
    torch.manual_seed(10)
    forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "@": lambda a, b: a @ b,
        "matmul": torch.matmul,
        "method": lambda a, b: a.matmul(b),
        "transposed": lambda a, b: (b.transpose(-2, -1) @ a.transpose(-2, -1)).transpose(-2, -1),
        "bmm": lambda a, b: torch.bmm(a.flatten(0, -3), b.flatten(0, -3)),
    }
    for _ in range(CASES["matmul"]):
        m, k, n = (rng.randint(1, 5) for _ in range(3))
        lead = [rng.randint(1, 3) for _ in range(rng.randint(0, 2))]
        form = rng.choice(list(forms))
        if form == "bmm":
            lead = []
        index = "gh"[: len(lead)]
        sides = [random_side(rng, (*lead, m, k)), random_side(rng, (*lead, k, n))]
        equation = f"b{index}mk,b{index}kn->b{index}mn"

        def expected(a: Tensor, b: Tensor, form: str = form, equation: str = equation) -> list[Expected]:
            if form == "transposed":  # the right operand comes first there, and wins a tie
                left, right = equation.split("->")[0].split(",")
                return [product_expected(f"{right},{left}->b", b, a)]
            return [product_expected(equation, a, b)]

        run_product_case(rng, TwoSided(sides, forms[form]), expected, "matmul")
        done += 1
    assert done == CASES["matmul"]


EQUATIONS = (
    "bij,bjk->bik",
    "bij,bkj->bik",
    "bhid,bhjd->bhij",
    "bhij,bhjd->bhid",
    "bqhd,bkhd->bhqk",
    "bhqk,bkhd->bqhd",
    "bij,bj->bi",
    "bi,bj->bij",
    "bij,bij->b",
    "bdn,bdm->bnm",
)


def test_random_einsums_count_coincidences() -> None:
    rng, done = random.Random(11), 0
    torch.manual_seed(11)
    for _ in range(CASES["einsum"]):
        equation = rng.choice(EQUATIONS)
        sizes = {index: rng.randint(1, 4) for index in sorted(set(equation) - set("b,->"))}
        left, right = (tuple(sizes[i] for i in term[1:]) for term in equation.split("->")[0].split(","))
        sides = [random_side(rng, left), random_side(rng, right)]

        def multiply(a: Tensor, b: Tensor, equation: str = equation) -> Tensor:
            timed = a.dim() > len(equation.split(",")[0])
            return torch.einsum(equation.replace("b", "tb") if timed else equation, a, b)

        model = TwoSided(sides, multiply)
        run_product_case(rng, model, lambda a, b, e=equation: [product_expected(e, a, b)], "matmul")
        done += 1
    assert done == CASES["einsum"]


def test_random_products_with_a_parameter_count_as_linear_layers() -> None:
    rng, done = random.Random(12), 0
    torch.manual_seed(12)

    class WithParameter(TwoSided):
        def __init__(self, side: Side, outs: int, form: str) -> None:
            super().__init__([side], self.apply_weight)
            self.weight, self.form = nn.Parameter(torch.randn(side.shape[-1], outs)), form

        def apply_weight(self, x: Tensor) -> Tensor:
            if self.form == "@":
                return x @ self.weight
            if self.form == "left":
                return self.weight.T @ x.transpose(-2, -1)
            if self.form == "functional":
                return functional.linear(x, self.weight.T)
            return torch.einsum("tbmk,kn->tbmn" if x.dim() == 4 else "bmk,kn->bmn", x, self.weight)

    for _ in range(CASES["parameter"]):
        m, k, n = (rng.randint(1, 5) for _ in range(3))
        model = WithParameter(random_side(rng, (m, k)), n, rng.choice(("@", "left", "functional", "einsum")))

        def expected(x: Tensor, dense: int = m * k * n, n: int = n) -> list[Expected]:
            kind = oracle.kind_of(x)
            return [layer_expected(x, kind, dense, lambda i: (i.flatten(1).sum(1) * n).numpy().astype(np.int64))]

        run_product_case(rng, model, expected, "linear")
        done += 1
    assert done == CASES["parameter"]


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def test_random_attentions_count_both_of_their_products() -> None:
    rng, done = random.Random(13), 0
    torch.manual_seed(13)
    for _ in range(CASES["attention"]):
        heads, length, keys, depth = rng.randint(1, 3), rng.randint(2, 5), rng.randint(2, 5), rng.randint(1, 4)
        masking = rng.choice(("none", "none", "causal", "bool", "float"))
        sharp = rng.random() < 0.4
        flavours = ("binary", "integer", "real", "sparse real")
        sides = [
            random_side(rng, (heads, length, depth), ("real",) if sharp else flavours),
            random_side(rng, (heads, keys, depth), ("real",) if sharp else flavours),
            random_side(rng, (heads, keys, rng.randint(1, 4))),
        ]
        mask: Tensor | None = None
        if masking in ("bool", "float"):
            mask = torch.rand(length, keys) < 0.6
            mask[:, 0] = True
            mask = mask if masking == "bool" else torch.zeros(length, keys).masked_fill(~mask, float("-inf"))
        shown = torch.ones(length, keys, dtype=torch.bool).tril() if masking == "causal" else mask
        scale, gain = rng.choice((None, None, 0.125)), 1e4 if sharp else 1.0

        def attend(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            mask: Tensor | None = mask,
            causal: bool = masking == "causal",
            scale: float | None = scale,
            gain: float = gain,
        ) -> Tensor:
            return functional.scaled_dot_product_attention(
                q * gain, k * gain, v, attn_mask=mask, is_causal=causal, scale=scale
            )

        def expected(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            shown: Tensor | None = shown,
            scale: float | None = scale,
            gain: float = gain,
        ) -> list[Expected]:
            q, k = q * gain, k * gain
            weights = attention_weights(q, k, shown, scale)
            return [
                product_expected("bhid,bhjd->bhij", q, k),
                product_expected("bhij,bhjd->bhid", weights, v, oracle.computed_kind_of),
            ]

        run_product_case(rng, TwoSided(sides, attend), expected, "matmul")
        done += 1
    assert done == CASES["attention"]


def test_the_fast_product_oracle_equals_a_triple_loop() -> None:
    rng = np.random.default_rng(14)
    for _ in range(30):
        m, k, n = rng.integers(1, 6, 3)
        left, right = rng.integers(-1, 2, (2, m, k)), rng.integers(-1, 2, (2, k, n))
        found = oracle.product("bmk,bkn->bmn", torch.tensor(left), torch.tensor(right))
        assert found.coincidences.tolist() == [
            oracle.coincidences_by_loops(a, b) for a, b in zip(left, right, strict=True)
        ]
        assert found.gated_left.tolist() == [int((a != 0).sum() * n) for a in left]
        assert found.gated_right.tolist() == [int((b != 0).sum() * m) for b in right]


def test_einsum_with_an_ellipsis_is_counted_as_without() -> None:
    torch.manual_seed(15)
    x = (torch.rand(3, 2, 4, 5) < 0.4).float()
    want = oracle.product("bhik,bhjk->bhij", x, x)

    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("...ik,...jk->...ij", x, x)

    (row,) = rows_of(se.profile(Scores(), [x], time_steps=1), "matmul")
    assert row["sops"].item() == want.coincidences.sum()
    assert row["dense_macs"].item() == 3 * want.dense


# --- hard single cases ------------------------------------------------------------------------------------------


def one_row(module: nn.Module, loader: list[Tensor], **options: Any) -> pd.Series:
    frame = se.profile(module, loader, time_steps=1, **options).to_frame()
    frame = frame[frame["op"].isin(("conv", "linear"))]
    assert len(frame) == 1
    return frame.iloc[0]


def spikes(*shape: int, rate: float = 0.4) -> Tensor:
    return (torch.rand(*shape) < rate).float()


def test_spikes_plus_a_billionth_are_real_and_all_non_zero() -> None:
    torch.manual_seed(20)
    x = spikes(2, 3, 8, 8) + 1e-9
    assert ((x == 1) | (x == 1e-9)).all()  # 1 + 1e-9 is 1 in float32, 0 + 1e-9 is not 0
    conv = nn.Conv2d(3, 4, 3, padding=1)
    row = one_row(conv, [x])
    assert (row["input_kind"], row["input_nonzeros"]) == ("real", x.numel())
    assert row["sops"] == oracle.conv_meetings(torch.ones_like(x), conv).sum()


def test_spikes_plus_a_billionth_made_inside_the_network_are_real_too() -> None:
    torch.manual_seed(20)
    row = one_row(After(lambda x: (x > 0.5).float() + 1e-9, nn.Linear(8, 4)), [torch.rand(2, 8)])
    assert (row["input_kind"], row["input_nonzeros"], row["sops"]) == ("real", 16, 64)


def test_one_value_next_to_one_among_ones_is_not_binary() -> None:
    x = torch.ones(4, 16)
    x[2, 3] = 1 - 2**-24
    assert x[2, 3] != 1
    for made in (
        x,
        torch.where(torch.arange(16) % 2 == 0, x, 0.0).index_put((torch.tensor(2), torch.tensor(3)), x[2, 3]),
    ):
        row = one_row(nn.Linear(16, 5), [made])
        assert row["input_kind"] == "real"
        assert row["sops"] == made.count_nonzero() * 5


def test_minus_zero_is_zero() -> None:
    x = torch.tensor([[1.0, -0.0, 0.0, 1.0], [-0.0, -0.0, -0.0, -0.0]])
    row = one_row(nn.Linear(4, 5), [x])
    assert (row["input_kind"], row["input_nonzeros"], row["sops"]) == ("binary", 2, 10)
    row = one_row(nn.Linear(4, 5), [-x])
    assert (row["input_nonzeros"], row["sops"]) == (2, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_denormals_are_not_zero(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).smallest_normal
    x = torch.tensor([[1.0, smallest / 4, 0.0, 1.0]], dtype=dtype)
    assert 0 < x[0, 1].item() < smallest
    row = one_row(nn.Linear(4, 5, dtype=dtype), [x])
    assert (row["input_kind"], row["input_nonzeros"], row["sops"]) == ("real", 3, 15)


def test_a_tensor_of_one_denormal_and_zeros_is_binary() -> None:
    x = torch.tensor([[2.0**-140, 0.0, 0.0, 2.0**-140]])
    row = one_row(nn.Linear(4, 5), [x])
    assert (row["input_kind"], row["input_nonzeros"], row["sops"]) == ("binary", 2, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [(0, 0), (1, 7)])
def test_nan_and_infinity_are_refused_in_one_line(value: float, place: tuple[int, int]) -> None:
    x = spikes(2, 8)
    x[place] = value
    with pytest.raises(ProfilingError, match=r"Linear.*(NaN|infinite)") as caught:
        se.profile(nn.Linear(8, 3), [x], time_steps=1)
    assert "\n" not in str(caught.value)


def test_nan_that_is_born_inside_the_network_is_refused() -> None:
    with pytest.raises(ProfilingError, match=r"op.*(NaN|infinite)"):
        se.profile(After(lambda x: x / x, nn.Linear(8, 3)), [spikes(2, 8)], time_steps=1)


def test_nan_on_either_side_of_a_product_is_refused() -> None:
    class Product(nn.Module):
        def __init__(self, flip: bool) -> None:
            super().__init__()
            self.flip = flip

        def forward(self, x: Tensor) -> Tensor:
            a, b = (x > 0.5).float(), x / 0
            return b @ a if self.flip else a @ b

    for flip in (False, True):
        with pytest.raises(ProfilingError, match=r"matmul0.*(NaN|infinite)"):
            se.profile(Product(flip), [torch.rand(2, 4, 4)], time_steps=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_float_type_is_counted_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(21)
    x = spikes(2, 3, 6, 6) * 0.7
    conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
    want = oracle.conv_meetings(oracle.indicator(x), conv).sum()
    row = one_row(conv.to(dtype), [x.to(dtype)])
    assert (row["input_kind"], row["sops"], row["sops_multi"]) == ("binary", want, want)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
def test_whole_number_and_bool_inputs_are_counted_behind_their_cast(dtype: torch.dtype) -> None:
    torch.manual_seed(22)
    x = spikes(2, 8)
    row = one_row(After(lambda x: x.float() * 0.7, nn.Linear(8, 5)), [x.to(dtype)])
    assert (row["input_kind"], row["sops"]) == ("binary", x.sum() * 5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_products_of_whole_number_tensors_are_counted(dtype: torch.dtype) -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(-2, -1)

    torch.manual_seed(23)
    x = spikes(2, 4, 5).to(dtype)
    frame = se.profile(Square(), [x], time_steps=1).to_frame()
    want = oracle.product("bij,bkj->bik", x, x)
    assert (frame["input_kind"].item(), frame["sops"].item()) == ("binary", want.coincidences.sum())


def test_strides_do_not_matter() -> None:
    torch.manual_seed(24)
    x, conv = spikes(2, 3, 6, 6) * 0.7, nn.Conv2d(3, 4, 3, padding=1, stride=2)
    want = oracle.conv_meetings(oracle.indicator(x), conv).tolist()
    garbage = torch.full((2, 6, 12, 12), 5.0)
    garbage[:, ::2, 3:9, ::2] = x
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        garbage[:, ::2, 3:9, ::2],
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        x.flip(0).flip(0),
    ):
        assert torch.equal(same, x)
        counts = se.profile(conv, [same], time_steps=1)
        assert counts.per_sample is not None
        assert counts.per_sample["sops"].tolist() == [want]


def test_an_expanded_input_counts_every_element_it_shows() -> None:
    x = torch.tensor([1.0, 0.0, 1.0]).expand(4, 5, 3)
    row = one_row(nn.Linear(3, 2), [x])
    assert (row["input_nonzeros"], row["sops"]) == (40, 80)


def test_channels_last_weights_count_alike() -> None:
    torch.manual_seed(25)
    x, conv = spikes(2, 3, 6, 6), nn.Conv2d(3, 4, 3, padding=1)
    want = oracle.conv_meetings(oracle.indicator(x), conv).sum()
    row = one_row(conv.to(memory_format=torch.channels_last), [x.contiguous(memory_format=torch.channels_last)])
    assert row["sops"] == want


@pytest.mark.parametrize("padding_mode", ["circular", "reflect", "replicate"])
def test_padding_with_values_sends_spikes_that_zero_padding_would_not(padding_mode: str) -> None:
    torch.manual_seed(26)
    x, conv = spikes(2, 3, 6, 6, rate=0.7), nn.Conv2d(3, 4, 3, padding=1, padding_mode=padding_mode)
    padded = functional.pad(x, [1, 1, 1, 1], mode=padding_mode)
    plain = nn.Conv2d(3, 4, 3)
    row = one_row(conv, [x])
    assert row["sops"] == oracle.conv_meetings(oracle.indicator(padded), plain).sum()
    assert row["dense_macs"] == 2 * 36 * 27 * 4


def test_zero_weights_are_met_all_the_same() -> None:
    linear = nn.Linear(4, 5)
    nn.init.zeros_(linear.weight)
    assert one_row(linear, [torch.ones(3, 4)])["sops"] == 60


def test_a_single_image_is_a_batch() -> None:
    torch.manual_seed(27)
    for conv in (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2), nn.ConvTranspose2d(3, 4, 3, padding=1)):
        x = spikes(1, 3, 6, 6)
        assert one_row(conv, [x])["sops"] == oracle.conv_meetings(oracle.indicator(x), conv).sum()


def test_an_empty_loader_and_an_empty_batch_are_refused() -> None:
    for loader in ([], [torch.zeros(0, 4)]):
        with pytest.raises(ProfilingError, match="no samples"):
            se.profile(nn.Linear(4, 5), loader, time_steps=1)


def test_an_empty_batch_among_others_adds_nothing() -> None:
    x = spikes(3, 4)
    want = se.profile(nn.Linear(4, 5), [x], time_steps=1).to_frame()
    for loader in ([x, x[:0]], [x[:0], x]):
        pd.testing.assert_frame_equal(se.profile(nn.Linear(4, 5), loader, time_steps=1).to_frame(), want)


def test_a_ternary_input_and_the_negative_of_a_binary_one() -> None:
    x = torch.tensor([[0.7, -0.7, 0.0], [0.0, 0.0, 0.7]])
    row = one_row(nn.Linear(3, 2), [x])
    assert (row["input_kind"], row["sops"], row["sops_multi"]) == ("ternary", 6, 6)
    row = one_row(nn.Linear(3, 2), [-x.abs()])  # one constant, whatever it is
    assert (row["input_kind"], row["sops"]) == ("binary", 6)


def test_binary_in_one_batch_and_minus_that_in_the_next_is_ternary() -> None:
    x = torch.tensor([[0.7, 0.0, 0.0]])
    row = one_row(nn.Linear(3, 2), [x, -x])
    assert (row["input_kind"], row["sops"], row["sops_multi"]) == ("ternary", 4, 4)


def test_the_kind_does_not_depend_on_how_samples_are_split_into_batches() -> None:
    ones, twos = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    for loader in ([torch.cat([ones, twos])], [ones, twos], [twos, ones]):
        assert one_row(nn.Linear(2, 3), loader)["input_kind"] == "real"  # grey levels, not declared
        row = one_row(nn.Linear(2, 3), loader, input_kind="integer")
        assert (row["input_kind"], row["max_k"], row["sops"], row["sops_multi"]) == ("integer", 2, 6, 9)


def test_a_declared_kind_that_a_later_batch_breaks_is_an_error() -> None:
    fine, broken = torch.tensor([[2.0, 255.0]]), torch.tensor([[0.5, 1.0]])
    for loader in ([torch.cat([fine, broken])], [fine, broken], [broken, fine]):
        with pytest.raises(ProfilingError, match="input_kind='integer' was declared"):
            se.profile(nn.Linear(2, 3), loader, time_steps=1, input_kind="integer")


def test_twos_and_threes_are_multiples_of_one() -> None:
    def sums(x: Tensor) -> Tensor:
        fires = (x > 0.5).float()
        return fires * 2 + (1 - fires) * 3

    row = one_row(After(sums, nn.Linear(8, 1)), [torch.rand(4, 8).round() * 0.8])
    assert (row["input_kind"], row["max_k"]) == ("integer", 3)


def test_multiples_beyond_max_k_are_real() -> None:
    def up_to(k: int) -> Callable[[Tensor], Tensor]:
        return lambda x: (x * k).round() * 0.7

    ramp = torch.linspace(0, 1, 45).expand(2, 45)
    assert one_row(After(up_to(10), nn.Linear(45, 1)), [ramp])["input_kind"] == "integer"
    assert one_row(After(up_to(11), nn.Linear(45, 1)), [ramp])["input_kind"] == "real"
    assert one_row(After(up_to(11), nn.Linear(45, 1)), [ramp], max_k=11)["max_k"] == 11


def test_multiples_within_four_ulp_are_integer_and_beyond_are_real() -> None:
    def third(ulps: int) -> Callable[[Tensor], Tensor]:
        def made(x: Tensor) -> Tensor:
            values = x.clone()
            values[values == 3] = 3 + ulps * 2.0**-22  # one ulp of 3 in float32 is 2**-22
            return values

        return made

    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert one_row(After(third(4), nn.Linear(4, 1)), [x])["input_kind"] == "integer"
    assert one_row(After(third(5), nn.Linear(4, 1)), [x])["input_kind"] == "real"


def test_a_sharp_softmax_leaves_only_the_coincidences_that_are_left() -> None:
    torch.manual_seed(28)
    q, k, v = (torch.randn(2, 2, 6, 4) for _ in range(3))

    class Sharp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.unbind(1)
            return functional.scaled_dot_product_attention(q * 1e4, k * 1e4, v)

    rows = rows_of(se.profile(Sharp(), [torch.stack([q, k, v], 1)], time_steps=1), "matmul")[1]
    weights = attention_weights(q * 1e4, k * 1e4, None, None)
    assert (weights == 0).sum() > weights.numel() / 2
    assert rows["sops"].item() == (weights != 0).sum() * 4
    assert rows["dense_macs"].item() == 2 * 2 * 6 * 6 * 4


def test_counts_that_no_32_bit_number_holds_are_exact() -> None:
    class Square(nn.Module):
        spiking_neuron = False  # else it is tried out as one, and takes a second a run

        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    (row,) = rows_of(se.profile(Square(), [torch.ones(1, 1700, 1700)], time_steps=1), "matmul")
    assert 1700**3 > 2**32
    assert (row["sops"].item(), row["sops_gated"].item(), row["dense_macs"].item()) == (1700**3,) * 3
