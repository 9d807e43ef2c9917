"""Our counts beside those of other projects' counters, on the same network in one process.

Where the peer is exact the two are equal to the integer. Every known difference is a test too: it says who is right,
and the judge is a brute-force count (``oracle.py``), which neither side's code has a part in.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import oracle
import pandas as pd
import peer_networks as networks
import pytest
import torch
from peer_networks import fvcore_macs, image, neurobench, spikes, synaptic_operations, synops
from torch import Tensor, nn

import snn_energy as se

ROOT = Path(__file__).parents[2]
OLD_SPIKINGJELLY = ROOT / ".venv" / "spikingjelly-0.0.0.0.14"  # syops works with no later one


def against(*packages: str) -> pytest.MarkDecorator:
    """A test's ``peer``: the packages that it needs and their installed versions, which its name then tells."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package}-{importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    skip = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")
    name = "+".join(found + missing)
    return pytest.mark.parametrize("peer", [pytest.param(name, id=name, marks=skip)])


def layers_of(counts: Any) -> pd.DataFrame:
    """The rows of weight layers and products."""
    frame = counts.to_frame()
    return frame[frame["op"].isin(["conv", "linear", "matmul"])]


def by_layer(counts: Any, column: str = "sops", kinds: Sequence[str] = oracle.KIND_ORDER) -> dict[str, int]:
    """Layer -> its total over time steps and samples, of rows whose input is of these kinds; layers of 0 left out."""
    rows = layers_of(counts)
    totals = rows[rows["input_kind"].isin(kinds)].groupby("layer")[column].sum()
    return {str(layer): int(total) for layer, total in totals.items() if total}


def per_module(counter: Any) -> dict[str, int]:
    """Module of an nn.Sequential -> SpikingJelly's count, those of 0 left out."""
    totals = {scope.partition(".")[2]: sum(values.values()) for scope, values in counter.get_counts().items()}
    return {name: total for name, total in totals.items() if name and total}


def spiking_cnn(step_mode: str) -> nn.Sequential:
    """Stride, padding, dilation, groups, depthwise, transposed, linear: all behind IF neurons, all with bias."""
    from spikingjelly.activation_based import functional, layer, neuron

    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1),
        neuron.IFNode(v_threshold=0.2),
        layer.Conv2d(8, 12, 3, stride=2, padding=1, groups=4),
        neuron.LIFNode(v_threshold=0.05),
        layer.Conv2d(12, 8, 3, padding=2, dilation=2),
        neuron.IFNode(v_threshold=0.05, v_reset=None),
        layer.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        neuron.ParametricLIFNode(v_threshold=0.05),
        layer.Conv2d(6, 6, (1, 5), stride=(1, 2), padding=(0, 2), groups=6),
        neuron.IFNode(v_threshold=0.05),
        layer.Flatten(),
        layer.Linear(6 * 12 * 6, 7),
        neuron.LIFNode(v_threshold=0.05),
        layer.Linear(7, 5, bias=False),
    )
    functional.set_step_mode(model, step_mode)
    return model.eval()


@against("spikingjelly")
@pytest.mark.parametrize("encoding", ["spikes", "image"])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_synops_of_spikingjelly_are_ours_layer_by_layer(peer: str, step_mode: str, encoding: str) -> None:
    """Exact there: inputs of 0 and 1, whatever the geometry; bias not counted; the image's layer is left out."""
    model, steps, batch = spiking_cnn(step_mode), 3, 4
    x = (
        spikes(steps, batch, 3, 12, 12)
        if encoding == "spikes"
        else image(1, batch, 3, 12, 12).repeat(steps, 1, 1, 1, 1)
    )
    from spikingjelly.activation_based import functional

    def run() -> None:
        functional.reset_net(model)
        model(x) if step_mode == "m" else [model(step) for step in x]

    theirs = synops(run)
    functional.reset_net(model)
    counts = se.profile(model, [x], time="axis0" if step_mode == "m" else "call-axis0", time_steps=steps)
    assert by_layer(counts, kinds=["binary"]) == per_module(theirs)
    truth = networks.what_is_read(model, run)
    assert theirs.get_total() == sum(read.meetings for read in truth if read.kind == "binary")
    assert len(per_module(theirs)) == (7 if encoding == "spikes" else 6)


@against("spikingjelly")
def test_time_found_by_a_run_counts_as_declared(peer: str) -> None:
    """Single-step and multi-step, the image given once: SpikingJelly's loop over T, or T copies of the image."""
    x = image(4, 3, 12, 12)
    for step_mode, mode in (("s", "call"), ("m", "repeat-axis0")):
        model = spiking_cnn(step_mode)
        from spikingjelly.activation_based import functional

        def run(model: nn.Module = model, step_mode: str = step_mode) -> None:
            functional.reset_net(model)
            model(x.repeat(3, 1, 1, 1, 1)) if step_mode == "m" else [model(x) for _ in range(3)]

        theirs = synops(run)
        functional.reset_net(model)
        counts = se.profile(model, [x], time_steps=3)
        assert counts.header["time"] == mode
        assert by_layer(counts, kinds=["binary"]) == per_module(theirs)


