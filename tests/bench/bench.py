"""What profiling, skipping and pricing cost. ``make bench`` prints it.

Profiled against plain forwards, interleaved in one run, and other projects' counters beside them; estimates and sweeps
against a plain Python loop.

Ratios, not seconds: plain against plain in the same run is the noise. Nothing here is a test with a threshold.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import hierarchy_oracle as oracle
import numpy as np
import peer_networks as networks
import torch

import snn_energy as se
from snn_energy.analysis.design_sweep import sweep
from snn_energy.counts.counts import Counts
from snn_energy.datasets.open import load_images
from snn_energy.models.neurons import DTSS


def calibrated(name: str) -> torch.nn.Module:
    """A network of random weights whose BatchNorms have seen images, so that every layer fires."""
    torch.manual_seed(0)
    model = se.create_model(name, image_size=32, num_classes=10, time_steps=4)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.bias, 0.0, 0.5)
            module.momentum = None
    for index, (key, parameter) in enumerate(model.named_parameters()):
        if key.endswith(".tp"):  # T_l = 1, 2, 3, 4, 1, 2, ...: every case of skipping occurs
            parameter.data.zero_()
            parameter.data[index % 4] = 1.5
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32))
    return model.eval()


def once(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def overhead(name: str, pairs: int) -> dict[str, float]:
    """Median ratios over interleaved pairs of forwards: profiled/plain, and plain/plain as the noise.

    One ``profile`` call takes all batches, as a user's does; a plain forward of a copy of the network runs before
    and after every profiled one, outside the profiler's sight. ``call_over_plain`` is a whole ``profile`` call of a
    single batch, its setting up and summing up included.
    """
    model, images = calibrated(name), torch.rand(8, 3, 32, 32)
    twin = copy.deepcopy(model)
    twin.skips_time_steps = False  # what is profiled is the forward of all T steps
    plains: list[tuple[float, float]] = []
    profiled: list[float] = []

    def plain() -> float:
        with torch._C.DisableTorchFunction():
            return once(lambda: twin(images))

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(pairs + 3):
            before = plain()
            start = time.perf_counter()
            yield images
            profiled.append(time.perf_counter() - start)
            plains.append((before, plain()))

    with torch.inference_mode():
        plain(), plain(), plain()
        se.profile(model, batches())
        calls = []
        for _ in range(pairs):
            before = plain()
            call = once(lambda: se.profile(model, [images]))
            calls.append(call / ((before + plain()) / 2))
    means = [(a + b) / 2 for a, b in plains[3:]]
    return {
        "profiled_over_plain": statistics.median(p / m for p, m in zip(profiled[3:], means, strict=True)),
        "plain_over_plain": statistics.median(b / a for a, b in plains[3:]),
        "call_over_plain": statistics.median(calls),
        "plain_ms": 1e3 * statistics.median(means),
        "counting_ms": 1e3 * statistics.median(p - m for p, m in zip(profiled[3:], means, strict=True)),
    }


def masked(name: str, steps: Sequence[int]) -> torch.nn.Module:
    """``calibrated`` with these T_l, dealt out over the layers in a fixed random order."""
    model = calibrated(name)
    layers = [layer for layer in model.modules() if isinstance(layer, DTSS)]
    dealt = random.Random(0).sample(list(steps), len(layers))
    for layer, active in zip(layers, dealt, strict=True):
        layer.tp.data.zero_()
        layer.tp.data[active - 1] = 1.5
    return model


def skipping(model: torch.nn.Module, images: torch.Tensor, pairs: int) -> dict[str, float]:
    """Median ratio of the skipping forward to that of all T_max steps, beside the ratio of dense MACs that remain."""
    frame = se.profile(model, [images]).to_frame()
    layers = frame[frame["op"].isin(["conv", "linear", "matmul"])]
    dense = layers["reduction"] * layers["out_channels"] * layers["positions"]
    computed = layers["active"] & layers["needed"] & ~layers["input_repeated"]
    ratios = []
    with torch.inference_mode():
        for round_ in range(pairs + 2):
            model.skips_time_steps = False
            full = once(lambda: model(images))
            model.skips_time_steps = True
            skipped = once(lambda: model(images))
            if round_ > 1:
                ratios.append(skipped / full)
    return {"time": statistics.median(ratios), "macs": float(dense[computed].sum() / dense.sum())}


_PEAK = """
import sys, torch
sys.path.insert(0, {folder!r})
import bench
import snn_energy as se
import snn_energy.profiler.run
model, images = bench.calibrated({name!r}), torch.rand(8, 3, 32, 32)
model.skips_time_steps = False
with open("/proc/self/clear_refs", "w") as stream:  # the peak counts from here
    stream.write("5")
