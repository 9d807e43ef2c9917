"""What only a GPU can show, measured into a folder: CSV files and a page, ``table.md``.

    python tests/bench/gpu.py -o reports/gpu --device cuda [--data NAME:PATH] [CHECKPOINT ...]

1. overhead: profiled over plain forward with and without waiting for the device, and how often each waits by itself;
2. energy: joules per image by NVML of the forward of all steps and of the skipping one, beside ``se.estimate``;
3. training: images per second of forward, backward and update.

On a CPU the same runs, and what needs CUDA or NVML is "not measured" in words; ``--quick`` is a rehearsal of seconds.
Every row is in its file as soon as it is measured; a part that fails is a line on the page, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import itertools
import random
import re
import statistics
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import SnnEnergyError
from snn_energy.core.files import make_folder, write_text
from snn_energy.datasets.open import load_images
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import time_steps_by_layer
from snn_energy.report.tables import markdown

SEED = 0
HARDWARE = ("dts-paper-fpga", "horowitz-45nm-fp32", "npu-7nm-bf16")
FAMILIES = ("vit", "spikformer", "dts-spikformer")
SPREAD = (
    1,
    2,
    3,
    3,
    3,
    4,
)  # T_l of an untrained DTSS network, again and again, dealt over the layers by random.Random(0)
NO_CUDA = "not measured (no CUDA device)"
EPOCH_IMAGES = 50_000
TRAINED = ("batch", "first_step_s", "steps", "images_per_second", "epoch_seconds")  # what ``training`` measures
SAMPLE_MS = 20  # between two readings of the power, where there is no counter of energy


@dataclass(frozen=True)
class Sizes:
    """How much is measured: pairs of forwards, seconds of energy and training, images that are counted.

    block: batches between two waits for the device where not after every one. warm_up: rounds left out.
    """

    depth_dim: str = "4-384"
    batches: tuple[int, ...] = (64, 256)
    pairs: int = 20
    seconds: float = 5.0
    counted: int = 8
    train_batch: int = 256
    block: int = 8
    warm_up: int = 3


QUICK = Sizes("2-64", (4,), pairs=2, seconds=0.1, counted=2, train_batch=4, block=2, warm_up=1)


@dataclass
class Network:
    """A network on the device in eval mode, its images (as many as the largest batch), and what is to be said of it."""

    name: str
    model: nn.Module
    images: Tensor
    said: dict[str, Any]

    @property
    def can_skip(self) -> bool:
        """True for a network of DTSS layers whose forward leaves out what its masks make dead."""
        return bool(self.said["can_skip"])


@dataclass
class Table:
    """One CSV file, written anew, whole, with every row; None is an empty cell."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Take a row and write all."""
        self.rows.append(row)
        columns = list(dict.fromkeys(key for line in self.rows for key in line))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def page(self) -> str:
        """As Markdown; where a row has a note, the figures that it lacks say so."""
        if not self.rows:
            return "No row was measured.\n"
        columns = [c for c in dict.fromkeys(key for line in self.rows for key in line) if c != "note"]
        cells = [{c: row["note"] if row.get(c) is None and row.get("note") else row.get(c) for c in columns}
                 for row in self.rows]  # fmt: skip
        return markdown(pd.DataFrame(cells, columns=columns, dtype=object))