@against("spikingjelly")
def test_macs_of_spikingjelly_are_our_dense_macs_of_real_rows(peer: str) -> None:
    """Its MACCounter counts every tap of a layer that reads an image, padding included, as fvcore does."""
    from spikingjelly.activation_based.op_counter import MACCounter

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(6, 4, 2, 2),
        nn.Flatten(), nn.Linear(4 * 5 * 5 * 4, 9),
    )  # fmt: skip
    x = image(2, 3, 12, 12)
    theirs = synops(lambda: model(x), MACCounter())
    counts = se.profile(model, [x], time_steps=1)
    assert by_layer(counts, "dense_macs", ["real"]) == per_module(theirs)


@against("spikingjelly")
def test_membrane_and_weight_reads_of_spikingjelly_are_ours(peer: str) -> None:
    """Its NeuromorphicMemoryAccessCounter, in bytes of float32, hangs on module hooks: inference_mode is as good."""
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.op_counter import NeuromorphicMemoryAccessCounter
    from spikingjelly.activation_based.op_counter.base import ModuleCounterMode

    model, x = spiking_cnn("m"), spikes(3, 4, 3, 12, 12)
    counts = se.profile(model, [x], time="axis0", time_steps=3)
    frame = counts.to_frame()
    for guard in (torch.no_grad, torch.inference_mode):
        functional.reset_net(model)
        counter = NeuromorphicMemoryAccessCounter()
        with guard(), ModuleCounterMode([counter], model=model):
            model(x)
        theirs = counter.get_counts()["Global"]
        assert theirs["neuron_state_read_bytes"] == 4 * frame["membrane_reads"].sum()
        assert theirs["neuron_state_write_bytes"] == 4 * frame["membrane_writes"].sum()
        transposed = by_layer(counts)["6"]  # in no table of its own
        assert theirs["weight_read_bytes"] == 4 * (layers_of(counts)["sops"].sum() - transposed)
    functional.reset_net(model)


@against("spikingjelly")
def test_synops_of_a_resnet18_are_ours(peer: str) -> None:
    """SpikingJelly's own spiking ResNet-18, T 4, 32x32: the 19 convolutions behind the first."""
    x = image(1, 2, 3, 32, 32).repeat(4, 1, 1, 1, 1)
    model = networks.spikingjelly_resnet18(x)
    theirs = {
        name: total
        for name, total in per_module(synops(lambda: model(x))).items()
        if isinstance(model.get_submodule(name), nn.Conv2d)
    }
    from spikingjelly.activation_based import functional

    functional.reset_net(model)
    ours = by_layer(se.profile(model, [x], time="axis0", time_steps=4), kinds=["binary"])
    ours.pop("fc", None)
    assert ours == theirs
    assert len(ours) == 19


@against("spikingjelly")
def test_inference_mode_blinds_spikingjelly(peer: str) -> None:
    """It knows aten.convolution and aten.addmm; under inference_mode conv2d and linear arrive whole: it counts 0."""
    from spikingjelly.activation_based import functional

    model, x = spiking_cnn("m"), spikes(3, 4, 3, 12, 12)

    def run() -> None:
        functional.reset_net(model)
        model(x)

    truth = sum(read.meetings for read in networks.what_is_read(model, run))
    assert synops(run, guard=torch.inference_mode).get_total() == 0 < truth
    assert synops(run, guard=torch.no_grad).get_total() == truth
    functional.reset_net(model)
    for guard in (torch.inference_mode, torch.no_grad):
        with guard():
            assert sum(by_layer(se.profile(model, [x], time="axis0", time_steps=3)).values()) == truth


@against("spikingjelly")
def test_spikes_of_half_are_spikes(peer: str) -> None:
    """Neurons that emit V_th = 0.5 (paper, Eq. 1). SpikingJelly: no SynOp, dense MACs. Right: V_th folds into W."""
    from spikingjelly.activation_based.op_counter import MACCounter

    class Emitting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif, self.fc = se.models.neurons.LIF(v_th=0.5), nn.Linear(20, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lif(x))

    model, x = Emitting(), torch.randn(4, 5, 20)
    emitted = model.lif(x)
    assert set(emitted.unique().tolist()) == {0.0, 0.5}
    truth = int(oracle.indicator(emitted).sum()) * 6
    assert synops(lambda: model(x)).get_total() == 0
    assert synops(lambda: model(x), MACCounter()).get_total() == 4 * 5 * 20 * 6
    counts = se.profile(model, [x], time="axis0", time_steps=4)
    assert by_layer(counts, kinds=["binary"]) == {"fc": truth}


