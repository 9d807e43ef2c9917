"""Operations that sum over time steps: attention over steps and chunks of them, temporal convolutions, flattened steps.

A row belongs to the step that its result still holds; where the result holds none, the work is done once per inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.run import UnsupportedOperationWarning

pytestmark = pytest.mark.usefixtures("one_thread")

T, B, N, C = 4, 3, 5, 6


def spikes(*shape: int, seed: int = 1, rate: float = 0.3) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def rows_of(model: nn.Module, x: Tensor, op: str, **arguments: Any) -> dict[str, dict[int, list[int]]]:
    """Layer -> time step -> accumulates of every sample, in one batch and in two."""
    given = {"time_steps": T, "time": "axis0", **arguments}
    found = []
    axis = 0 if given["time"] in ("inside", "axis1") else 1
    for batches in ([x], list(x.split([1, x.shape[axis] - 1], axis))):
        counts = se.profile(model, batches, **given)
        frame, samples = counts.to_frame(), counts.per_sample
        assert samples is not None
        layers: dict[str, dict[int, list[int]]] = {}
        for i in np.flatnonzero(frame["op"] == op):
            layers.setdefault(frame["layer"][i], {})[int(frame["time_step"][i])] = samples["sops"][i].tolist()
        found.append(layers)
    assert found[0] == found[1]
    return found[0]


def met(left: Tensor, right: Tensor) -> list[int]:
    """Coincidences of (B, ..., M, K) and (B, ..., K, N) per sample."""
    a, b = oracle.indicator(left).numpy(), oracle.indicator(right).numpy()
    return [int(sample.sum()) for sample in a @ b]


def tokens_of(x: Tensor, steps: int) -> Tensor:
    """(T, B, N, C) -> (T/c, B, c*N, C): chunks of c steps."""
    t, b, n, c = x.shape
    return x.view(t // steps, steps, b, n, c).permute(0, 2, 1, 3, 4).reshape(t // steps, b, steps * n, c)


def steps_of(y: Tensor, steps: int) -> Tensor:
    """The other way round."""
    chunks, b, tokens, c = y.shape
    whole = y.reshape(chunks, b, steps, tokens // steps, c).permute(0, 2, 1, 3, 4)
    return whole.reshape(chunks * steps, b, tokens // steps, c)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_attention_over_chunks_of_steps_row_by_row(steps: int) -> None:
    """softmax-free (q k^T) v: a row of the result belongs to the step of its query, and reads all keys of the chunk."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q = tokens_of(x, steps)
        return self.head(steps_of((q @ q.mT) @ q, steps).mean(2))

    x = spikes(T, B, N, C)
    found = rows_of(Does(forward, head=nn.Linear(C, 2)), x, "matmul")
    chunk = [range(t - t % steps, t - t % steps + steps) for t in range(T)]
    keys = [torch.cat([x[s] for s in chunk[t]], 1) for t in range(T)]  # (B, c*N, C)
    scores = [x[t] @ keys[t].mT for t in range(T)]
    assert found["#matmul0"] == {t: met(x[t], keys[t].mT) for t in range(T)}
    assert found["#matmul1"] == {t: met(scores[t], keys[t]) for t in range(T)}


