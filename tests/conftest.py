"""What several test files share: hand-made counts, a device with round prices, the command line in this process."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from snn_energy.core.errors import HardwareError
from snn_energy.counts.columns import COLUMNS, PER_SAMPLE, make_rows
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile

# Every test does the work that the profiler's caches save as well, and compares.
os.environ.setdefault("SNN_ENERGY_CROSS_CHECK", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed every generator by the test's name: a test draws the same numbers in every run, alone or among others."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


DEFAULTS: dict[str, Any] = {
    "layer": "layer", "group": "other", "op": "conv", "time_step": 0, "active": True, "needed": True,
    "input_repeated": False, "input_kind": "binary", "max_k": 1, "feeds_neuron": True, "note": "",
    "other_kind": None, "other_max_k": None, "other_elements": None, "other_nonzeros": None,
}  # fmt: skip

# Round prices, all different, so that a charge on the wrong account shows; memory prices are per bit.
PRICES: dict[str, Any] = {
    "mac": 10, "ac": 3, "zero": 0.5, "per": "operation", "spiking": 7, "silent": 2, "add": 5,
    "weights": 1, "inputs": 10, "outputs": 1000, "membrane_read": 100, "membrane_write": 200, "drop": "false",
}  # fmt: skip


@pytest.fixture(scope="session")
def make_counts() -> Callable[..., Counts]:
    """Counts from rows in which only what matters is written; per_sample as {column: (rows, samples)}."""

    def make(
        rows: list[dict[str, Any]],
        samples: int = 1,
        time_steps: int = 4,
        per_sample: dict[str, Any] | None = None,
        **header: Any,
    ) -> Counts:
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for order, row in enumerate(rows):
            assert set(row) <= set(COLUMNS)
            kind = row.get("input_kind", DEFAULTS["input_kind"])
            levels = row.get("input_nonzeros", 0) if kind in ("binary", "ternary") else None
            row = {"state_variables": 1 if row.get("op") == "neuron" else None, "input_levels": levels} | row
            for name in COLUMNS:
                columns[name].append(row.get(name, order if name == "order" else DEFAULTS.get(name, 0)))
        side = None
        if per_sample is not None:
            zeros = np.zeros((len(rows), samples), dtype=np.int64)
            side = {name: np.asarray(per_sample.get(name, zeros), dtype=np.int64) for name in PER_SAMPLE}
        return Counts(
            {"model": "hand", "samples": samples, "time_steps": time_steps, **header}, make_rows(columns), side
        )

    return make


@pytest.fixture(scope="session")
def device_text() -> Callable[..., str]:
    """The YAML of a device with the prices of ``PRICES``, some of them changed; None takes a price out."""

    def text(**changes: Any) -> str:
        assert set(changes) <= set(PRICES)
        p = {**PRICES, **changes}

        def line(key: str, value: Any, width: str = "", more: str = "") -> str:
            if value is None:
                return ""
            return f"{key}: {{value: {value}, unit: pJ, {width}{more}source: test, kind: assumed}}\n"

        wide = "width_bits: 1, "
        levels = ""
        for name in ("weights", "inputs", "outputs", "membrane"):
            read, write = p.get(name, p.get(f"{name}_read")), p.get(f"{name}_write", p.get(name))
            levels += f"    of_{name}:\n      {line('read', read, wide)}      {line('write', write, wide)}"
        widths = {"weights": 8, "activations": 6, "membrane": 16, "partial_sums": 32}
        return (
            "schema: 1\nname: test\ndescription: round numbers\ntechnology: none\n"
            "sources:\n  test: {citation: made up}\n"
            "widths:\n"
            + "".join(f"  {k}: {{value: {v}, unit: bit, source: test, kind: assumed}}\n" for k, v in widths.items())
            + "compute:\n"
            + f"  {line('mac', p['mac'], wide)}  {line('ac', p['ac'], wide)}"
            + ("" if p["zero"] is None else "  " + line("zero_check", p["zero"], more=f"per: {p['per']}, "))
            + ("" if p["spiking"] is None else "  " + line("neuron_spiking", p["spiking"]))
            + ("" if p["silent"] is None else "  " + line("neuron_silent", p["silent"]))
            + ("" if p["add"] is None else f"  elementwise:\n    {line('add', p['add'])}")
            + f"memory:\n  levels:\n{levels}"
            + "  placement: {weights: of_weights, inputs: of_inputs, membrane: of_membrane, outputs: of_outputs, "
            + f"partial_sums: of_weights}}\n  drop_first_last: {p['drop']}\n"
        )

    return text


@pytest.fixture
def device(tmp_path: Path, device_text: Callable[..., str]) -> Callable[..., HardwareProfile]:
    """The device of ``device_text``, loaded."""

    def load(**changes: Any) -> HardwareProfile:
        path = tmp_path / "device.yaml"
        path.write_text(device_text(**changes), encoding="utf-8")
        return load_hardware(path)

    return load


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""
    from snn_energy.cli.main import main

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["snn-energy", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """The fault of a profile, without its place: checked to be one line, at a line that names the key; exit code 1."""

    def fault(device: Any, key: str, value: Any = None, *, at: str | None = None) -> str:
        document: Any = device.document()
        *above, last = key.split(".")
        entry = document
        for part in above:
            entry = entry.setdefault(part, {})
        if value is None:
            del entry[last]
        else:
            entry[last] = value
        path = tmp_path / "device.yaml"
        with path.open("w", encoding="utf-8") as stream:
            YAML().dump(document, stream)
        with pytest.raises(HardwareError) as caught:
            load_hardware(path)
        message = str(caught.value)
        where = re.match(rf"{re.escape(str(path))}:(\d+): (.*)", message)
        assert where is not None, message
        line = path.read_text(encoding="utf-8").splitlines()[int(where[1]) - 1]
        assert line.strip().startswith(f"{at or last}:"), (line, message)
        code, _, err = cli("hardware", "validate", path)
        assert code == 1
        assert err == f"error: {message}\n"
        return where[2]

    return fault


@pytest.fixture(scope="session")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the counts of the three shipped networks over eight digits: vit.json, spik.json, dts.json."""
    import torch

    from snn_energy.jobs.profile_run import profile_checkpoint
    from snn_energy.studies.demo import NETWORKS, checkpoint_path

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("counted")
    for network, stem in zip(NETWORKS, ("vit", "spik", "dts"), strict=True):
        profile_checkpoint(checkpoint_path(network), "digits", 8).save(folder / f"{stem}.json")
    return folder


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every command that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_bars(tmp_path: Path) -> Callable[[int], str]:
    """Data for a recipe: 48 noisy bars of 8x8 in three classes, the first so many to train on, the others to test."""

    def make(train_images: int) -> str:
        rng = np.random.default_rng(0)
        labels = np.arange(48) % 3
        images = rng.random((48, 8, 8), np.float32) * 0.3
        for image, label in zip(images, labels, strict=True):
            image[label * 3 : label * 3 + 2] += 1
        np.savez(tmp_path / "bars.npz", images=images, labels=labels, is_test=np.arange(48) >= train_images)
        return f"npz:{tmp_path / 'bars.npz'}"

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch and the same random numbers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