@against("spikingjelly")
def test_ternary_spikes_are_spikes(peer: str) -> None:
    """SpikingJelly's own TernaryLIFNode emits -1, 0 and 1, which its SynOpCounter counts as nothing."""
    from spikingjelly.activation_based import functional, layer, neuron

    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        neuron.TernaryLIFNode(v_threshold=0.1),
        layer.Conv2d(8, 4, 3, stride=2, padding=1),
    )
    functional.set_step_mode(model, "m")
    x = torch.randn(3, 2, 2, 10, 10)

    def run() -> None:
        functional.reset_net(model)
        model(x)

    _, second = networks.what_is_read(model, run)
    assert second.kind == "ternary"
    assert synops(run).get_total() == 0
    functional.reset_net(model)
    assert by_layer(se.profile(model, [x], time="axis0", time_steps=3), kinds=["ternary"]) == {"2": second.meetings}


@against("spikingjelly")
def test_sums_of_spikes_are_whole_numbers(peer: str) -> None:
    """SEW-ResNet adds spikes: 0, 1, 2, ... go into the next layer. SpikingJelly: no SynOp. Ours: integer, with |k|."""
    from spikingjelly.activation_based import functional

    x = image(1, 2, 3, 32, 32).repeat(4, 1, 1, 1, 1)
    model = networks.spikingjelly_resnet18(x, "sew")

    def run() -> None:
        functional.reset_net(model)
        model(x)

    truth = networks.what_is_read(model, run)
    theirs = {n: t for n, t in per_module(synops(run)).items() if isinstance(model.get_submodule(n), nn.Conv2d)}
    functional.reset_net(model)
    counts = se.profile(model, [x], time="axis0", time_steps=4)
    names = {id(module): name for name, module in model.named_modules()}
    expected: dict[str, dict[str, int]] = {"binary": {}, "integer": {}}
    for read in truth:
        if isinstance(read.layer, nn.Conv2d) and read.kind in expected:
            expected[read.kind][names[id(read.layer)]] = read.meetings
    assert by_layer(counts, kinds=["binary"]) == expected["binary"] == theirs
    whole = by_layer(counts, kinds=["integer"])
    assert len(whole) == len(set(whole) - set(theirs)) > 5
    assert {name: whole[name] for name in expected["integer"]} == expected["integer"]
    multi = by_layer(counts, "sops_multi", ["integer"])
    assert all(multi[name] > total for name, total in whole.items() if name != "fc")


@against("spikingjelly")
def test_a_layer_of_zeros_and_ones_is_no_spike_train(peer: str) -> None:
    """SpikingJelly takes a weight of 0 and 1 for spikes: a layer of zeros costs nothing, an image's a SynOp a tap.

    A weight of 0 still meets its input: what is stored is fetched and added. Ours counts the meetings.
    """
    layer, x = nn.Linear(30, 10, bias=False), spikes(5, 30)
    nn.init.zeros_(layer.weight)
    truth = int(x.sum()) * 10
    assert synops(lambda: layer(x)).get_total() == 0
    assert by_layer(se.profile(layer, [x], time_steps=1)) == {"Linear": truth}
    mask = spikes(10, 30, seed=7)
    layer.weight.data.copy_(mask)
    assert synops(lambda: layer(x)).get_total() == int((x @ mask.T).sum()) < truth
    grey = image(5, 30)
    assert synops(lambda: layer(grey)).get_total() == 5 * int(mask.sum())
    counts = se.profile(layer, [grey], time_steps=1)
    assert by_layer(counts, kinds=["real"]) == {"Linear": int(oracle.indicator(grey).sum()) * 10}


@against("spikingjelly")
def test_attention_of_spikingjelly_is_counted_by_two_conventions(peer: str) -> None:
    """k v: both binary, SpikingJelly counts coincidences, as we do. (v k) q: whole numbers x spikes, it counts gated.

    Both are counts of accumulates; ours keeps them apart, ``sops`` by coincidence and ``sops_gated``.
    """
    from spikingjelly.activation_based import functional, layer

    torch.manual_seed(0)
    attention = layer.SpikingSelfAttention(dim=16, num_heads=2)
    x = (torch.rand(4, 3, 16, 9) < 0.4).float()
    model = networks.firing(attention, x)

    def run() -> None:
        functional.reset_net(model)
        model(x)

    products = [read for read in networks.what_is_read(model, run) if read.layer is None]
    pairs = networks.pairs_of_products(run)
    gated = int(oracle.indicator(pairs[1][1]).sum()) * pairs[1][0].shape[-2]
    assert [oracle.kind_of(operand).kind for operand in pairs[1]] == ["integer", "binary"]
    theirs = synops(run)
    functional.reset_net(model)
    counts = se.profile(model, [x], time="axis0", time_steps=4)
    rows = layers_of(counts)
    sums = rows[rows["op"] == "matmul"].groupby("layer", sort=False)[["sops", "sops_gated"]].sum()
    assert sums["sops"].tolist() == [read.meetings for read in products]
    assert sums["sops_gated"].iloc[1] == gated > products[1].meetings
    weights = sum(read.meetings for read in networks.what_is_read(model, run) if read.layer and read.kind == "binary")
    assert theirs.get_total() == weights + products[0].meetings + gated