with torch.inference_mode():
    for _ in range(3):
        {call}
with open("/proc/self/status") as stream:
    print(next(line.split()[1] for line in stream if line.startswith("VmHWM")))
"""


def peak_kib(name: str, call: str) -> float:
    """Peak resident memory of a process of its own that runs ``call`` three times; median of five processes.

    The allocator gives freed blocks back at once, so that what is measured is what lives, not what it keeps.
    """
    folder = str(Path(__file__).parent)
    code = _PEAK.format(folder=folder, name=name, call=call)
    frugal = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | frugal
            ).stdout
        )
        for _ in range(5)
    ]
    return statistics.median(peaks)


def array_device(size_bits: int = 108 * 8192, rows: int = 12, lanes: int = 168, mac: float = 0.8425) -> oracle.Device:
    """A device like Eyeriss with a two-level memory, registers, bandwidths and leakage, in the terms of the oracle."""
    word = {"read_word": 16, "write_word": 16}
    return oracle.Device(
        levels=(
            oracle.Store("dram", read=170.0, write=170.0, bandwidth=64, **word),
            oracle.Store("buffer", size=size_bits, read=5.0, write=5.0, bandwidth=512, leakage_w=1e-3, **word),
        ),
        keep=("inputs", "partial_sums", "membrane", "weights", "outputs"),
        rows=rows, columns=14, registers=oracle.Store("registers", **word), inter_pe=oracle.Store("inter_pe", **word),
        variant="psum_spill", w=16, a=16, p=16, mac=mac, ac=0.055, static_w=1e-2,
        timing=oracle.Timing(zeros="skip", clock_hz=200_000_000, lanes=lanes),
    )  # fmt: skip


def looped_pj(rows: list[oracle.Row], samples: int, device: oracle.Device) -> float:
    """The total of one design by a plain Python loop over the rows: the same formulas, written apart."""
    timing = device.timing
    assert timing is not None
    charged = oracle.charge(rows, samples, oracle.Policy(device.variant), timing.zeros)
    arithmetic = sum(c.macs * device.mac + c.acs * device.ac for c in charged)
    seconds = oracle.time_of(charged, device, device.variant, 4).cycles / timing.clock_hz
    watts = (device.static_w or 0.0) + sum(store.leakage_w or 0.0 for store in device.levels)
    return arithmetic + oracle.memory_pj(charged, device, device.variant) + watts * seconds * 1e12


def pricing(counts: Counts) -> list[dict[str, Any]]:
    """What an estimate and a point of a sweep take, and both over a plain Python loop of the same formulas; printed."""
    rows = json.loads(counts.rows.to_json(orient="records"))
    profile = array_device().profile()
    estimates = [once(lambda: se.estimate(counts, profile).total_pj) for _ in range(20)]
    loops = [once(lambda: looped_pj(rows, counts.samples, array_device())) for _ in range(5)]
    loop_s = statistics.median(loops)
    fields = {
        "array.rows": np.arange(1, 101),
        "memory.levels.buffer.size": np.linspace(1e5, 4e6, 100).round(),
        "compute.mac": np.linspace(0.2, 2.0, 100),
    }
    rng = np.random.default_rng(0)
    grid_s, grid = timed(lambda: sweep(counts, profile, fields))
    scattered = {
        "array.rows": rng.integers(1, 500, 1_000_000),
        "latency.lanes": rng.integers(1, 5000, 1_000_000),
        "memory.levels.buffer.size": rng.uniform(1e5, 4e6, 1_000_000).round(),
    }
    scattered_s, points = timed(lambda: sweep(counts, profile, scattered, combine=False))
    worst = 0.0
    for _, row in grid.sample(20, random_state=0).iterrows():
        size, height, mac = (row[f"{key} ({unit})"] for key, unit in zip(
            ("memory.levels.buffer.size", "array.rows", "compute.mac"), ("bit", "row", "pJ"), strict=True))  # fmt: skip
        looped = looped_pj(rows, counts.samples, array_device(int(size), int(height), mac=float(mac)))
        worst = max(worst, abs(row["total_pj"] / looped - 1))
    median_s = statistics.median(estimates)
    print(f"pricing {counts.model}, {len(counts.rows)} rows, two levels of memory, {len(grid):,} points each")
    print("what                                                 seconds   points per second   over a plain Python loop")
    rows = []
    for name, seconds in (("plain Python loop, one design", loop_s), ("estimate, one design", median_s)):
        rows.append({"what": name, "seconds": seconds, "per_second": 1 / seconds})
        print(f"{name:50s} {seconds:9.4f}   {1 / seconds:17,.0f}   {loop_s / seconds:24.1f}")
    for name, seconds, table in (
        ("sweep, rows x buffer size x MAC price (a grid)", grid_s, grid),
        ("sweep, rows, buffer size, lanes (no two alike)", scattered_s, points),
    ):
        rate = len(table) / seconds
        rows.append({"what": name, "seconds": seconds, "per_second": rate})
        print(f"{name:50s} {seconds:9.2f}   {rate:17,.0f}   {rate * loop_s:24,.0f}")
    print(f"largest difference between sweep and loop at 20 points drawn: {worst:.1e}")
    return rows


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call and what it gave."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


# --- other projects' counters -----------------------------------------------------------------------------------

# What a counter's figure is to be held against.
TRUTHS = {
    "all": "non-zero inputs that meet a weight, pairs of a product both non-zero",
    "spiking": "the same, of what reads no image",
    "dense": "MACs, padding taps included",
}
PEER_ROUNDS = 4  # slow as they are; the first is left out
LONG_S = 0.15  # a plain forward that takes longer gets a third of the pairs
OLD_SPIKINGJELLY = Path(__file__).parents[2] / ".venv" / "spikingjelly-0.0.0.0.14"  # syops works with no later one


@dataclass(frozen=True)
class Network:
    """A network, its plain forward, and the counters that run on it.

    plain: one forward of a copy, from rest. batch, options: what ``se.profile`` is given. counters: name -> (what its
    figure is held against, a run that gives the figure).
    """

    name: str
    model: torch.nn.Module
    twin: torch.nn.Module
    plain: Callable[[], object]
    batch: torch.Tensor
    options: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, tuple[str, Callable[[], float]]] = field(default_factory=dict)


class Steps(torch.nn.Module):
    """A network of one time step a call, called T times from rest."""

    def __init__(self, model: torch.nn.Module, time_steps: int, reset: Callable[[torch.nn.Module], object]) -> None:
        super().__init__()
        self.model, self.time_steps, self.reset_all = model, time_steps, reset

    def forward(self, x: torch.Tensor) -> list[Any]:
        self.reset_all(self.model)
        return [self.model(x) for _ in range(self.time_steps)]


def named(package: str, what: str) -> str:
    """The counter with its version."""
    return f"{package} {importlib.metadata.version(package)} {what}".strip()


def is_there(*packages: str) -> bool:
    """True where all of them are installed."""
    try:
        return all(bool(importlib.metadata.version(package)) for package in packages)
    except importlib.metadata.PackageNotFoundError:
        return False


def peers_of(
    twin: torch.nn.Module,
    plain: Callable[[], object],
    neurobench: Callable[[], networks.Synaptic],
    fvcore: Callable[[], int],
) -> dict[str, tuple[str, Callable[[], float]]]:
    """The counters of other projects that are installed."""
    found: dict[str, tuple[str, Callable[[], float]]] = {}
    if is_there("spikingjelly"):
        found[named("spikingjelly", "SynOpCounter")] = "spiking", lambda: networks.synops(plain).get_total()
    if is_there("neurobench", "snntorch"):

        def operations() -> int:
            counted = neurobench()
            return counted.accumulates + counted.macs

        found[named("neurobench", "ACs + MACs")] = "all", operations
    if is_there("fvcore"):
        found[named("fvcore", "")] = "dense", fvcore
    return found


def macs_of(model: torch.nn.Module, x: torch.Tensor) -> int:
    """fvcore's multiply-accumulates of layers and products."""
    by_operator = networks.fvcore_macs(model, x)
    return int(sum(by_operator.get(operator, 0) for operator in ("conv", "linear", "matmul")))


