"""Counts that depend on how samples are put into batches are said to do so, once, with the layers and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from own_networks import Does
from torch import Tensor, nn
from torch.nn.functional import batch_norm

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.counts.notes import depends_on_batch
from snn_energy.models.neurons import LIF
from snn_energy.profiler.inspection_report import inspect_model
from snn_energy.profiler.run import DependsOnBatchWarning

pytestmark = pytest.mark.usefixtures("one_thread")
T, SAMPLES = 3, 12


def network(combine: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """(T, B, 6) -> a layer, ``combine``, neurons, a layer."""
    torch.manual_seed(0)
    return Does(
        lambda self, x: self.b(self.lif(combine(self, self.a(x)))),
        a=nn.Linear(6, 5), norm=nn.BatchNorm1d(5, track_running_stats=False), kept=nn.BatchNorm1d(5),
        layer=nn.LayerNorm(5), gate=nn.Linear(5, 1), lif=LIF(), b=nn.Linear(5, 3),
    )  # fmt: skip


def of_rows(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    y: Tensor = norm(x.flatten(0, 1))
    return y.unflatten(0, x.shape[:2])


OF_THE_BATCH: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a BatchNorm without running statistics": lambda m, x: of_rows(m.norm, x),
    "batch statistics by function": lambda m, x: of_rows(lambda rows: batch_norm(rows, None, None, training=True), x),
    "the mean of a step taken off": lambda m, x: x - x.mean(1, keepdim=True),
    "the mean of all taken off": lambda m, x: x - x.mean(),
    "divided by the largest value": lambda m, x: x / x.abs().amax(),
    "clipped at the deviation": lambda m, x: torch.minimum(x, x.std(dim=(0, 1))),
    "compared with the first sample": lambda m, x: (x > x[:, :1]).float(),
    "where it is above the median": lambda m, x: torch.where(x > x.flatten(0, 1).median(0)[0], x, 0.0),
}  # fmt: skip
OF_ONE_SAMPLE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "running statistics": lambda m, x: of_rows(m.kept, x),
    "a LayerNorm": lambda m, x: m.layer(x),
    "the mean of its features taken off": lambda m, x: x - x.mean(-1, keepdim=True),
    "the mean over time taken off": lambda m, x: x - x.mean(0, keepdim=True),
    "a gate of its own": lambda m, x: x * m.gate(x).sigmoid(),
    "a constant": lambda m, x: x * 2 - torch.ones(1, 1, 5),
    "divided by its own largest value": lambda m, x: x / x.abs().amax((0, 2), keepdim=True),
}


def profiled(
    combine: Callable[[Any, Tensor], Tensor], sizes: Sequence[int], **options: Any
) -> tuple[se.Counts, list[str]]:
    x = 5 * torch.randn(T, SAMPLES, 6, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counts = se.profile(network(combine), list(x.split(list(sizes), 1)), time_steps=T, time="axis0", **options)
    return counts, [str(w.message) for w in caught if issubclass(w.category, DependsOnBatchWarning)]


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_what_depends_on_the_batch_says_so(name: str) -> None:
    combine = OF_THE_BATCH[name]
    counts, said = profiled(combine, (SAMPLES,))
    (text,), layers = said, counts.header["depends_on_batch"]
    assert text.startswith(", ".join(layers))
    assert "--batch-size" in text
    noted = counts.rows["note"].map(depends_on_batch).astype(bool)
    assert list(dict.fromkeys(counts.rows.loc[noted, "layer"])) == layers
    assert not counts.rows.loc[noted, "op"].isin(("linear", "neuron")).any()
    with pytest.raises(ProfilingError, match=r"other samples of its batch.*--strict"):
        profiled(combine, (SAMPLES,), strict=True)


@pytest.mark.parametrize("name", OF_THE_BATCH)
def test_it_is_true_that_the_counts_depend_on_the_batch(name: str) -> None:
    one, other = (profiled(OF_THE_BATCH[name], sizes)[0] for sizes in ((SAMPLES,), (3, 3, 3, 3)))
    assert one.per_sample is not None
    assert other.per_sample is not None
    assert (one.per_sample["sops"] != other.per_sample["sops"]).any()


@pytest.mark.parametrize("name", OF_ONE_SAMPLE)
def test_what_a_sample_gives_by_itself_is_not_said_to_depend_on_others(name: str) -> None:
    (one, said), (other, _) = (profiled(OF_ONE_SAMPLE[name], sizes) for sizes in ((SAMPLES,), (3, 3, 3, 3)))
    assert said == []
    assert "depends_on_batch" not in one.header
    assert one.rows["sops"].tolist() == other.rows["sops"].tolist()


def test_inspect_says_it_too() -> None:
    x = 5 * torch.randn(T, SAMPLES, 6, generator=torch.Generator().manual_seed(1))
    report = inspect_model(network(OF_THE_BATCH["the mean of a step taken off"]), [x], time_steps=T, time="axis0")
    (line,) = [line for line in report.lines() if line.startswith("depends on the batch: ")]
    assert "other samples of its batch" in line