def totals(counts: Any, column: str = "sops") -> tuple[int, int]:
    """(accumulates, MACs): a column over spiking rows and over real rows."""
    rows = layers_of(counts)
    is_real = rows["input_kind"] == "real"
    return int(rows[~is_real][column].sum()), int(rows[is_real][column].sum())


def leaky_cnn(threshold: float = 0.3, **leaky: Any) -> nn.Sequential:
    """snnTorch: padding, stride, groups, dilation and linear, one time step a call; gives (spikes, potential)."""
    import snntorch as snn

    torch.manual_seed(0)

    def neuron(**more: Any) -> nn.Module:
        return snn.Leaky(beta=0.7, threshold=threshold, init_hidden=True, **leaky, **more)

    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        neuron(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2),
        neuron(),
        nn.Conv2d(8, 8, 3, dilation=2, padding=2, bias=False),
        neuron(),
        nn.Flatten(),
        nn.Linear(8 * 5 * 5, 11),
        neuron(output=True),
    ).eval()


@against("neurobench", "snntorch")
@pytest.mark.parametrize("encoding", ["spikes", "image"])
def test_synaptic_operations_of_neurobench_are_ours(peer: str, encoding: str) -> None:
    """Exact there: Effective_ACs behind neurons, Effective_MACs (non-zero ones) of the layer that reads an image."""
    model, steps = leaky_cnn(), 5
    x = spikes(steps, 3, 2, 10, 10) if encoding == "spikes" else image(1, 3, 2, 10, 10).repeat(steps, 1, 1, 1, 1)
    theirs = synaptic_operations(model, x.transpose(0, 1), "SNNTorchModel")
    counts = se.profile(model, [x], time="call-axis0", time_steps=steps)
    assert totals(counts) == (theirs.accumulates, theirs.macs)
    assert theirs.accumulates > 0
    assert (theirs.macs > 0) == (encoding == "image")


@against("neurobench", "snntorch")
def test_mnist_convnet_of_snntorch_by_neurobench(peer: str) -> None:
    """The whole example network at its own size, T 10; time is found by a run."""
    model, x = networks.snntorch_convnet(), image(4, 1, 28, 28)
    theirs = synaptic_operations(model, x.unsqueeze(1).expand(-1, 10, -1, -1, -1), "SNNTorchModel")
    import snntorch.utils

    snntorch.utils.reset(model)
    counts = se.profile(model, [x], time_steps=10)
    assert totals(counts) == (theirs.accumulates, theirs.macs)
    assert sum(totals(counts, "dense_macs")) == theirs.dense  # no padding, so the two definitions agree


@against("neurobench", "spikingjelly")
def test_neurobench_counts_a_spikingjelly_network_as_we_do(peer: str) -> None:
    """Its hooks hang on nn.Conv2d and nn.Linear, subclasses included: single-step and multi-step; no ConvTranspose."""
    from spikingjelly.activation_based import functional

    x = spikes(1, 4, 3, 12, 12)
    for step_mode in ("m", "s"):
        model = spiking_cnn(step_mode)
        theirs = synaptic_operations(model, x if step_mode == "m" else x[0])
        functional.reset_net(model)
        counts = se.profile(model, [x], time="axis0" if step_mode == "m" else "call-axis0", time_steps=1)
        functional.reset_net(model)
        transposed = by_layer(counts)["6"]
        assert transposed > 0
        assert totals(counts) == (theirs.accumulates + transposed, theirs.macs)


@against("neurobench")
def test_dense_of_neurobench_leaves_the_border_out(peer: str) -> None:
    """ "Dense" is a convolution of ones: taps over the padding are no operations. Ours (and fvcore's) has them."""
    layer = nn.Conv2d(2, 4, 3, padding=1)
    model, x = nn.Sequential(layer), image(3, 2, 6, 6)
    inside = int(oracle.conv_meetings(torch.ones(3, 2, 6, 6), layer).sum())
    assert synaptic_operations(model, x).dense == inside
    counts = se.profile(model, [x], time_steps=1)
    assert by_layer(counts, "dense_macs") == {"0": 3 * oracle.conv_dense_macs((6, 6), (6, 6), layer)}
    full = se.profile(model, [torch.ones(3, 2, 6, 6)], time_steps=1)
    assert by_layer(full) == {"0": inside}