def ours(name: str) -> Network:
    """A network of the registry, batch 8, T 4, 32x32."""
    model, x = calibrated(name), torch.rand(8, 3, 32, 32)
    twin = copy.deepcopy(model)
    twin.skips_time_steps = False  # what is profiled is the forward of all T steps

    def plain() -> object:
        return twin(x)

    counters = peers_of(twin, plain, lambda: networks.synaptic_operations(twin, x), lambda: macs_of(twin, x))
    return Network(name, model, twin, plain, x, {}, counters)


def spikingjelly(name: str, batch: int) -> Network:
    """A network that SpikingJelly ships, resnet-18 or vgg-11, multi-step, T 4, 32x32."""
    from spikingjelly.activation_based import functional

    x = torch.rand(1, batch, 3, 32, 32).repeat(4, 1, 1, 1, 1)
    make = {"resnet-18": networks.spikingjelly_resnet18, "vgg-11": networks.spikingjelly_vgg11}[name]
    model = make(x)
    twin = copy.deepcopy(model)

    def plain() -> object:
        functional.reset_net(twin)
        return twin(x)

    def neurobench() -> networks.Synaptic:
        functional.reset_net(twin)
        return networks.synaptic_operations(twin, x)

    def fvcore() -> int:
        functional.reset_net(twin)
        return macs_of(twin, x)

    counters = peers_of(twin, plain, neurobench, fvcore)
    return Network(
        f"spikingjelly {name}, batch {batch}", model, twin, plain, x, {"time": "axis0", "time_steps": 4}, counters
    )


