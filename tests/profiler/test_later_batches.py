"""A batch counts the same whether it comes first or later: what is remembered of earlier batches changes no number."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from own_networks import Does, randomise_norms, set_active_steps, spikes
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.counts.counts import Counts
from snn_energy.models.neurons import DTSS, LIF

COUNTED = ["sops", "sops_gated", "sops_multi", "spikes", "input_nonzeros", "other_nonzeros"]


def network(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = se.create_model(name, image_size=8, in_channels=2, num_classes=3, heads=2, patch_size=2)
    randomise_norms(model)
    for index, layer in enumerate(m for m in model.modules() if isinstance(m, DTSS)):
        set_active_steps(layer, index % (layer.max_steps + 1))
    return model


def equal_to_fresh(make: Callable[[], nn.Module], batches: list[Tensor], **options: Any) -> Counts:
    """Profile the batches in one go and each by itself with a fresh network; compare the totals of all counts."""
    together = se.profile(make(), batches, **options)
    frame, frames = together.to_frame(), [se.profile(make(), [x], **options).to_frame() for x in batches]
    for column in COUNTED:
        alone = [found[column] for found in frames]
        if all(part.notna().all() for part in alone) and frame[column].notna().all():
            np.testing.assert_array_equal(frame[column], sum(alone), err_msg=column)
    return together


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["vit-2-16", "spikformer-2-16", "dts-spikformer-2-16"])
def test_five_batches_count_as_five_profiles_of_one(name: str, mode: str) -> None:
    batches = [torch.rand(2, 2, 8, 8) * scale for scale in (1, 3, 0, 10, 0.1)]
    with torch.inference_mode() if mode == "inference_mode" else torch.no_grad():
        equal_to_fresh(lambda: network(name), batches, max_k=1000)


def test_batches_of_changing_size_count_as_profiles_of_one() -> None:
    batches = [torch.rand(n, 2, 8, 8) for n in (2, 2, 3, 1, 3, 2, 2)]
    equal_to_fresh(lambda: network("spikformer-1-16"), batches, max_k=1000)


@pytest.mark.parametrize("v_th", [1.0, 0.7, 0.5, 1 / 3])
def test_a_neuron_with_any_threshold_counts_alike_in_later_batches(v_th: float) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        conv, pointwise = nn.Conv1d(6, 5, 3, padding=1), nn.Conv1d(5, 4, 1)

        def forward(self: Any, x: Tensor) -> Tensor:
            fired = self.lif(self.conv(x.repeat(3, 1, 1)).unflatten(0, (3, -1)))
            return self.second(self.pointwise(fired.flatten(0, 1)).unflatten(0, (3, -1))).mean(0)

        return Does(forward, 3, conv=conv, lif=LIF(0.5, v_th), pointwise=pointwise, second=LIF(0.5, v_th))

    equal_to_fresh(make, [torch.randn(4, 6, 9) * 3 for _ in range(4)])


def test_a_constant_factor_that_changes_between_batches_is_seen() -> None:
    def make() -> nn.Module:
        model = Does(lambda self, x: self.layer(x.gt(0).float() * self.factor), layer=nn.Linear(6, 4))
        model.factor = 1.0
        return model

    changing = make()
    first, second = torch.randn(5, 6), torch.randn(5, 6)

    def batches() -> Any:
        yield first
        changing.factor = 3.0
        yield second

    frame = se.profile(changing, batches(), time_steps=1, max_k=4).to_frame().set_index("layer")
    assert frame.loc["layer", "input_kind"] == "integer"
    assert frame.loc["layer", "max_k"] == 3
    ones, threes = int((first > 0).sum()), int((second > 0).sum())
    assert frame.loc["layer", "sops"] == 4 * (ones + threes)
    assert frame.loc["layer", "sops_multi"] == 4 * (ones + 3 * threes)


def test_weights_that_change_between_batches_do_not_matter_to_the_counts() -> None:
    model = Does(lambda self, x: self.layer(x), layer=nn.Linear(6, 4))
    batches = [spikes(5, 6) for _ in range(3)]

    def changing() -> Any:
        for x in batches:
            yield x
            model.layer.weight = nn.Parameter(torch.randn(4, 6))

    frame = se.profile(model, changing(), time_steps=1).to_frame()
    assert frame["sops"].item() == 4 * sum(int(x.sum()) for x in batches)


def test_a_layer_that_reads_another_tensor_in_a_later_batch_is_refused() -> None:
    calls = itertools.count()

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        return self.last(b if next(calls) % 2 else a)

    model = Does(forward, left=nn.Linear(4, 4), right=nn.Linear(4, 4), last=nn.Linear(4, 2))
    with pytest.raises(ProfilingError, match="changes between batches"):
        se.profile(model, [spikes(3, 4), spikes(3, 4)], time_steps=1)


def test_values_changed_in_place_in_later_batches_are_read_anew() -> None:
    calls = itertools.count(1)

    def forward(self: Any, x: Tensor) -> Tensor:
        fired = x.gt(0).float()
        before = self.first(fired)
        if next(calls) == 2:
            fired.zero_()
        return before + self.second(fired)

    model = Does(forward, first=nn.Linear(6, 4), second=nn.Linear(6, 4))
    batches = [torch.randn(5, 6) for _ in range(3)]
    ons = [int((x > 0).sum()) for x in batches]
    frame = se.profile(model, batches, time_steps=1).to_frame().set_index("layer")
    assert frame.loc["first", "sops"] == 4 * sum(ons)
    assert frame.loc["second", "sops"] == 4 * (ons[0] + ons[2])


def test_products_count_alike_in_later_batches() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (functional.relu(x.roll(i, 1)).gt(0.5).float() for i in range(3))
        scores = (q @ k.transpose(-2, -1)) * 0.25
        return self.out(scores @ v + torch.einsum("bnd,bmd->bnm", q, v) @ k)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Does(forward, out=nn.Linear(6, 3))

    equal_to_fresh(make, [torch.randn(2, 5, 6) for _ in range(4)], time_steps=1, max_k=100)


def test_a_network_that_is_called_once_per_step_counts_alike_in_later_batches() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.u = nn.Conv1d(3, 4, 3, padding=1), torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            self.u = 0.5 * self.u + self.conv(x.gt(0).float())
            return (self.u > 0).float()

    torch.manual_seed(1)
    start = Leaky()
    batches = [torch.randn(4, 2, 3, 7) for _ in range(3)]
    together = se.profile(copy.deepcopy(start), batches, time_steps=4, time="call-axis0").to_frame()
    alone = [se.profile(copy.deepcopy(start), [x], time_steps=4, time="call-axis0").to_frame()["sops"] for x in batches]
    np.testing.assert_array_equal(together["sops"], sum(alone))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_garbage_collection_is_as_it_was(enabled: bool, raises: bool) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        assert not gc.isenabled()
        if raises:
            raise RuntimeError("inside")
        out: Tensor = self.layer(x)
        return out

    was_enabled = gc.isenabled()
    gc.enable() if enabled else gc.disable()
    try:
        with pytest.raises(RuntimeError, match="inside") if raises else torch.no_grad():
            se.profile(Does(forward, layer=nn.Linear(3, 2)), [spikes(2, 3)], time_steps=1)
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if was_enabled else gc.disable()


def test_a_number_made_of_all_samples_does_not_keep_a_last_batch_of_one_sample_from_being_counted() -> None:
    def watched(model: Does, x: Tensor) -> Tensor:
        fired = model.lif(x)
        model.rate = float(fired.sum())
        return model.fc(fired)

    torch.manual_seed(0)
    x = torch.rand(2, 4, 5) * 3
    counts = se.profile(Does(watched, lif=LIF(), fc=nn.Linear(5, 2)), [x[:, :3], x[:, 3:]], time_steps=2, time="axis0")
    rows = counts.rows[counts.rows["layer"] == "fc"]
    with torch.no_grad():
        assert rows["sops"].sum() == 2 * int(LIF().eval()(x).sum())