@against("neurobench", "snntorch")
def test_membrane_updates_of_neurobench_are_changes(peer: str) -> None:
    """NeuroBench counts a neuron's step where its potential changed (the first always), we every neuron every step.

    A neuron at rest that gets nothing is not an update to NeuroBench; hardware that scans its neurons reads and writes
    it all the same, and only a network that never rests makes the two agree.
    """
    import snntorch as snn
    from neurobench.metrics.workload import MembraneUpdates

    steps, batch = 6, 3
    model = nn.Sequential(nn.Linear(12, 9, bias=False), snn.Leaky(beta=0.5, init_hidden=True, output=True))
    for x in (spikes(steps, batch, 12, rate=0.05), torch.rand(steps, batch, 12) + 0.1):
        metric = MembraneUpdates()
        neurobench(model, x.transpose(0, 1), metric, wrapper="SNNTorchModel")
        snn.utils.reset(model)
        potentials = []
        with torch.no_grad():
            for step in x:
                potentials.append(model(step)[1].clone())
        changes = batch * 9 + sum(int((a != b).sum()) for a, b in itertools.pairwise(potentials))
        snn.utils.reset(model)
        frame = se.profile(model, [x], time="call-axis0", time_steps=steps).to_frame()
        assert sum(metric.neuron_membrane_updates.values()) == changes
        assert frame["membrane_writes"].sum() == batch * 9 * steps
    assert changes == batch * 9 * steps


@against("neurobench", "snntorch")
def test_activation_sparsity_of_neurobench_is_one_minus_our_activity(peer: str) -> None:
    from neurobench.metrics.workload import ActivationSparsity

    class Kept(ActivationSparsity):
        value = 0.0

        def __call__(self, *arguments: Any) -> float:
            self.value = super().__call__(*arguments)
            return self.value

    model, x = leaky_cnn(), spikes(5, 3, 2, 10, 10)
    metric = Kept()
    neurobench(model, x.transpose(0, 1), metric, wrapper="SNNTorchModel")
    rows = se.profile(model, [x], time="call-axis0", time_steps=5).to_frame()
    rows = rows[rows["op"] == "neuron"]
    assert 1 - metric.value == pytest.approx(rows["spikes"].sum() / (rows["neurons"].sum() * 3), rel=1e-12)
    assert 0 < metric.value < 1


@against("neurobench", "snntorch")
def test_graded_spikes_of_half_are_spikes(peer: str) -> None:
    """graded_spikes_factor 0.5: NeuroBench calls them MACs, for 0.5 is not 0, 1 or -1. The factor folds: ACs."""
    model, x = leaky_cnn(graded_spikes_factor=0.5), spikes(5, 3, 2, 10, 10)
    theirs = synaptic_operations(model, x.transpose(0, 1), "SNNTorchModel")
    counts = se.profile(model, [x], time="call-axis0", time_steps=5)
    import snntorch.utils

    def run() -> None:
        snntorch.utils.reset(model)
        for step in x:
            model(step)

    truth = networks.what_is_read(model, run)
    assert {read.kind for read in truth} == {"binary"}
    assert totals(counts) == (sum(read.meetings for read in truth), 0)
    assert theirs.accumulates + theirs.macs == totals(counts)[0]
    assert theirs.macs == sum(read.meetings for read in truth if read.layer is not model[0])


@against("neurobench")
def test_ternary_is_an_accumulate_to_neurobench_too(peer: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1))
    x = spikes(3, 2, 6, 6) - spikes(3, 2, 6, 6, seed=5)
    assert set(x.unique().tolist()) == {-1.0, 0.0, 1.0}
    theirs, counts = synaptic_operations(model, x), se.profile(model, [x], time_steps=1)
    assert set(layers_of(counts)["input_kind"]) == {"ternary"}
    assert totals(counts) == (theirs.accumulates, 0)


@against("neurobench", "sinabs")
def test_several_spikes_a_step_are_macs_to_neurobench(peer: str) -> None:
    """sinabs' IAF emits 0, 1, 2, ... a step. Same meetings; NeuroBench files them under MACs, we under integer, |k|."""
    import sinabs.layers

    torch.manual_seed(0)
    neuron = sinabs.layers.IAF(spike_threshold=0.3)
    model, x = nn.Sequential(neuron, nn.Linear(20, 6)), torch.rand(3, 5, 20)
    neuron.reset_states()
    with torch.no_grad():
        emitted = neuron(x)
    neuron.reset_states()
    assert oracle.kind_of(emitted).kind == "integer"
    theirs = synaptic_operations(model, x)
    neuron.reset_states()
    counts = se.profile(model, [x], time="axis1", time_steps=5)
    meetings = int(oracle.indicator(emitted).sum()) * 6
    assert (theirs.accumulates, theirs.macs) == (0, meetings)
    assert totals(counts) == (meetings, 0)
    assert by_layer(counts, "sops_multi", ["integer"]) == {"1": int(emitted.sum()) * 6}