class Run:
    """The folder, the tables, what failed, and the page, which is written anew after every part."""

    def __init__(self, folder: Path, device: torch.device, sizes: Sizes, head: dict[str, str]) -> None:
        self.folder, self.device, self.sizes, self.head = folder, device, sizes, head
        self.tables: dict[str, Table] = {}
        self.failures: list[str] = []

    def table(self, name: str) -> Table:
        """The table of ``name.csv``."""
        return self.tables.setdefault(name, Table(self.folder / f"{name}.csv"))

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on behind a failure, and note it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 what fails must not take the rest with it
            text = without_paths(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
            self.failures.append(f"{what}: {text}")
            print(f"failed: {what}: {text}", file=sys.stderr)
        self.write_page()

    def write_page(self) -> None:
        """``table.md``, of what there is by now."""
        lines = ["# What only a GPU can show\n", *(f"- {key}: {value}" for key, value in self.head.items()), ""]
        if self.failures:
            lines += ["**Failed, so not measured:**\n", *(f"- {line}" for line in self.failures), ""]
        for name, (title, text) in PARTS.items():
            if name in self.tables:
                lines += [f"## {title}\n", text.format(**vars(self.sizes), SAMPLE_MS=SAMPLE_MS), ""]
                lines += [self.tables[name].page()]
        write_text(self.folder / "table.md", "\n".join(lines).rstrip() + "\n")


PARTS = {
    "networks": (
        "Networks",
        "Untrained networks have random weights, BatchNorms that have seen eight images, and T_l dealt out as said. "
        "The images are the same in every part.",
    ),
    "overhead": (
        "What counting costs",
        "Profiled over plain forward of all steps: medians over interleaved pairs of one run, a plain forward before "
        "and after every profiled one; plain over plain is the noise. The clock stops behind a wait for the device: "
        "after every batch, or once for {block} batches. Images lie on the device; one `profile` call takes all.",
    ),
    "synchronisations": (
        "How often host and device wait for each other",
        "Synchronising operations of one batch, as torch's sync debug mode warns of them.",
    ),
    "synchronisation-places": ("Where they are", "Lines of code that wait, in one batch."),
    "idle": ("Idle power", "Of the card with a CUDA context open and nothing to do."),
    "energy": (
        "Joules per image",
        "Forwards in a row for at least {seconds} s at the largest batch, warmed up before. All of the card's energy "
        "over the images, and the same without idle power times the time. NVML's counter moves in steps of some "
        "100 ms; where there is none, power is read every {SAMPLE_MS} ms. Behind them what `estimate` says of the same "
        "network for {counted} of the images: accelerators that a GPU is not, so orders and ratios can be held against "
        "each other, joules cannot.",
    ),
    "ranks": (
        "Order of the networks, measured and modelled",
        "Least energy per image first, as multiples of the least. As used: a network that can skip masked steps does.",
    ),
    "training": (
        "Training",
        "Forward, backward and AdamW's update under bf16 autocast, channels last, batch {train_batch}; the images lie "
        "on the device, so neither reading nor augmentation is in it. An epoch is 50,000 images. Fused: BatchNorm and "
        "neuron compiled into one operation (`model.fused`).",
    ),
}


def without_paths(text: str) -> str:
    """Paths shortened to the last name: a page says nothing of the machine it was made on."""
    return re.sub(r"(?:[\w.~-]*/)+([\w.-]*)", r"\1", text)


def name_alone(argument: str) -> str:
    """``NAME:/a/b`` -> ``NAME:b``, ``/a/b`` -> ``b``."""
    kind, colon, path = argument.rpartition(":")
    return f"{kind}{colon}{Path(path).name}"


# --- networks ---------------------------------------------------------------------------------------------------


def untrained(name: str) -> nn.Module:
    """Random weights; BatchNorms that have seen images, so that every layer fires; T_l of ``SPREAD``."""
    torch.manual_seed(SEED)
    model = se.create_model(name, image_size=32, num_classes=10)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.bias, 0.0, 0.5)
            module.momentum = None
    layers = [layer for layer in model.modules() if isinstance(layer, DTSS)]
    spread = [SPREAD[i % len(SPREAD)] for i in range(len(layers))]
    for layer, steps in zip(layers, random.Random(SEED).sample(spread, len(layers)), strict=True):
        layer.tp.data.zero_()
        layer.tp.data[steps - 1] = 1.5
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(SEED)))
    return model.eval()