def convnet() -> Network:
    """snnTorch's example for MNIST, batch 128 as there, T 10, 28x28."""
    from snntorch import utils

    x, time_steps = torch.rand(128, 1, 28, 28), 10
    model = networks.snntorch_convnet()
    twin = networks.snntorch_convnet()  # made, not copied: snnTorch's reset knows of no copies
    steps = Steps(twin, time_steps, utils.reset)

    def neurobench() -> networks.Synaptic:
        return networks.synaptic_operations(twin, x.unsqueeze(1).expand(-1, time_steps, -1, -1, -1), "SNNTorchModel")

    counters = peers_of(twin, lambda: steps(x), neurobench, lambda: macs_of(steps, x))
    return Network(
        "snntorch convnet, batch 128", model, steps, lambda: steps(x), x, {"time_steps": time_steps}, counters
    )


def truths(network: Network) -> dict[str, int]:
    """The figures of ``TRUTHS``, counted from what the layers of a plain forward read."""
    reads = networks.what_is_read(network.twin, network.plain)
    image = reads[0].layer  # the one layer that reads the image
    return {
        "all": sum(read.meetings for read in reads),
        "spiking": sum(read.meetings for read in reads if read.layer is not image),
        "dense": sum(read.dense for read in reads),
    }


def counted_by_us(network: Network) -> int:
    """Our accumulates and MACs of inputs that are not zero, of one batch."""
    frame = se.profile(network.model, [network.batch], **network.options).to_frame()
    return int(frame[frame["op"].isin(["conv", "linear", "matmul"])]["sops"].sum())


