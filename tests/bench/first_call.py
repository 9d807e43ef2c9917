"""What the first profile in a fresh process costs, against plain forwards of the same batches in another fresh process.

``python tests/bench/first_call.py`` prints it: two batches of 8, nothing declared but what README asks for, processes
of both kinds in turn. ``allowed`` is 1.5 plain forwards of what is profiled and two forwards of two samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.checkpoints.nir.graph import load_nir

RECORDED = Path(__file__).parents[3] / "shared" / "checkpoints" / "nmnist_cnn_sinabs.nir"


@dataclass(frozen=True)
class Case:
    """A network, two batches of it, how it is profiled, and one plain forward from rest of a batch."""

    model: nn.Module
    batch: Callable[[int], Tensor]
    plain: Callable[[Tensor], object]
    options: Mapping[str, Any] = field(default_factory=dict)


def registered(name: str) -> Case:
    """A network of the registry at 32x32."""
    model = bench.calibrated(name)
    model.skips_time_steps = False
    return Case(model, lambda samples: torch.rand(samples, 3, 32, 32), model)


def spikingjelly(name: str) -> Case:
    """A network of SpikingJelly, whose frames come as (T, B, ...)."""
    from spikingjelly.activation_based import functional

    network = bench.spikingjelly(name, 8)

    def plain(x: Tensor) -> object:
        functional.reset_net(network.model)
        return network.model(x)

    def frames(samples: int) -> Tensor:
        return torch.rand(1, samples, 3, 32, 32).repeat(4, 1, 1, 1, 1)

    return Case(network.model, frames, plain, {"time_steps": 4})


def convnet() -> Case:
    """snnTorch's network, called once per time step with the same images."""
    network = bench.convnet()
    steps = bench.Steps(network.model, 10, network.twin.reset_all)
    return Case(network.model, lambda samples: torch.rand(samples, 1, 28, 28), steps, {"time_steps": 10})


def nir() -> Case:
    """A graph of 300 steps, if its file is there."""
    network = load_nir(RECORDED)

    def plain(x: Tensor) -> None:
        network.reset_state()
        for step in x:
            network(step)
        network.reset_state()

    def frames(samples: int) -> Tensor:
        return (torch.rand(300, samples, 2, 34, 34) < 0.05).float()

    return Case(network, frames, plain, {"time": "call-axis0", "time_steps": 300})


CASES: dict[str, Callable[[], Case]] = {
    "spikformer-4-384": lambda: registered("spikformer-4-384"),
    "dts-spikformer-4-384": lambda: registered("dts-spikformer-4-384"),
    "spikingjelly vgg-11": lambda: spikingjelly("vgg-11"),
    "spikingjelly resnet-18": lambda: spikingjelly("resnet-18"),
    "snntorch convnet": convnet,
    **({"NIR graph, 300 steps": nir} if RECORDED.is_file() else {}),
}


def in_this_process(name: str, what: str) -> dict[str, float]:
    """Seconds of one way to run a network, in a process that has done nothing else."""
    warnings.simplefilter("ignore")
    case = CASES[name]()
    torch.manual_seed(1)
    batches, few = [case.batch(8), case.batch(8)], case.batch(2)
    profile = se.profile  # imports what it needs
    if what == "profile":
        return {"seconds": _timed(lambda: profile(case.model, batches, **case.options))}
    with torch.no_grad():
        seconds = _timed(lambda: [case.plain(x) for x in batches])
        return {"seconds": seconds, "few": _timed(lambda: case.plain(few))}


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_fresh_process(name: str, what: str) -> dict[str, float]:
    """``in_this_process`` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--case", name, "--what", what]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--what", choices=("profile", "plain"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what:
        print(json.dumps(in_this_process(arguments.case, arguments.what)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {arguments.rounds} processes each")
    print("network                   plain s   profile s   over plain   allowed")
    for name in [arguments.case] if arguments.case else CASES:
        rounds = [(in_fresh_process(name, "plain"), in_fresh_process(name, "profile")) for _ in range(arguments.rounds)]
        plain = statistics.median(p["seconds"] for p, _ in rounds)
        profiled = statistics.median(q["seconds"] for _, q in rounds)
        ratio = statistics.median(q["seconds"] / p["seconds"] for p, q in rounds)
        allowed = 1.5 + 2 * statistics.median(p["few"] / p["seconds"] for p, _ in rounds)
        print(f"{name:24s} {plain:8.2f} {profiled:11.2f} {ratio:12.2f} {allowed:9.2f}")


if __name__ == "__main__":
    main()