def networks_of(checkpoints: Sequence[str], data: str | None, sizes: Sizes, device: torch.device) -> list[Network]:
    """The checkpoints given, or the three untrained networks. Raises SnnEnergyError."""
    labels = [Path(path).stem for path in checkpoints] or [f"{f}-{sizes.depth_dim}" for f in FAMILIES]
    twice = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twice:
        raise SnnEnergyError(f"{', '.join(twice)}: two checkpoints of this name; give one another name")
    models = [se.load_checkpoint(path) for path in checkpoints] or [untrained(label) for label in labels]
    found = []
    for label, model in zip(labels, models, strict=True):
        config: Any = model.config
        steps = list(time_steps_by_layer(model).values())
        said = {
            "network": label,
            "model": config.name,
            "weights": "of the checkpoint" if checkpoints else "untrained",
            "time_steps": model.time_steps,
            "t_avg": statistics.mean(steps) if steps else None,
            "t_l": " ".join(map(str, steps)) if steps else None,
            "can_skip": bool(getattr(model, "skips_time_steps", False)),
        }
        images = images_of(config.image_size, config.in_channels, data, max(sizes.batches))
        said["images"] = f"{len(images)} of {name_alone(data)}, test" if data else f"uniform noise, seed {SEED}"
        found.append(Network(label, model.to(device).eval(), images.to(device), said))
    return found


def images_of(size: int, channels: int, data: str | None, count: int) -> Tensor:
    """(count, C, H, W): the first test images, again from the first where there are too few, or noise."""
    if data is None:
        return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(SEED))
    images = load_images(data, "test", size, channels, count)
    return torch.from_numpy(images.batch(np.arange(count) % len(images.labels)))


@contextmanager
def all_steps(model: nn.Module, skips: bool = False) -> Iterator[None]:
    """The forward of all time steps, or the skipping one, of a network that has both."""
    before = getattr(model, "skips_time_steps", None)
    if before is not None:
        model.skips_time_steps = skips
    try:
        yield
    finally:
        if before is not None:
            model.skips_time_steps = before


# --- 1. what counting costs ---------------------------------------------------------------------------------------


