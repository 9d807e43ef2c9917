"""What must stay the same, byte for byte, while code is moved: counts files, tables of prices, help texts.

``make golden REF=<commit>`` runs this file with the package of the working tree and with that of a commit, and compares
every file by ``filecmp``. Only public names are used, so that both versions are called alike.
"""

from __future__ import annotations

import argparse
import filecmp
import itertools
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.datasets import load_images
from snn_energy.models.neurons import DTSS, LIF

ROOT = Path(__file__).parents[2]
T, FEATURES, HIDDEN, CLASSES = 3, 6, 8, 4
UNEQUAL = (5, 3, 1, 4)  # samples of the batches
HELP_WIDTH = "100"


def golden_files(folder: Path) -> None:
    """Write everything into the folder."""
    torch.set_num_threads(1)
    for name, counts in networks():
        counts.save(folder / f"{name}.json")
    for name, text in tables():
        (folder / name).write_text(text, encoding="utf-8")
    for name, text in help_texts():
        (folder / name).write_text(text, encoding="utf-8")


def networks() -> Iterator[tuple[str, se.Counts]]:
    """Own networks, CNNs, a published one, one of every framework, a NIR graph, and every way in which time can lie."""
    yield from shipped()
    yield from untrained()
    yield from time_modes()
    yield from rules()
    yield from frameworks()
    yield from nir_graph()


def batches_of(x: Tensor, sizes: tuple[int, ...] = UNEQUAL, axis: int = 0) -> list[Tensor]:
    """x (samples along ``axis``) in batches of unequal size."""
    return list(x.split(sizes, dim=axis))


def profiled(model: nn.Module, batches: list[Any], **options: Any) -> se.Counts:
    """``profile`` without the warning of an operation that has no rule: it is a row of the counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return se.profile(model, batches, **options)


def shipped() -> Iterator[tuple[str, se.Counts]]:
    """The three digit networks of the demo on real digits, with labels."""
    for name in ("vit-2-64", "spikformer-2-64", "dts-spikformer-2-64"):
        model = se.load_checkpoint(next((ROOT / "snn_energy").rglob(f"{name}-digits.safetensors")))
        images = load_images("digits", "test", 16, 1)
        pixels, labels = torch.from_numpy(images.batch(np.arange(13))), torch.from_numpy(images.labels[:13])
        pairs = list(zip(batches_of(pixels), batches_of(labels), strict=True))
        yield f"shipped-{name}", profiled(model, pairs)


def firing(model: nn.Module, x: Tensor) -> nn.Module:
    """In eval mode, with BatchNorms that know the statistics of x and biases that make neurons fire."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.bias, 0.0, 0.5)
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def untrained() -> Iterator[tuple[str, se.Counts]]:
    """CNNs (hard reset, Hoyer, soft reset, DTSS layers, none) and the public Spikformer with random weights."""
    cnn = {"image_size": 16, "in_channels": 1, "num_classes": CLASSES, "width": 0.0625}
    cases: dict[str, dict[str, Any]] = {
        "resnet19": cnn | {"time_steps": 2},
        "dts-resnet19": cnn | {"time_steps": 2},
        "vgg16-hoyer": cnn,
        "preact-resnet18": cnn | {"time_steps": 2},
        "resnet19-ann": cnn,
        "public-spikformer-1-32": {"image_size": 32, "in_channels": 3, "num_classes": CLASSES, "time_steps": 2},
        "dts-spikformer-1-32": {"image_size": 32, "in_channels": 3, "num_classes": CLASSES, "time_steps": 4},
    }
    for name, options in cases.items():
        torch.manual_seed(0)
        model = se.create_model(name, **options)
        x = torch.rand(7, options["in_channels"], options["image_size"], options["image_size"])
        firing(model, x)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, DTSS):
                    module.tp.copy_(torch.linspace(1.2, 0.1, len(module.tp)))
        yield f"untrained-{name}", profiled(model, batches_of(x, (4, 2, 1)))