@against("spikingjelly", "sinabs")
def test_several_spikes_a_step_are_nothing_to_spikingjelly(peer: str) -> None:
    import sinabs.layers

    neuron = sinabs.layers.IAF(spike_threshold=0.3)
    model, x = nn.Sequential(neuron, nn.Linear(20, 6)), torch.rand(3, 5, 20)
    neuron.reset_states()
    assert synops(lambda: model(x)).get_total() == 0
    neuron.reset_states()
    assert sum(by_layer(se.profile(model, [x], time="axis1", time_steps=5), kinds=["integer"]).values()) > 0


@against("neurobench")
def test_kind_is_decided_call_by_call_in_neurobench(peer: str) -> None:
    """A real input that happens to be 0 and 1 in one batch: NeuroBench files that batch under ACs, we the layer."""
    model, lucky, grey = nn.Sequential(nn.Linear(10, 3)), spikes(2, 10), image(2, 10)
    theirs = synaptic_operations(model, torch.cat([lucky, grey]), batches=2)
    counts = se.profile(model, [lucky, grey], time_steps=1)
    assert (theirs.accumulates, theirs.macs) == (int(lucky.sum()) * 3, int((grey != 0).sum()) * 3)
    assert totals(counts) == (0, theirs.accumulates + theirs.macs)


@against("neurobench")
def test_a_pruned_weight_is_no_operation_to_neurobench(peer: str) -> None:
    """Weights of exactly 0 are left out of Effective_ACs. Ours: the weight is stored, so its input meets it."""
    model, x = nn.Sequential(nn.Linear(20, 8)), spikes(6, 20)
    kept = spikes(8, 20, rate=0.5, seed=3)
    model[0].weight.data.mul_(kept)
    theirs = synaptic_operations(model, x)
    assert theirs.accumulates == int((x @ kept.T).sum())
    assert totals(se.profile(model, [x], time_steps=1)) == (int(x.sum()) * 8, 0)


@against("neurobench")
def test_neurobench_adds_in_float32(peer: str) -> None:
    """4099 x 4099 accumulates are 16,801,801, an odd number above 2^24: no float32. Ours is an integer."""
    model, x = nn.Sequential(nn.Linear(4099, 4099, bias=False)), torch.ones(1, 4099)
    truth = 4099 * 4099
    theirs = synaptic_operations(model, x).accumulates
    assert theirs != truth
    assert abs(theirs - truth) < 100
    assert totals(se.profile(model, [x], time_steps=1)) == (truth, 0)


@against("neurobench", "spikingjelly")
def test_products_are_nothing_to_neurobench(peer: str) -> None:
    """It hooks layers, so q k v of a spiking self-attention are in none of its numbers; its 1x1 convolutions are."""
    from spikingjelly.activation_based import functional, layer

    torch.manual_seed(0)
    x = (torch.rand(4, 3, 16, 9) < 0.4).float()
    model = networks.firing(layer.SpikingSelfAttention(dim=16, num_heads=2), x)
    functional.reset_net(model)
    theirs = synaptic_operations(model, x)
    functional.reset_net(model)
    rows = layers_of(se.profile(model, [x], time="axis0", time_steps=4))
    assert theirs.accumulates + theirs.macs == rows[rows["op"] != "matmul"]["sops"].sum()
    assert rows[rows["op"] == "matmul"]["sops"].sum() > 0


@against("neurobench", "snntorch")
def test_inference_mode_does_not_matter_to_neurobench(peer: str) -> None:
    x, under = spikes(5, 3, 2, 10, 10), []
    for guard in (torch.no_grad, torch.inference_mode):
        model = leaky_cnn()
        with guard():
            theirs = synaptic_operations(model, x.transpose(0, 1), "SNNTorchModel")
            under.append((theirs.accumulates, theirs.macs))
            assert totals(se.profile(model, [x], time="call-axis0", time_steps=5)) == under[-1]
    assert under[0] == under[1]


SYOPS = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
import torch
from torch import nn
from spikingjelly.activation_based import functional, layer, neuron as stepwise
from spikingjelly.clock_driven import neuron
import snntorch
from syops import get_model_complexity_info
import snn_energy as se
from peer_networks import image, spikes

def said(model, x, **options):
    functional.reset_net(model)
    found, _ = get_model_complexity_info(model, tuple(x.shape[1:]), [(x, None)], as_strings=False,
                                         print_per_layer_stat=False)
    functional.reset_net(model)
    frame = se.profile(model, [x], **{{"time_steps": 1, **options}}).to_frame()
    rows = frame[frame["op"].isin(["conv", "linear"])]
    return {{"peer": [float(v) * len(x) for v in found[:3]], "sops": int(rows["sops"].sum()),
            "rate": float(rows["sops_rate_based"].sum()), "dense": int(rows["dense_macs"].sum()),
            "kinds": sorted(set(rows["input_kind"]))}}