def overhead(run: Run, network: Network, batch: int, block: int) -> dict[str, Any]:
    """Median ratios over pairs of ``block`` batches each; the clock stops behind a wait for the device."""
    rounds = run.sizes.pairs if block == 1 else max(2, run.sizes.pairs // 4)
    model, twin, images = network.model, copy.deepcopy(network.model), network.images[:batch]
    plains: list[tuple[float, float]] = []
    profiled: list[float] = []

    def plain() -> float:
        with torch._C.DisableTorchFunction():
            run.wait()
            start = time.perf_counter()
            for _ in range(block):
                twin(images)
            run.wait()
            return time.perf_counter() - start

    def batches() -> Iterator[Tensor]:
        yield images  # finding out where time is, and the first use of everything
        for _ in range(rounds + run.sizes.warm_up):
            before = plain()
            start = time.perf_counter()
            for _ in range(block):
                yield images
            run.wait()
            profiled.append(time.perf_counter() - start)
            plains.append((before, plain()))

    with torch.inference_mode(), all_steps(twin):
        plain()
        se.profile(model, batches())
    kept, beside = profiled[run.sizes.warm_up :], plains[run.sizes.warm_up :]
    means = [(a + b) / 2 for a, b in beside]
    return {
        "network": network.name,
        "batch": batch,
        "waits": "after every batch" if block == 1 else f"once for {block} batches",
        "pairs": rounds,
        "profiled_over_plain": statistics.median(p / m for p, m in zip(kept, means, strict=True)),
        "plain_over_plain": statistics.median(b / a for a, b in beside),
        "plain_ms": 1e3 * statistics.median(means) / block,
        "counting_ms": 1e3 * statistics.median(p - m for p, m in zip(kept, means, strict=True)) / block,
    }


def synchronisations(network: Network, batch: int) -> dict[str, Counter[str]]:
    """Where one batch synchronises: of the plain forward of all steps, the skipping one, and a profiled one."""
    model, twin, images = network.model, copy.deepcopy(network.model), network.images[:batch]
    found: dict[str, Counter[str]] = {}

    @contextmanager
    def noted(what: str, caught: list[warnings.WarningMessage]) -> Iterator[None]:
        seen = len(caught)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[what] = Counter(place_of(w) for w in caught[seen:] if "called a synchronizing" in str(w.message))

    def batches(caught: list[warnings.WarningMessage]) -> Iterator[Tensor]:
        for _ in range(2):
            yield images
        with noted("profiled", caught):
            yield images
        yield images

    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always")
        for what, skips in (("plain", False), *([("skipping", True)] if network.can_skip else [])):
            with all_steps(twin, skips):
                twin(images)
                with noted(what, caught):
                    twin(images)
        se.profile(model, batches(caught))
    return found


def place_of(warning: warnings.WarningMessage) -> str:
    """``snn_energy/profiler/profile.py:494``: the line of code, its path from the package on."""
    parts = Path(warning.filename).parts
    start = max((i for i, part in enumerate(parts) if part in ("snn_energy", "torch", "tests")), default=len(parts) - 1)
    return f"{'/'.join(parts[start:])}:{warning.lineno}"


def measure_overhead(run: Run, networks: Sequence[Network]) -> None:
    """Part 1, row by row."""
    for network in networks:
        for batch in run.sizes.batches:
            for block in (1, run.sizes.block):
                with run.attempt(f"overhead of {network.name}, batch {batch}, {block} batches between waits"):
                    run.table("overhead").add(overhead(run, network, batch, block))
        head: dict[str, Any] = {"network": network.name, "batch": run.sizes.batches[0]}
        with run.attempt(f"synchronisations of {network.name}"):
            if run.device.type != "cuda":
                empty = {"plain": None, "skipping": None, "profiled": None}
                run.table("synchronisations").add({**head, **empty, "note": NO_CUDA})
                continue
            found = synchronisations(network, run.sizes.batches[0])
            counts = {key: found[key].total() if key in found else None for key in ("plain", "skipping", "profiled")}
            run.table("synchronisations").add({**head, **counts, "note": None if network.can_skip else "cannot skip"})
            for what, places in found.items():
                for place, count in places.most_common():
                    run.table("synchronisation-places").add(
                        {"network": network.name, "forward": what, "where": place, "count": count}
                    )


# --- 2. joules ----------------------------------------------------------------------------------------------------


class Meter:
    """The card's energy by NVML; ``why_not`` says why there is none. No setting of the card is touched."""

    def __init__(self, device: torch.device) -> None:
        self.why_not: str | None = NO_CUDA
        self.how: str | None = None
        self.driver = "none"
        if device.type != "cuda":
            return
        try:
            import pynvml
        except ImportError:
            self.why_not = "not measured (nvidia-ml-py is not installed)"
            return
        self.nvml = pynvml
        try:
            pynvml.nvmlInit()
            driver = pynvml.nvmlSystemGetDriverVersion()
            self.driver = driver.decode() if isinstance(driver, bytes) else str(driver)
            self.handle = self._handle(device)
            pynvml.nvmlDeviceGetPowerUsage(self.handle)
        except pynvml.NVMLError as error:
            self.why_not = f"not measured (NVML: {error})"
            return
        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
            self.how = "energy counter"
        except pynvml.NVMLError:
            self.how = f"power every {SAMPLE_MS} ms"
        self.why_not = None

    def _handle(self, device: torch.device) -> Any:
        """The card that torch uses, whatever order NVML has; its place where torch does not tell."""
        index = torch.cuda.current_device() if device.index is None else device.index
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        try:
            return self.nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except self.nvml.NVMLError:
            return self.nvml.nvmlDeviceGetHandleByIndex(index)

    def joules(self, work: Callable[[], None]) -> float:
        """Energy that the card took while ``work`` ran."""
        if self.how == "energy counter":
            before = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
            work()
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) - before) / 1e3
        return sampled(lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1e3, work)


