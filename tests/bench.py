"""What profiling, skipping and pricing cost. ``make bench`` prints it.

Profiled against plain forwards, interleaved in one run; estimates and sweeps against a plain Python loop.

Ratios, not seconds: plain against plain in the same run is the noise. Nothing here is a test with a threshold.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import hierarchy_oracle as oracle
import numpy as np
import torch

import snn_energy as se
from snn_energy.counts import Counts
from snn_energy.datasets import load_images
from snn_energy.models.neurons import DTSS
from snn_energy.sweep import sweep


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
import snn_energy.profiler.profile
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
    folder = __file__.rsplit("/", 1)[0]
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


def pricing(counts: Counts) -> None:
    """Print what an estimate and a point of a sweep take, and both over a plain Python loop of the same formulas."""
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
    for name, seconds in (("plain Python loop, one design", loop_s), ("estimate, one design", median_s)):
        print(f"{name:50s} {seconds:9.4f}   {1 / seconds:17,.0f}   {loop_s / seconds:24.1f}")
    for name, seconds, table in (
        ("sweep, rows x buffer size x MAC price (a grid)", grid_s, grid),
        ("sweep, rows, buffer size, lanes (no two alike)", scattered_s, points),
    ):
        rate = len(table) / seconds
        print(f"{name:50s} {seconds:9.2f}   {rate:17,.0f}   {rate * loop_s:24,.0f}")
    print(f"largest difference between sweep and loop at 20 points drawn: {worst:.1e}")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call and what it gave."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--only", choices=("profiling", "skipping", "pricing"), help="One part alone.")
    arguments = parser.parse_args()
    parts = {"profiling": profiling, "skipping": skipping_forward, "pricing": pricing_of_a_network}
    for name, part in parts.items():
        if arguments.only in (None, name):
            part(arguments.pairs)
            print()


def pricing_of_a_network(pairs: int) -> None:
    """Count one batch of the DTSS 4-384 network and price it."""
    with torch.inference_mode():
        pricing(se.profile(calibrated("dts-spikformer-4-384"), [torch.rand(4, 3, 32, 32)]))


def profiling(pairs: int) -> None:
    """What counting costs."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch 8, T 4, 32x32, {pairs} pairs")
    print("model                 profiled/plain  plain/plain  one call/plain  plain ms  counting ms  peak memory ratio")
    for name in ("spikformer-4-384", "dts-spikformer-4-384"):
        found = overhead(name, pairs)
        memory = peak_kib(name, "se.profile(model, [images])") / peak_kib(name, "model(images)")
        print(
            f"{name:20s} {found['profiled_over_plain']:15.3f}  {found['plain_over_plain']:11.3f}"
            f"  {found['call_over_plain']:14.3f}  {found['plain_ms']:8.1f}  {found['counting_ms']:11.1f}"
            f"  {memory:17.3f}"
        )


def skipping_forward(pairs: int) -> None:
    """What skipping masked steps saves in wall time."""
    print("skipping forward, batch 8          T_avg  time/T_max time  MACs that remain  time/MACs")
    shipped = files("snn_energy").joinpath("demo_checkpoints", "dts-spikformer-2-64-digits.safetensors")
    digits = torch.from_numpy(load_images("digits", "test", 16, 1, 64).images)
    networks = [
        ("dts-spikformer-2-64-digits, 64 images", se.load_checkpoint(str(shipped)), digits),
        ("dts-spikformer-4-384", masked("dts-spikformer-4-384", [1] * 28 + [2] * 5), torch.rand(8, 3, 32, 32)),
        (
            "dts-spikformer-4-384",
            masked("dts-spikformer-4-384", [1, 2, 3, 3, 3, 4] * 5 + [3, 3, 3]),
            torch.rand(8, 3, 32, 32),
        ),
    ]
    for name, model, images in networks:
        steps = [layer.active_steps() for layer in model.modules() if isinstance(layer, DTSS)]
        ratio = skipping(model, images, pairs)
        print(
            f"{name:38s} {statistics.mean(steps):5.2f}  {ratio['time']:15.3f}  {ratio['macs']:16.3f}"
            f"  {ratio['time'] / ratio['macs']:9.2f}"
        )


if __name__ == "__main__":
    main()
