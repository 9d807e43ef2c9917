"""What profiling costs: profiled against plain forwards, interleaved in one run. ``make bench`` prints it.

Ratios, not seconds: plain against plain in the same run is the noise. Nothing here is a test with a threshold.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files

import torch

import snn_energy as se
from snn_energy.datasets import load_images
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
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
    print()
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