def sampled(watts: Callable[[], float], work: Callable[[], None]) -> float:
    """Joules by the trapezoid rule over readings of the power every ``SAMPLE_MS``, one at either end."""
    readings: list[tuple[float, float]] = []
    stop = threading.Event()

    def read() -> None:
        readings.append((time.perf_counter(), watts()))

    def watch() -> None:
        while not stop.wait(SAMPLE_MS / 1e3):
            read()

    read()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        stop.set()
        watcher.join()
    read()
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(readings))


def repeated(run: Run, step: Callable[[], object], seconds: float, at_once: int = 4) -> tuple[int, float]:
    """Steps done in at least so many seconds, and the seconds; the device is waited for every ``at_once`` steps."""
    run.wait()
    count, start = 0, time.perf_counter()
    while True:
        for _ in range(at_once):
            step()
        run.wait()
        count += at_once
        took = time.perf_counter() - start
        if took >= seconds:
            return count, took


def idle_watts(run: Run, meter: Meter, when: str) -> float | None:
    """Idle power, its row written; None where there is no meter."""
    seconds = max(run.sizes.seconds / 2, SAMPLE_MS / 1e3)
    watts = None
    if meter.why_not is None:
        run.wait()
        time.sleep(min(2.0, run.sizes.seconds))  # power falls for a while after work
        start = time.perf_counter()
        joules = meter.joules(lambda: time.sleep(seconds))
        watts = joules / (time.perf_counter() - start)
    run.table("idle").add({"when": when, "idle_watts": watts, "meter": meter.how, "note": meter.why_not})
    return watts


def measured(run: Run, network: Network, meter: Meter, idle: float | None, skips: bool) -> dict[str, Any]:
    """Images per second and joules per image of one forward at the largest batch."""
    batch, done = max(run.sizes.batches), [(0, 0.0)]
    images = network.images[:batch]

    def work() -> None:
        done[0] = repeated(run, lambda: network.model(images), run.sizes.seconds)

    with torch.inference_mode(), all_steps(network.model, skips):
        repeated(run, lambda: network.model(images), min(1.0, run.sizes.seconds))
        joules = None if meter.why_not is not None else meter.joules(work)
        if joules is None:
            work()
    count, seconds = done[0][0] * batch, done[0][1]
    each = None if joules is None else joules / count
    return {
        "network": network.name,
        "forward": "skipping" if skips else "all steps",
        "batch": batch,
        "images": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "mean_watts": None if joules is None else joules / seconds,
        "joules_per_image": each,
        "idle_joules_per_image": None if idle is None else idle * seconds / count,
        "joules_per_image_above_idle": None if each is None or idle is None else each - idle * seconds / count,
        "meter": meter.how,
    }


def modelled(run: Run, network: Network) -> dict[str, float]:
    """pJ per image by ``se.estimate`` on every hardware; the counts are saved beside the tables."""
    with torch.inference_mode():
        counts = se.profile(network.model, [network.images[: run.sizes.counted]])
    counts.save(run.folder / f"counts-{network.name}.json")
    return {name: se.estimate(counts, name).total_pj for name in HARDWARE}


def measure_energy(run: Run, networks: Sequence[Network], meter: Meter) -> None:
    """Part 2, row by row, and the order of the networks."""
    models: dict[str, dict[str, float]] = {}
    for network in networks:
        with run.attempt(f"counts of {network.name}"):
            models[network.name] = modelled(run, network)
    idle: float | None = None
    with run.attempt("idle power"):
        idle = idle_watts(run, meter, "before")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for network in networks:
        prices = {f"{name}_total_pj": models.get(network.name, {}).get(name) for name in HARDWARE}
        for skips in (False, True) if network.can_skip else (False,):
            with run.attempt(f"energy of {network.name}, {'skipping' if skips else 'all steps'}"):
                row = measured(run, network, meter, idle, skips)
                found[network.name, row["forward"]] = row
                run.table("energy").add({**row, **prices, "note": meter.why_not})
    with run.attempt("idle power afterwards"):
        idle_watts(run, meter, "after")
    with run.attempt("order of the networks"):
        for row in ranks([network.name for network in networks], found, models, meter.why_not):
            run.table("ranks").add(row)