class InOneLayout(nn.Module):
    """Linear, LIF, linear on (T, B, ...) in front of which time lies as ``layout`` says."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layout, self.time_steps = layout, T
        self.fc1, self.lif, self.fc2 = nn.Linear(FEATURES, HIDDEN), LIF(), nn.Linear(HIDDEN, CLASSES)
        with torch.no_grad():
            self.fc1.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        """x: as the layout has it -> logits laid out alike, (B, C) for "inside"."""
        if self.layout == "inside":
            return self.fc2(self.lif(self.fc1(x).expand(T, -1, -1))).mean(0)  # type: ignore[no-any-return]
        current = self.fc1(x)
        if self.layout == "axis1":
            return self.fc2(self.lif(current.transpose(0, 1)).transpose(0, 1))  # type: ignore[no-any-return]
        if self.layout == "flat":
            return self.fc2(self.lif(current.unflatten(0, (T, -1))).flatten(0, 1))  # type: ignore[no-any-return]
        if self.layout == "flat-batch":
            spikes = self.lif(current.unflatten(0, (-1, T)).transpose(0, 1))
            return self.fc2(spikes.transpose(0, 1).flatten(0, 1))  # type: ignore[no-any-return]
        return self.fc2(self.lif(current))  # type: ignore[no-any-return]


class StepNeuron(nn.Module):
    """A neuron written by hand that is called once per step and keeps its potential."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) -> (B, N) in {0, 1}."""
        h = self.v * 0.5 + x
        spikes = (h > 1).float()
        self.v = h - spikes
        return spikes


class StepByStep(nn.Module):
    """Linear, hand-written neuron, linear; with ``loops`` the steps are made inside."""

    def __init__(self, *, loops: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.loops = loops
        self.fc1, self.neuron, self.fc2 = nn.Linear(FEATURES, HIDDEN), StepNeuron(), nn.Linear(HIDDEN, CLASSES)
        with torch.no_grad():
            self.fc1.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, C)."""
        if not self.loops:
            return self.fc2(self.neuron(self.fc1(x)))  # type: ignore[no-any-return]
        self.neuron.v = 0.0
        outs = [self.fc2(self.neuron(self.fc1(x))) for _ in range(T)]
        return torch.stack(outs).mean(0)


def time_modes() -> Iterator[tuple[str, se.Counts]]:
    """All twelve, each on 13 samples in unequal batches."""
    generator = torch.Generator().manual_seed(3)
    still = torch.rand(sum(UNEQUAL), FEATURES, generator=generator) * 2
    moving = torch.rand(T, sum(UNEQUAL), FEATURES, generator=generator) * 2
    over_time = {
        "axis0": batches_of(moving, axis=1),
        "axis1": batches_of(moving.transpose(0, 1)),
        "flat": [batch.flatten(0, 1) for batch in batches_of(moving, axis=1)],
        "flat-batch": [batch.flatten(0, 1) for batch in batches_of(moving.transpose(0, 1))],
    }
    for layout, batches in over_time.items():
        yield f"time-{layout}", profiled(InOneLayout(layout), batches, time=layout, time_steps=T)
        yield (
            f"time-repeat-{layout}",
            profiled(InOneLayout(layout), batches_of(still), time=f"repeat-{layout}", time_steps=T),
        )
    yield "time-inside", profiled(InOneLayout("inside"), batches_of(still), time="inside", time_steps=T)
    by_hand: dict[str, Any] = {"time_steps": T, "neurons": [StepNeuron]}
    yield "time-loop", profiled(StepByStep(loops=True), batches_of(still), time="loop", **by_hand)
    yield "time-call", profiled(StepByStep(loops=False), batches_of(still), time="call", **by_hand)
    yield (
        "time-call-axis0",
        profiled(StepByStep(loops=False), batches_of(moving, axis=1), time="call-axis0", **by_hand),
    )


class ManyOperations(nn.Module):
    """Operations of every family of rules around one LIF, on (T, B, 4, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.time_steps = T
        self.conv, self.norm, self.lif = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), LIF()
        self.grouped, self.up = nn.Conv2d(4, 8, 3, groups=2, stride=2), nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.mha, self.layer_norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.fc = nn.Linear(16, CLASSES)
        self.gain = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, 2, 8, 8) -> (B, C)."""
        steps, samples = x.shape[:2]
        current = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, (steps, samples))
        spikes = self.lif(current)  # (T, B, 4, 8, 8)
        flat = spikes.flatten(0, 1)
        added = flat + nn.functional.avg_pool2d(flat, 3, 1, 1) + torch.roll(flat, 1, -1)
        tokens = nn.functional.max_pool2d(flat + flat, 2).flatten(2)  # (T*B, 4, 16)
        product = torch.einsum("bik,bjk->bij", tokens, flat.flatten(2)[..., :16]) @ tokens
        mixed = self.mha(product, tokens, self.layer_norm(product), need_weights=False)[0]
        gated = torch.sigmoid(mixed) * self.gain + torch.addcmul(mixed, tokens, tokens, value=0.5)
        wide = self.up(self.lif(added.unflatten(0, (steps, samples))).flatten(0, 1)).abs()
        small = self.grouped(added).clamp(-1, 1).flatten(1).mean(-1, keepdim=True)
        out = self.fc(gated.softmax(-1).amax(1)) + small * wide.mean((1, 2, 3))[:, None]
        return out.unflatten(0, (steps, samples)).mean(0)  # type: ignore[no-any-return]


def rules() -> Iterator[tuple[str, se.Counts]]:
    """Many operations, on real and on declared binary input."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(T, sum(UNEQUAL), 2, 8, 8, generator=generator) * 3
    yield "rules-real", profiled(ManyOperations().eval(), batches_of(x, axis=1), time="axis0")
    bits = (x > 1.5).float()
    yield "rules-binary", profiled(ManyOperations().eval(), batches_of(bits, axis=1), time="axis0", input_kind="binary")


