"""What a training step costs: forward, backward, update, as images per second. ``make bench`` prints it.

Two ways in processes of their own, taking turns in one run: "before" is the way of version 0.1.0 (plain operations for
BatchNorm and neurons, tensors given back to the system every step, AdamW as several passes), "now" what a recipe with
``fused`` does. The ratio is of medians over the turns; the spread of each way stands beside it as the noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

import snn_energy as se
from snn_energy.models import spikformer_fused as fused
from snn_energy.training.speed import has_bfloat16, keep_freed_memory

WARM_UP, STEPS = 2, 3
CASES = (("spikformer-4-384", 1, 64), ("spikformer-4-384", 4, 16), ("dts-spikformer-4-384", 4, 16))


def one_way(name: str, steps: int, batch: int, precision: str, way: str) -> float:
    """Images per second of one process, the median over a few steps after a warm-up."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    with keep_freed_memory() if way == "now" else contextlib.nullcontext():
        model: Any = se.create_model(name, image_size=32, num_classes=10, time_steps=steps).train()
        model.to(memory_format=torch.channels_last)
        model.fused = way == "now"
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=way == "now")
        images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch,))
        seconds = []
        for _ in range(WARM_UP + STEPS):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds.append(time.perf_counter() - started)
    return batch / statistics.median(seconds[WARM_UP:])


def in_a_process(*case: Any) -> float:
    """``one_way`` in a fresh process, so that one way's allocator settings do not help the other."""
    run = subprocess.run(
        [sys.executable, __file__, "--one", *map(str, case)], capture_output=True, text=True, check=True
    )
    return float(json.loads(run.stdout.splitlines()[-1]))


def rows(turns: int) -> Iterator[dict[str, Any]]:
    """One row a network, number of time steps and precision that this CPU has."""
    for name, steps, batch in CASES:
        for precision in ["float32", *(["bfloat16"] if has_bfloat16(torch.device("cpu")) else [])]:
            found: dict[str, list[float]] = {"before": [], "now": []}
            for _ in range(turns):
                for way, rates in found.items():
                    rates.append(in_a_process(name, steps, batch, precision, way))
            before, now = (statistics.median(found[way]) for way in ("before", "now"))
            yield {
                "network": name, "T": steps, "batch": batch, "precision": precision, "before": before, "now": now,
                "ratio": now / before, **{f"spread_{way}": max(rates) / min(rates) for way, rates in found.items()},
            }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", nargs=5)
    given = parser.parse_args()
    if given.one:
        name, steps, batch, precision, way = given.one
        print(json.dumps(one_way(name, int(steps), int(batch), precision, way)))
        return
    reason = fused.compile_error("cpu")
    if reason is not None:
        print(f"training is not timed: nothing can be compiled here ({reason})")
        return
    bf16 = "" if has_bfloat16(torch.device("cpu")) else "; this CPU has no bfloat16 instructions, so float32 alone"
    print(f"training steps, 2 threads, {given.turns} turns of each way{bf16}")
    print(f"{'network':<22}{'T':>3}{'batch':>6}  {'precision':<10}{'before':>8}{'now':>8} images/s{'ratio':>7}  spread")
    for row in rows(given.turns):
        print(
            f"{row['network']:<22}{row['T']:>3}{row['batch']:>6}  {row['precision']:<10}{row['before']:>8.2f}"
            f"{row['now']:>8.2f}         {row['ratio']:>7.2f}  {row['spread_before']:.2f}, {row['spread_now']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