def beside_peers(network: Network, pairs: int) -> dict[str, Any]:
    """Medians over rounds of one run: every counter's time over that of the plain forwards before and after it.

    One ``profile`` call takes all batches, as a user's does; everything else happens while it waits for the next.
    """
    times: dict[str, list[tuple[float, float]]] = {}  # counter -> (its seconds, those of a plain forward) per round
    figures: dict[str, tuple[str, float]] = {}
    failed: dict[str, str] = {}

    def plain() -> float:
        return once(network.plain)

    def beside(name: str, run: Callable[[], object]) -> None:
        before = plain()
        took = once(run)
        times.setdefault(name, []).append((took, (before + plain()) / 2))

    def batches() -> Iterator[torch.Tensor]:
        for index in range(pairs + 2):
            with torch._C.DisableTorchFunction():
                before = plain()
            start = time.perf_counter()
            yield network.batch
            took = time.perf_counter() - start
            with torch._C.DisableTorchFunction():
                after = plain()
                times.setdefault("snn_energy", []).append((took, (before + after) / 2))
                times.setdefault("plain", []).append((after, before))
                if index % math.ceil((pairs + 2) / PEER_ROUNDS) == 0:
                    for name in network.counters:
                        if name not in failed:
                            beside(name, network.counters[name][1])

    with torch.no_grad():
        plain(), plain()
        for name, (against, run) in network.counters.items():
            try:
                figures[name] = against, run()
            except Exception as error:  # noqa: BLE001 a counter that cannot run is a finding
                failed[name] = f"{type(error).__name__}: {error}"
        if plain() > LONG_S:
            pairs = max(PEER_ROUNDS, pairs // 3)
        se.profile(network.model, batches(), **network.options)
        for _ in range(4):
            beside("snn_energy, one call", lambda: se.profile(network.model, [network.batch], **network.options))
        figures["snn_energy"] = "all", counted_by_us(network)
        true = truths(network)
    warm = {name: seconds[1:] for name, seconds in times.items()}
    added = {name: statistics.median(a - b for a, b in seconds) for name, seconds in warm.items()}
    return {
        "network": network.name,
        "plain_ms": 1e3 * statistics.median(b for _, b in warm["snn_energy"]),
        "failed": failed,
        "counters": {
            name: {
                "ratio": statistics.median(a / b for a, b in seconds),
                "added_ms": 1e3 * added[name],
                "times_ours": added[name] / added["snn_energy"],
                **(
                    {"held_against": figures[name][0], "counted": figures[name][1], "true": true[figures[name][0]]}
                    if name in figures
                    else {}
                ),
            }
            for name, seconds in warm.items()
        },
    }


def by_syops(pairs: int) -> None:
    """Print, as JSON, ``beside_peers`` of the networks with syops as the one peer (in a process of its own)."""
    from syops import get_model_complexity_info

    def accumulates(network: Network) -> float:
        x = network.batch
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found, _ = get_model_complexity_info(
                network.twin, tuple(x.shape[1:]), [(x, None)], as_strings=False, print_per_layer_stat=False
            )
        return float(found[1]) * len(x)

    def alone(network: Network) -> dict[str, Any]:
        counter = {named("syops", "ACs"): ("spiking", lambda: accumulates(network))}
        return beside_peers(Network(**{**vars(network), "counters": counter}), pairs)

    print(json.dumps([alone(make()) for make in NETWORKS]))


def with_syops(pairs: int) -> list[dict[str, Any]]:
    """What a process with SpikingJelly 0.0.0.0.14, which syops needs, finds; empty where one is not installed."""
    if not OLD_SPIKINGJELLY.is_dir() or not is_there("syops", "progress", "snntorch"):
        print("syops: not installed (it needs progress and SpikingJelly 0.0.0.0.14; make bench installs them)")
        return []
    path = os.pathsep.join([str(OLD_SPIKINGJELLY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", __file__, "--pairs", str(pairs), "--only", "syops"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"PYTHONPATH": path})
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


NETWORKS: tuple[Callable[[], Network], ...] = (
    lambda: ours("spikformer-4-384"),
    lambda: ours("dts-spikformer-4-384"),
    lambda: spikingjelly("vgg-11", 8),
    lambda: spikingjelly("resnet-18", 8),
    convnet,
)


def peers(pairs: int) -> list[dict[str, Any]]:
    """What counting costs, ours and other projects', and whether the figure is right."""
    if not is_there("spikingjelly", "snntorch"):
        print("peers: spikingjelly and snntorch are not installed (make bench installs them)")
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, which fvcore does
        found = [beside_peers(make(), pairs) for make in NETWORKS]
    beside_it = with_syops(PEER_ROUNDS) or [{"counters": {}, "failed": {}} for _ in found]
    for result, second in zip(found, beside_it, strict=True):
        result["failed"] |= second["failed"]
        result["counters"] |= {name: row for name, row in second["counters"].items() if name.startswith("syops")}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {pairs} pairs, {PEER_ROUNDS} rounds of peers")
    for name, meaning in TRUTHS.items():
        print(f"true ({name}): {meaning}")
    print(
        "network                plain ms  counter                          over plain   added ms   x ours  counted/true"
    )
    for result in found:
        for name, row in result["counters"].items():
            share = row["counted"] / row["true"] if "true" in row else None
            right = "" if share is None else "exact" if row["counted"] == row["true"] else f"{share:.4f}"
            times_ours = "" if name in ("plain", "snn_energy") else f"{row['times_ours']:.1f}"
            against = f" ({row['held_against']})" if right else ""
            print(
                f"{result['network']:22s} {result['plain_ms']:8.1f}  {name:32s} {row['ratio']:10.3f}"
                f" {row['added_ms']:10.1f} {times_ours:>8s}  {right:>7s}{against}"
            )
        for name, why in result["failed"].items():
            print(f"{result['network']:22s} {'':8s}  {name:32s} does not run: {why}")
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parts = {"profiling": profiling, "peers": peers, "skipping": skipping_forward, "pricing": pricing_of_a_network}
    parser.add_argument("--only", choices=(*parts, "syops"), help="One part alone.")
    parser.add_argument("--json", type=Path, help="Write what the parts measured, too.")
    arguments = parser.parse_args()
    if arguments.only == "syops":
        by_syops(arguments.pairs)
        return
    measured: dict[str, Any] = {}
    for name, part in parts.items():
        if arguments.only in (None, name):
            measured[name] = part(arguments.pairs)
            print()
    if arguments.json is not None:
        header = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "pairs": arguments.pairs}
        arguments.json.write_text(json.dumps({**header, **measured}, indent=1) + "\n", encoding="utf-8")


def pricing_of_a_network(pairs: int) -> list[dict[str, Any]]:
    """Count one batch of the DTSS 4-384 network and price it."""
    with torch.inference_mode():
        return pricing(se.profile(calibrated("dts-spikformer-4-384"), [torch.rand(4, 3, 32, 32)]))


def profiling(pairs: int) -> list[dict[str, Any]]:
    """What counting costs."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch 8, T 4, 32x32, {pairs} pairs")
    print("model                 profiled/plain  plain/plain  one call/plain  plain ms  counting ms  peak memory ratio")
    rows = []
    for name in ("spikformer-4-384", "dts-spikformer-4-384"):
        found = overhead(name, pairs)
        memory = peak_kib(name, "se.profile(model, [images])") / peak_kib(name, "model(images)")
        rows.append({"network": name, **found, "peak_memory_ratio": memory})
        print(
            f"{name:20s} {found['profiled_over_plain']:15.3f}  {found['plain_over_plain']:11.3f}"
            f"  {found['call_over_plain']:14.3f}  {found['plain_ms']:8.1f}  {found['counting_ms']:11.1f}"
            f"  {memory:17.3f}"
        )
    return rows


def skipping_forward(pairs: int) -> list[dict[str, Any]]:
    """What skipping masked steps saves in wall time."""
    print("skipping forward, batch 8          T_avg  time/T_max time  MACs that remain  time/MACs")
    shipped = files("snn_energy").joinpath("demo_checkpoints", "dts-spikformer-2-64-digits.safetensors")
    digits = torch.from_numpy(load_images("digits", "test", 16, 1, 64).images)
    cases = [
        ("dts-spikformer-2-64-digits, 64 images", se.load_checkpoint(str(shipped)), digits),
        ("dts-spikformer-4-384", masked("dts-spikformer-4-384", [1] * 28 + [2] * 5), torch.rand(8, 3, 32, 32)),
        (
            "dts-spikformer-4-384",
            masked("dts-spikformer-4-384", [1, 2, 3, 3, 3, 4] * 5 + [3, 3, 3]),
            torch.rand(8, 3, 32, 32),
        ),
    ]
    rows = []
    for name, model, images in cases:
        steps = [layer.active_steps() for layer in model.modules() if isinstance(layer, DTSS)]
        ratio = skipping(model, images, pairs)
        rows.append({"network": name, "t_avg": statistics.mean(steps), **ratio})
        print(
            f"{name:38s} {statistics.mean(steps):5.2f}  {ratio['time']:15.3f}  {ratio['macs']:16.3f}"
            f"  {ratio['time'] / ratio['macs']:9.2f}"
        )
    return rows


if __name__ == "__main__":
    main()