def frameworks() -> Iterator[tuple[str, se.Counts]]:
    """One network of each, where it is installed."""
    x = torch.rand(sum(UNEQUAL), 1, 8, 8, generator=torch.Generator().manual_seed(6)) * 2

    def body(node: Callable[[], nn.Module], layers: Any = nn, sequential: Any = nn.Sequential) -> nn.Module:
        torch.manual_seed(7)
        parts = [layers.Conv2d(1, 4, 3, padding=1), layers.BatchNorm2d(4), node(), layers.MaxPool2d(2)]
        model = sequential(*parts, layers.Flatten(), layers.Linear(64, 8), node(), layers.Linear(8, CLASSES))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("weight") and parameter.dim() > 1:
                    parameter.mul_(3)
        return model.eval()  # type: ignore[no-any-return]

    over_time = torch.stack([x, x.flip(0), x.roll(1, 0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sinabs.layers import IAFSqueeze  # type: ignore[import-not-found]
        from snntorch import Leaky  # type: ignore[import-not-found]
        from spikingjelly.activation_based import layer, neuron  # type: ignore[import-not-found]

        jelly = body(lambda: neuron.LIFNode(step_mode="m"), layer)
        for module in jelly.modules():
            if hasattr(module, "step_mode"):
                module.step_mode = "m"
        yield "framework-spikingjelly", profiled(jelly, batches_of(over_time, axis=1), time="axis0", time_steps=T)
        single = body(lambda: neuron.IFNode(step_mode="s"), layer)
        yield "framework-spikingjelly-steps", profiled(single, batches_of(x), time="call", time_steps=T)
        leaky = body(lambda: Leaky(beta=0.9, init_hidden=True))
        yield "framework-snntorch", profiled(leaky, batches_of(x), time="call", time_steps=T)
        squeeze = body(lambda: IAFSqueeze(batch_size=1, num_timesteps=T))
        flat = [over_time[:, i : i + 1].flatten(0, 1) for i in range(3)]
        yield "framework-sinabs", profiled(squeeze, flat, time="flat", time_steps=T)
        import norse.torch as norse  # type: ignore[import-not-found]

        cells = body(norse.LIFCell, sequential=norse.SequentialState)
        yield "framework-norse", profiled(NorseLoop(cells), batches_of(x), time="loop", time_steps=T)


class NorseLoop(nn.Module):
    """Norse hands the state on from call to call."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, C)."""
        outs, state = [], None
        for _ in range(T):
            out, state = self.body(x, state)
            outs.append(out)
        return torch.stack(outs).mean(0)


def nir_graph() -> Iterator[tuple[str, se.Counts]]:
    """A graph with a convolution, integrate-and-fire neurons and an affine node, by the command line."""
    import nir  # type: ignore[import-not-found]

    rng = np.random.default_rng(8)
    ones = np.ones((4, 8, 8), np.float32)
    nodes = {
        "input": nir.Input(np.array([1, 8, 8])),
        "conv": nir.Conv2d(
            (8, 8), rng.normal(size=(4, 1, 3, 3)).astype(np.float32), 1, 1, 1, 1, np.zeros(4, np.float32)
        ),
        "if": nir.IF(ones, ones, ones * 0),
        "flatten": nir.Flatten({"input": np.array([4, 8, 8])}, 0, -1),
        "affine": nir.Affine(rng.normal(size=(CLASSES, 256)).astype(np.float32), np.zeros(CLASSES, np.float32)),
        "output": nir.Output(np.array([CLASSES])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        nir.write(place / "graph.nir", graph)
        images = rng.random((9, 1, 8, 8), np.float32)
        np.savez(place / "images.npz", images=images, labels=np.arange(9) % CLASSES)
        run_cli(
            "profile", "graph.nir", "--data", "npz:images.npz", "--time-steps", str(T), "--time", "call", "-o",
            "counts.json", cwd=place,
        )  # fmt: skip
        yield "nir", se.load_counts(place / "counts.json")


def run_cli(*arguments: str, cwd: Path | None = None) -> str:
    """What the command prints, stdout."""
    run = subprocess.run(
        [sys.executable, "-m", "snn_energy", *arguments], capture_output=True, text=True, cwd=cwd, check=False,
        env=os.environ | {"COLUMNS": HELP_WIDTH, "TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(f"snn-energy {' '.join(arguments)}: {run.stderr}")
    return run.stdout


def tables() -> Iterator[tuple[str, str]]:
    """Every row priced on every bundled device, and under every policy on one, from the counts of ``reports/demo``."""
    counts = [se.load_counts(path) for path in sorted((ROOT / "reports" / "demo").glob("*.json"))]
    named = {each.model: each for each in counts}
    for device in se.list_hardware():
        for name, each in named.items():
            yield f"energy-{device}-{name}.csv", csv_or_refusal(se.estimate, each, device)
            yield f"latency-{device}-{name}.csv", csv_or_refusal(se.estimate_latency, each, device)
        yield f"compare-{device}.csv", csv_or_refusal(se.compare, named, device, baseline=counts[0].model)
    policies: dict[str, tuple[str, ...]] = {
        "memory": ("ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse"),
        "integer": ("ac", "multi-ac", "mac", "mac-dense"),
        "products": ("coincidence", "gated"),
        "encoder": ("per-step", "once"),
    }
    for key, values in policies.items():
        for value in values:
            for each in counts:
                yield (
                    f"policy-{key}-{value}-{each.model}.csv",
                    csv_or_refusal(se.estimate, each, "dts-paper-fpga-array", **{key: value}),
                )
    for each in counts:
        yield f"audit-{each.model}.csv", se.audit(each, "dts-paper-fpga").to_frame().to_csv()


def csv_or_refusal(make: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The table as CSV, or the class of the error where it is refused, such as by a device without a price of MACs."""
    try:
        return str(make(*arguments, **options).to_frame().to_csv())
    except se.SnnEnergyError as error:
        return f"{type(error).__name__}\n"


def help_texts() -> Iterator[tuple[str, str]]:
    """``--help`` of every command and subcommand."""
    top = run_cli("--help")
    yield "help.txt", top
    for command in commands_of(top):
        text = run_cli(command, "--help")
        yield f"help-{command}.txt", text
        for inner in commands_of(text):
            yield f"help-{command}-{inner}.txt", run_cli(command, inner, "--help")


def commands_of(text: str) -> list[str]:
    """The commands that a help text lists."""
    _, _, listed = text.partition("Commands ")
    return re.findall(r"^│ ([a-z][a-z0-9-]*) {2,}", listed, re.MULTILINE)


def compare(ref: str) -> int:
    """Make the files with the package of a commit and of the working tree; print what differs; 0 where nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", place / "ref", ref], cwd=ROOT, check=True)
        try:
            for name, source in (("before", place / "ref"), ("now", ROOT)):
                (place / name).mkdir()
                subprocess.run(
                    [sys.executable, __file__, "-o", place / name], check=True, cwd=place,
                    env=os.environ | {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"},
                )  # fmt: skip
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place / "ref"], cwd=ROOT, check=True)
        files = sorted({path.name for side in ("before", "now") for path in (place / side).iterdir()})
        _, different, missing = filecmp.cmpfiles(place / "before", place / "now", files, shallow=False)
        for file in different:
            print(f"differs: {file}")
        for file in missing:
            print(f"only in one of the two: {file}")
        print(f"{len(files)} files, {len(files) - len(different) - len(missing)} equal byte for byte to {ref}")
        return 1 if different or missing else 0


def main() -> None:
    """Write the files (-o) or compare with a commit (--ref)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--ref")
    given = parser.parse_args()
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        golden_files(given.output)
    else:
        sys.exit(compare(given.ref))


if __name__ == "__main__":
    main()