torch.manual_seed(0)
pointwise = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False))
bordered = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
with_bias = nn.Conv2d(4, 8, 3, padding=1)
x, other = spikes(8, 4, 8, 8), spikes(8, 4, 8, 8, seed=4)
networks = [nn.Conv2d(4, 4, 1, bias=False), neuron.MultiStepIFNode(v_threshold=0.1, backend="torch"),
            nn.Conv2d(4, 4, 1, bias=False)]
multi_step = nn.Sequential(*(layer.SeqToANNContainer(m) if isinstance(m, nn.Conv2d) else m for m in networks))
own_layers = nn.Sequential(layer.Conv2d(4, 4, 1, bias=False), stepwise.IFNode(v_threshold=0.1),
                           layer.Conv2d(4, 4, 1, bias=False))
try:
    said(nn.Sequential(nn.Linear(4, 4), snntorch.Leaky(beta=0.5, init_hidden=True)), spikes(8, 4))
    failure = ""
except TypeError as error:
    failure = str(error)
print(json.dumps({{
    "snntorch": failure,
    "linear": said(nn.Sequential(nn.Linear(64, 16, bias=False)), spikes(8, 64)),
    "linear with bias": said(nn.Sequential(nn.Linear(64, 16)), spikes(8, 64)),
    "pointwise": said(pointwise, x),
    "single-step": said(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), neuron.IFNode(v_threshold=0.1), pointwise[0]), x),
    "multi-step": said(multi_step, spikes(4, 8, 4, 8, 8), time="axis0", time_steps=4),
    "border": said(nn.Sequential(bordered), x),
    "border with bias": said(nn.Sequential(with_bias), x),
    "half": said(pointwise, x / 2),
    "ternary": said(pointwise, x - other),
    "integer": said(pointwise, x + other, input_kind="integer"),
    "image": said(pointwise, image(8, 4, 8, 8)),
    "own layers": said(own_layers, x),
}}))
"""


@pytest.fixture(scope="module")
def syops() -> dict[str, Any]:
    """What syops 0.0.5 and we say of some networks. It imports the neurons of SpikingJelly 0.0.0.0.14, beside which
    it runs in a process of its own. peer: [total, accumulates, MACs], summed over the samples.
    """
    for package in ("syops", "progress", "snntorch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if not OLD_SPIKINGJELLY.is_dir():
        pytest.skip("SpikingJelly 0.0.0.0.14 does not lie in .venv (make test puts it there); syops wants no later one")
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(ROOT / "tests" / folder) for folder in ("networks", "oracles")]
    path = os.pathsep.join([str(OLD_SPIKINGJELLY), *([inherited] if inherited else [])])
    done = subprocess.run(
        [sys.executable, "-c", SYOPS.format(paths=paths)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@against("syops")
@pytest.mark.parametrize("network", ["linear", "pointwise"])
def test_accumulates_of_syops_are_ours(peer: str, network: str, syops: dict[str, Any]) -> None:
    """Exact where rate x MACs is: no border, no bias, spikes of 1, sizes of which a float32 holds the rate."""
    total, accumulates, macs = syops[network]["peer"]
    assert (total, accumulates, macs) == (syops[network]["dense"], syops[network]["sops"], 0)


@against("syops")
@pytest.mark.parametrize("network", ["single-step", "multi-step"])
def test_neurons_are_accumulates_to_syops(peer: str, network: str, syops: dict[str, Any]) -> None:
    """It adds one accumulate per neuron and step to those of the layers; ours are rows of their own."""
    found = syops[network]
    neurons = 8 * 4 * 8 * 8 * (4 if network == "multi-step" else 1)
    assert found["peer"][1] - neurons == found["sops"]
    assert found["kinds"] == ["binary"]


@against("syops")
def test_syops_spreads_spikes_evenly(peer: str, syops: dict[str, Any]) -> None:
    """At a border a spike meets fewer weights: the rate formula is ours to the figure, and too high."""
    found = syops["border"]
    assert found["peer"][1] == found["rate"] > found["sops"]
    truth = oracle.conv_meetings(spikes(8, 4, 8, 8), nn.Conv2d(4, 8, 3, padding=1, groups=2)).sum()
    assert found["sops"] == truth


@against("syops")
def test_syops_counts_bias_at_the_rate_of_spikes(peer: str, syops: dict[str, Any]) -> None:
    """A bias is added once per output whatever spikes; syops adds rate x bias, and of a linear layer once per call."""
    rate = float(spikes(8, 4, 8, 8).mean(dtype=torch.float64))
    found = syops["border with bias"]
    assert found["peer"][1] == pytest.approx(found["rate"] + rate * 8 * 8 * 8 * 8, rel=1e-9)
    rate = float(spikes(8, 64).mean(dtype=torch.float64))
    found = syops["linear with bias"]
    assert found["peer"][1] == pytest.approx(found["sops"] + rate * 16, rel=1e-9)


@against("syops")
def test_spikes_of_half_are_half_spikes_to_syops(peer: str, syops: dict[str, Any]) -> None:
    """Its rate is the mean value: spikes of V_th = 0.5 count as half of them."""
    found = syops["half"]
    assert found["sops"] == int(spikes(8, 4, 8, 8).sum()) * 8 == 2 * found["peer"][1]
    assert found["kinds"] == ["binary"]


@against("syops")
@pytest.mark.parametrize("kind", ["ternary", "integer"])
def test_other_spikes_are_dense_macs_to_syops(peer: str, kind: str, syops: dict[str, Any]) -> None:
    x, other = spikes(8, 4, 8, 8), spikes(8, 4, 8, 8, seed=4)
    met = int(oracle.indicator(x - other if kind == "ternary" else x + other).sum()) * 8
    found = syops[kind]
    assert found["peer"] == [found["dense"], 0, found["dense"]]
    assert (found["sops"], found["kinds"]) == (met, [kind])


@against("syops")
def test_an_image_is_dense_macs_to_syops(peer: str, syops: dict[str, Any]) -> None:
    """So it is to us where MACs are charged (``dense_macs``); ``sops`` has the non-zero ones beside it."""
    found = syops["image"]
    assert found["peer"] == [found["dense"], 0, found["dense"]]
    assert (found["sops"], found["kinds"]) == (int((image(8, 4, 8, 8) != 0).sum()) * 8, ["real"])


@against("syops", "snntorch")
def test_syops_cannot_run_an_snntorch_network(peer: str, syops: dict[str, Any]) -> None:
    """It resets every module that has something called ``reset``; in snnTorch that is a tensor."""
    assert syops["snntorch"] == "'Tensor' object is not callable"


@against("syops")
def test_layers_of_spikingjelly_are_nothing_to_syops(peer: str, syops: dict[str, Any]) -> None:
    """It looks modules up by their very class: those of activation_based are in no table of its own."""
    found = syops["own layers"]
    assert found["peer"] == [0, 0, 0]
    assert found["sops"] > 0


TRACING = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def traced(test: Callable[..., None]) -> Callable[..., None]:
    """fvcore traces: torch says that this is going away, and that control flow is frozen."""
    for mark in TRACING:
        test = mark(test)
    return test


@traced
@against("fvcore", "snntorch")
def test_dense_macs_of_fvcore_are_ours_on_an_snntorch_cnn(peer: str) -> None:
    """One time step, padding taps included. It knows no spikes: dense is all that it says."""
    model, x, steps = leaky_cnn(), image(3, 2, 10, 10), 5
    counts = se.profile(model, [x], time_steps=steps)
    import snntorch.utils

    snntorch.utils.reset(model)
    found = fvcore_macs(model, x)
    assert sum(totals(counts, "dense_macs")) == steps * (found["conv"] + found["linear"])
    assert sum(totals(counts)) < sum(totals(counts, "dense_macs"))


@traced
@against("fvcore", "spikingjelly")
def test_dense_macs_of_fvcore_are_ours_on_a_resnet18(peer: str) -> None:
    """All four time steps in one call. fvcore adds BatchNorm, which folds into the convolution before it."""
    from spikingjelly.activation_based import functional

    x = image(1, 2, 3, 32, 32).repeat(4, 1, 1, 1, 1)
    model = networks.spikingjelly_resnet18(x)
    found = fvcore_macs(model, x)
    functional.reset_net(model)
    counts = se.profile(model, [x], time="axis0", time_steps=4)
    assert sum(totals(counts, "dense_macs")) == found["conv"] + found["linear"]
    assert found["batch_norm"] > 0
    frame = counts.to_frame()
    assert frame[frame["op"] == "norm"]["elementwise_ops"].sum() == 0


@traced
@against("fvcore", "spikingjelly")
def test_dense_macs_of_fvcore_are_ours_on_an_attention(peer: str) -> None:
    """Both products at their full width, whatever spikes."""
    from spikingjelly.activation_based import functional, layer

    torch.manual_seed(0)
    x = (torch.rand(4, 3, 16, 9) < 0.4).float()
    model = networks.firing(layer.SpikingSelfAttention(dim=16, num_heads=2), x)
    functional.reset_net(model)
    found = fvcore_macs(model, x)
    functional.reset_net(model)
    rows = layers_of(se.profile(model, [x], time="axis0", time_steps=4))
    assert rows[rows["op"] == "matmul"]["dense_macs"].sum() == found["matmul"]
    assert rows[rows["op"] != "matmul"]["dense_macs"].sum() == found["conv"]