def ranks(
    names: Sequence[str],
    found: dict[tuple[str, str], dict[str, Any]],
    models: dict[str, dict[str, float]],
    why_not: str | None,
) -> list[dict[str, Any]]:
    """One row a source of energies: the order, and every network's energy over the least."""
    sources: dict[str, dict[str, float | None]] = {}
    for key, words in (("joules_per_image", "all of it"), ("joules_per_image_above_idle", "above idle")):
        every = {name: found.get((name, "all steps"), {}).get(key) for name in names}
        used = {name: found.get((name, "skipping"), {}).get(key, every[name]) for name in names}
        sources[f"measured, as used, {words}"], sources[f"measured, all steps, {words}"] = used, every
    sources |= {f"estimate, {name}": {n: models.get(n, {}).get(name) for n in names} for name in HARDWARE}
    rows, reference = [], None
    for source, energies in sources.items():
        known = {name: value for name, value in energies.items() if value is not None}
        order = sorted(known, key=lambda name: known[name]) if len(known) == len(names) else None
        reference = order if reference is None and source.startswith("measured") else reference
        note = None if order else why_not if source.startswith("measured") and why_not else "not measured (see above)"
        least = min(known.values(), default=0.0)
        over = {name: known[name] / least if order and least > 0 else None for name in names}
        same = None if order is None or reference is None else "yes" if order == reference else "no"
        rows.append(
            {"source": source, "order": " < ".join(order) if order else None, **over,
             "order_as_first_line": same, "note": note or (why_not if same is None else None)}
        )  # fmt: skip
    return rows


# --- 3. training --------------------------------------------------------------------------------------------------


def training(run: Run, name: str, time_steps: int, fused: bool) -> dict[str, Any]:
    """Images per second of forward, backward and update; the first step, which compiles, apart."""
    torch.manual_seed(SEED)
    batch, device = run.sizes.train_batch, run.device
    model: Any = se.create_model(name, image_size=32, num_classes=10, time_steps=time_steps)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    if fused:
        model.fused = True
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.rand(batch, 3, 32, 32, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), generator=generator).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(images).float()
        optimiser.zero_grad()
        functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        optimiser.step()

    first = repeated(run, step, 0, 1)[1]
    repeated(run, step, min(1.0, run.sizes.seconds), 1)  # cudnn and the allocator settle
    count, seconds = repeated(run, step, run.sizes.seconds, 2)
    rate = count * batch / seconds
    return {
        "network": name,
        "time_steps": time_steps,
        "fused": "yes" if fused else "no",
        "batch": batch,
        "first_step_s": first,
        "steps": count,
        "images_per_second": rate,
        "epoch_seconds": EPOCH_IMAGES / rate,
    }


def measure_training(run: Run) -> None:
    """Part 3, row by row: the twin, T 1 and T 4, plain and fused."""
    size = run.sizes.depth_dim
    for name, steps in ((f"vit-{size}", 1), (f"spikformer-{size}", 1), (f"spikformer-{size}", 4)):
        with run.attempt(f"training of {name}, T {steps}"):
            run.table("training").add(training(run, name, steps, fused=False))
    for steps in (1, 4):
        name = f"spikformer-{size}"
        with run.attempt(f"training of {name}, T {steps}, fused"):
            why_not = None if run.device.type == "cuda" else NO_CUDA
            if not hasattr(se.create_model(name), "fused"):
                why_not = "not measured (this version has no fused operation)"
            head = {"network": name, "time_steps": steps, "fused": "yes"}
            missing = {**head, **dict.fromkeys(TRAINED), "note": why_not}
            run.table("training").add(missing if why_not else training(run, name, steps, fused=True))