@pytest.mark.parametrize("steps", [2, 4])
def test_keys_times_values_over_a_chunk_belong_to_no_step(steps: int) -> None:
    """STAtten: q (k^T v). The inner product sums over the steps of a chunk; the outer one has those of q."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q = tokens_of(x, steps)
        return self.head(steps_of(q @ (q.mT @ q), steps).mean(2))

    x = spikes(T, B, N, C)
    found = rows_of(Does(forward, head=nn.Linear(C, 2)), x, "matmul")
    chunks = [torch.cat(list(x[s : s + steps]), 1) for s in range(0, T, steps)]
    inner = [chunk.mT @ chunk for chunk in chunks]
    assert found["#matmul0"] == {-1: np.sum([met(c.mT, c) for c in chunks], 0).tolist()}
    assert found["#matmul1"] == {t: met(x[t], inner[t // steps]) for t in range(T)}


def test_sizes_of_a_product_over_chunks_are_those_of_one_inference_and_of_one_step() -> None:
    """q^T q: 2 chunks of C x (2 N) x C; q (q^T q): N x C x C per step."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q = tokens_of(x, 2)
        return self.head(steps_of(q @ (q.mT @ q), 2).mean(2))

    frame = se.profile(Does(forward, head=nn.Linear(C, 2)), [spikes(T, B, N, C)], time_steps=T, time="axis0").to_frame()
    inner = frame[frame["layer"] == "#matmul0"].iloc[0]
    assert (inner["positions"], inner["reduction"], inner["out_channels"], inner["groups"]) == (C, 2 * N, 2 * C, 2)
    assert (inner["dense_macs"], inner["input_elements"]) == (B * 2 * C * 2 * N * C, 2 * C * 2 * N)
    outer = frame[frame["layer"] == "#matmul1"]
    assert set(outer["dense_macs"]) == {B * N * C * C}
    assert set(outer["input_elements"]) == {N * C}
    assert set(outer["other_elements"]) == {C * C}


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_of_torch_over_all_steps(heads: int, samples: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        t, b, n, c = x.shape
        q = x.permute(1, 0, 2, 3).reshape(b, t * n, heads, c // heads).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, q, q)
        return self.head(y.transpose(1, 2).reshape(b, t, n, c).mean(2))

    x = spikes(T, samples, N, C)
    frame = se.profile(Does(forward, head=nn.Linear(C, 2)), [x], time_steps=T, time="axis0").to_frame()
    products = [frame[frame["layer"] == layer] for layer in frame.loc[frame["op"] == "matmul", "layer"].unique()]
    assert [rows["time_step"].tolist() for rows in products] == [list(range(T))] * 2
    q = x.unflatten(-1, (heads, -1)).permute(1, 3, 0, 2, 4)  # (B, h, T, N, c)
    whole = q.flatten(2, 3)
    assert products[0]["sops"].tolist() == [sum(met(q[:, :, t], whole.mT)) for t in range(T)]
    dense = torch.ones(samples, heads, N, T * N)  # softmax leaves no zero
    assert products[1]["sops"].tolist() == [sum(met(dense, whole))] * T


EQUATIONS = {
    "tbnc,sbmc->btnsm": "query",  # the first axis of time, that of the left operand, is the step
    "tbnc,sbnc->bts": "query",
    "tbnc,tbnd->bcd": None,  # summed over time
    "tbnc,tbnd->tbcd": "own",
    "tbnc,tbnd->tbnd": None,
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_over_time(equation: str) -> None:
    x, y = spikes(T, B, N, C), spikes(T, B, N, C, seed=2)
    model = Does(lambda self, both: torch.einsum(equation, both[..., :C], both[..., C:]))
    both = torch.cat([x, y], -1)
    if equation == "tbnc,tbnd->tbnd":  # c is summed on one side: no product of two matrices
        with pytest.warns(UnsupportedOperationWarning, match="einsum"):
            se.profile(model, [both], time_steps=T, time="axis0")
        return
    found = rows_of(model, both, "matmul")["#matmul0"]
    terms = equation.split("->")[0]
    kept = "tb" if EQUATIONS[equation] else "b"
    a, b = oracle.indicator(x).numpy(), oracle.indicator(y).numpy()
    expected = np.einsum(f"{terms}->{kept}", a, b).astype(int)
    if kept == "b":
        assert found == {-1: expected.tolist()}
    else:
        assert found == {t: expected[t].tolist() for t in range(T)}


def test_a_product_that_sums_over_samples_is_refused() -> None:
    model = Does(lambda self, x: x.transpose(1, 2) @ x.transpose(1, 2).mT)  # (T, N, B, C): samples meet each other
    with pytest.raises(ProfilingError, match="#matmul0: cannot tell which axes hold time and samples"):
        se.profile(model, [spikes(T, B, N, C)], time_steps=T, time="axis0")


# --- layers over flattened steps ----------------------------------------------------------------------------------


def test_a_linear_layer_over_all_steps_is_work_of_one_inference() -> None:
    x = spikes(T, B, N)
    model = Does(lambda self, x: self.head(x.transpose(0, 1).flatten(1)), head=nn.Linear(T * N, 7))
    assert rows_of(model, x, "linear") == {"head": {-1: (7 * x.sum((0, 2)).int()).tolist()}}
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame()
    assert frame["dense_macs"].tolist() == [B * T * N * 7]
    assert frame["input_elements"].tolist() == [T * N]


def test_weights_of_time_steps_are_work_of_one_inference() -> None:
    """(B, N, T) @ (T, 3), and the same as W x and as einsum: a learned average over time."""
    x = spikes(T, B, N)
    ways: list[Callable[[Any, Tensor], Tensor]] = [
        lambda self, x: self.head(x.permute(1, 2, 0)),
        lambda self, x: self.head.weight @ x.permute(1, 0, 2),
        lambda self, x: torch.einsum("tbn,kt->bnk", x, self.head.weight),
    ]
    for way in ways:
        found = rows_of(Does(way, head=nn.Linear(T, 3, bias=False)), x, "linear")
        assert list(found.values()) == [{-1: (3 * x.sum((0, 2)).int()).tolist()}]


def test_a_linear_layer_over_steps_of_a_chunk_belongs_to_no_step_and_goes_on_without_steps() -> None:
    x = spikes(T, B, N)

    def forward(self: Any, x: Tensor) -> Tensor:
        chunks = self.mix(x.view(2, 2, B if x.shape[1] == B else x.shape[1], N).permute(0, 2, 3, 1))  # (2, B, N, 2)
        return self.head(chunks.flatten(2).mean(0))

    model = Does(forward, mix=nn.Linear(2, 3), head=nn.Linear(3 * N, 2))
    found = rows_of(model, x, "linear")
    assert found["mix"] == {-1: (3 * x.sum((0, 2)).int()).tolist()}
    assert list(found["head"]) == [-1]


def test_a_layer_on_fewer_steps_than_there_are_is_work_of_one_inference() -> None:
    """Differences between neighbouring steps: T - 1 of them."""
    x = spikes(T, B, N)
    model = Does(lambda self, x: self.mix(x[1:] - x[:-1]).mean(0), mix=nn.Linear(N, 3))
    found = rows_of(model, x, "linear")
    assert found["mix"] == {-1: (3 * (x[1:] != x[:-1]).sum((0, 2))).tolist()}


# --- convolutions along time --------------------------------------------------------------------------------------


def conv_rows(x: Tensor, conv: nn.Module, axis: int) -> Tensor:
    """(T', B) accumulates of every output step: a convolution of the indicator with ones."""
    out = oracle.CONVS[len(conv.kernel_size)](
        functional.pad(oracle.indicator(x), [p for pair in reversed(oracle.padding_of(conv)) for p in pair]),
        torch.ones(conv.weight.shape, dtype=torch.float64), None, conv.stride, 0, conv.dilation, conv.groups,
    )  # fmt: skip
    return out.movedim((axis, 0), (0, 1)).flatten(2).sum(2).int()


TEMPORAL: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "kernel 3": (lambda: nn.Conv1d(C, 7, 3, padding=1), "bct", 2),
    "depthwise": (lambda: nn.Conv1d(C, C, 3, padding=1, groups=C), "bct", 2),
    "dilated": (lambda: nn.Conv1d(C, 2, 2, padding="same", dilation=2), "bct", 2),
    "pointwise": (lambda: nn.Conv1d(C, 2, 1), "bct", 2),
    "plane of tokens and steps": (lambda: nn.Conv2d(C, 2, 3, padding=1), "bcnt", 3),
    "plane of steps and tokens": (lambda: nn.Conv2d(C, 2, (3, 2), padding=(1, 0)), "bctn", 2),
    "volume, along time": (lambda: nn.Conv3d(2, 3, (3, 1, 1), padding=(1, 0, 0)), "volume", 2),
    "volume, along space": (lambda: nn.Conv3d(2, 3, (1, 3, 2), padding=(0, 1, 0), stride=(1, 2, 1)), "volume", 2),
    "volume, time last": (lambda: nn.Conv3d(2, 3, (3, 2, 1)), "time last", 4),
    "volume, delay": (lambda: nn.Conv3d(2, 3, (3, 2, 3), padding=(0, 0, 1)), "time last", 4),
}
WAYS: dict[str, Callable[[Tensor], Tensor]] = {  # of (T, B, N, C)
    "bct": lambda x: x.mean(2).permute(1, 2, 0),
    "bcnt": lambda x: x.permute(1, 3, 2, 0),
    "bctn": lambda x: x.permute(1, 3, 0, 2),
    "volume": lambda x: x.unflatten(3, (2, 3)).permute(1, 3, 0, 2, 4),
    "time last": lambda x: x.unflatten(3, (2, 3)).permute(1, 3, 2, 4, 0),
}


@pytest.mark.parametrize("name", TEMPORAL)
def test_a_convolution_along_time_counts_at_the_step_of_its_output(name: str) -> None:
    make, way, axis = TEMPORAL[name]
    torch.manual_seed(0)
    conv, x = make(), spikes(T, B, N, C)
    found = rows_of(Does(lambda self, x: self.conv(WAYS[way](x)), conv=conv), x, "conv")["conv"]
    assert found == dict(enumerate(conv_rows(WAYS[way](x), conv, axis).tolist()))


@pytest.mark.parametrize("kernel", [2, 4])
def test_a_convolution_to_fewer_steps_is_work_of_one_inference(kernel: int) -> None:
    conv, x = nn.Conv1d(C, 2, kernel), spikes(T, B, N, C)
    model = Does(lambda self, x: self.head(self.conv(WAYS["bct"](x)).mean(2)), conv=conv, head=nn.Linear(2, 2))
    found = rows_of(model, x, "conv")["conv"]
    assert found == {-1: conv_rows(WAYS["bct"](x), conv, 2).sum(0).tolist()}
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame().set_index("layer")
    assert frame.loc["conv", "dense_macs"] == B * (T - kernel + 1) * C * 2 * kernel
    assert frame.loc["head", "time_step"] == -1


def test_a_causal_convolution_is_padded_and_cut_to_t_steps_again() -> None:
    """A temporal convolution of TCN: padded on both sides, the steps behind the last one cut off. Time goes on."""
    conv, x = nn.Conv1d(C, C, 3, padding=2), spikes(T, B, N, C)
    model = Does(lambda self, x: self.head(self.conv(WAYS["bct"](x))[..., :-2].mT), conv=conv, head=nn.Linear(C, 2))
    found = rows_of(model, x, "conv")["conv"]
    assert found == {-1: conv_rows(WAYS["bct"](x), conv, 2).sum(0).tolist()}
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame()
    assert frame[frame["layer"] == "head"]["time_step"].tolist() == list(range(T))


def test_steps_as_channels_are_work_of_one_inference() -> None:
    conv, x = nn.Conv2d(T * 2, 3, 2), spikes(T, B, N, C).unflatten(3, (2, 3)).transpose(2, 3)  # (T, B, 2, N, 3)
    model = Does(lambda self, x: self.conv(x.transpose(0, 1).flatten(1, 2)), conv=conv)
    assert rows_of(model, x, "conv")["conv"] == {
        -1: oracle.conv_meetings(oracle.indicator(x.transpose(0, 1).flatten(1, 2)), conv).tolist()
    }


def test_a_kernel_over_steps_and_tokens_in_one_axis_is_work_of_one_inference_and_time_goes_on() -> None:
    conv, x = nn.Conv1d(C, C, 3, padding=1), spikes(T, B, N, C)

    def flat(x: Tensor) -> Tensor:
        return x.permute(1, 3, 0, 2).flatten(2)  # (B, C, T*N)

    model = Does(lambda self, x: self.head(self.conv(flat(x)).unflatten(2, (T, N)).permute(0, 2, 3, 1)),
                 conv=conv, head=nn.Linear(C, 2))  # fmt: skip
    assert rows_of(model, x, "conv")["conv"] == {-1: oracle.conv_meetings(oracle.indicator(flat(x)), conv).tolist()}
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame()
    assert frame[frame["layer"] == "head"]["time_step"].tolist() == list(range(T))


def test_a_pointwise_kernel_over_steps_and_tokens_counts_every_step_apart() -> None:
    conv, x = nn.Conv1d(C, 7, 1), spikes(T, B, N, C)
    model = Does(lambda self, x: self.conv(x.permute(1, 3, 2, 0).flatten(2)), conv=conv)  # (B, C, N*T)
    assert rows_of(model, x, "conv")["conv"] == {t: (7 * x[t].sum((1, 2)).int()).tolist() for t in range(T)}


def test_a_kernel_along_samples_is_refused() -> None:
    model = Does(lambda self, x: self.conv(x.permute(0, 3, 1, 2)), conv=nn.Conv2d(C, 2, 3, padding=1))
    with pytest.raises(ProfilingError, match="conv: the convolution reads"):
        se.profile(model, [spikes(T, B, N, C)], time_steps=T, time="axis0")


@pytest.mark.parametrize("pool", [nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.MaxPool1d(2), nn.AvgPool1d(T)])
def test_a_pool_along_time_is_work_of_one_inference(pool: nn.Module) -> None:
    model = Does(lambda self, x: self.head(self.pool(WAYS["bct"](x)).mean(2)), pool=pool, head=nn.Linear(C, 2))
    frame = se.profile(model, [spikes(T, B, N, C)], time_steps=T, time="axis0").to_frame()
    steps = frame.groupby("layer", sort=False)["time_step"].apply(list)
    assert steps["pool"] == steps["head"] == [-1]