# --- the command --------------------------------------------------------------------------------------------------


def header(arguments: argparse.Namespace, device: torch.device, driver: str) -> dict[str, str]:
    """Device, versions, seeds and command; no date, no path."""
    is_cuda = device.type == "cuda"
    flags = [f"-o {Path(arguments.output).name}", f"--device {arguments.device}"]
    flags += ["--quick"] if arguments.quick else []
    flags += [] if arguments.data is None else [f"--data {name_alone(arguments.data)}"]
    flags += [f"--{key} {value}" for key in ("seconds", "pairs") if (value := getattr(arguments, key)) is not None]
    flags += [f"--only {part}" for part in arguments.only or ()] + [Path(c).name for c in arguments.checkpoints]
    matmul, conv = (
        "TF32" if on else "IEEE fp32" for on in (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    )
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else f"CPU, {torch.get_num_threads()} threads",
        "driver": driver,
        "torch": str(torch.__version__),
        "snn_energy": se.__version__,
        "precision of forwards": f"fp32; products {matmul}, convolutions {conv}" if is_cuda else "fp32",
        "seeds": f"{SEED} (weights, images, T_l dealt over layers)",
        "command": f"`python tests/bench/gpu.py {' '.join(flags)}`",
        **({"rehearsal": "sizes of seconds: the code ran, the figures mean nothing"} if arguments.quick else {}),
    }


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """The sizes asked for. Raises SnnEnergyError."""
    usual = QUICK if arguments.quick else Sizes()
    seconds = usual.seconds if arguments.seconds is None else arguments.seconds
    pairs = usual.pairs if arguments.pairs is None else arguments.pairs
    if not 0 < seconds < 1e4:
        raise SnnEnergyError(f"--seconds must lie above 0 and below 10,000, not {seconds}")
    if pairs < 1:
        raise SnnEnergyError(f"--pairs must be at least 1, not {pairs}")
    return replace(usual, pairs=pairs, seconds=seconds)


def measure(arguments: argparse.Namespace) -> int:
    """All parts; the exit code. Raises SnnEnergyError for a fault of the input, before anything is measured."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SnnEnergyError("--device cuda: torch sees no CUDA device here; give --device cpu for a rehearsal")
    sizes, device = sizes_of(arguments), torch.device(arguments.device)
    networks = networks_of(arguments.checkpoints, arguments.data, sizes, device)
    meter = Meter(device)
    folder = make_folder(arguments.output)
    run = Run(folder, device, sizes, header(arguments, device, meter.driver))
    for network in networks:
        run.table("networks").add(network.said)
    run.write_page()
    parts: dict[str, Callable[[], None]] = {
        "overhead": lambda: measure_overhead(run, networks),
        "energy": lambda: measure_energy(run, networks, meter),
        "training": lambda: measure_training(run),
    }
    for name, part in parts.items():
        if arguments.only is None or name in arguments.only:
            print(f"{name} ...", file=sys.stderr)
            with run.attempt(name):
                part()
    print((folder / "table.md").read_text(encoding="utf-8"), end="")
    if run.failures:
        print(f"error: {len(run.failures)} measurements failed; the page names them", file=sys.stderr)
    return 1 if run.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure; 0 done, 1 a fault in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="Folder for the CSV files, the counts and table.md.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="A small network and seconds: a rehearsal.")
    parser.add_argument("--seconds", type=float, help="Least time of every measurement of energy and training.")
    parser.add_argument("--pairs", type=int, help="Pairs of profiled and plain forwards.")
    parser.add_argument("--data", help="Test images, NAME:PATH; noise unless given.")
    parser.add_argument("--only", choices=("overhead", "energy", "training"), action="append", help="This part alone.")
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="Untrained networks unless given.")
    try:
        return measure(parser.parse_args(argv))
    except SnnEnergyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
