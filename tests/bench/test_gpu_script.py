"""tests/bench/gpu.py, rehearsed without a GPU: no figure where nothing was measured, modelled energies, bad input."""

from __future__ import annotations

import shutil
import sys
import time
import types
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import gpu
import pandas as pd
import pytest
import torch
from torch import nn

import snn_energy as se

pytestmark = pytest.mark.usefixtures("one_thread")
CHECKPOINTS = resources.files("snn_energy").joinpath("demo_checkpoints")
SHIPPED = [str(CHECKPOINTS.joinpath(f"{name}-2-64-digits.safetensors")) for name in gpu.FAMILIES]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without checkpoints."""
    folder = tmp_path_factory.mktemp("made") / "gpu"
    assert gpu.main(["-o", str(folder), "--device", "cpu", "--quick"]) == 0
    return folder


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def test_every_part_leaves_its_file(rehearsed: Path) -> None:
    names = {path.name for path in rehearsed.iterdir() if path.suffix in (".csv", ".md")}
    parts = ("networks", "overhead", "synchronisations", "idle", "energy", "ranks", "training")
    assert names == {"table.md", *(f"{part}.csv" for part in parts)}
    assert list(read(rehearsed, "networks")["network"]) == ["vit-2-64", "spikformer-2-64", "dts-spikformer-2-64"]
    assert len(read(rehearsed, "overhead")) == 6  # three networks, two ways to wait
    assert list(read(rehearsed, "energy")["forward"]) == ["all steps", "all steps", "all steps", "skipping"]
    assert list(read(rehearsed, "training")["fused"]) == ["no", "no", "no", "yes", "yes"]


def test_no_number_where_nothing_was_measured(rehearsed: Path) -> None:
    needs_a_gpu = {
        "synchronisations": ["plain", "skipping", "profiled"],
        "idle": ["idle_watts", "meter"],
        "energy": ["mean_watts", "joules_per_image", "idle_joules_per_image", "joules_per_image_above_idle", "meter"],
    }
    for name, columns in needs_a_gpu.items():
        frame = read(rehearsed, name)
        assert frame[columns].isna().all(axis=None), name
        assert (frame["note"] == gpu.NO_CUDA).all()
    ranks = read(rehearsed, "ranks").set_index("source")
    measured = ranks[ranks.index.str.startswith("measured")]
    assert len(measured) == 4
    assert measured.drop(columns="note").isna().all(axis=None)
    fused = read(rehearsed, "training").query("fused == 'yes'")
    assert fused[["images_per_second", "epoch_seconds", "steps"]].isna().all(axis=None)
    for line in (rehearsed / "table.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| measured"):
            assert [cell.strip() for cell in line.split("|")[2:-1]] == [gpu.NO_CUDA] * 5


def test_modelled_energies_are_those_of_the_counts_beside_them(rehearsed: Path) -> None:
    energy, ranks = read(rehearsed, "energy"), read(rehearsed, "ranks").set_index("source")
    for hardware in gpu.HARDWARE:
        totals = {}
        for name in read(rehearsed, "networks")["network"]:
            counts = se.load_counts(rehearsed / f"counts-{name}.json")
            assert counts.samples == gpu.QUICK.counted
            totals[name] = se.estimate(counts, hardware).total_pj
            found = energy.loc[energy["network"] == name, f"{hardware}_total_pj"]
            assert len(found) > 0
            assert (found == totals[name]).all()
        row = ranks.loc[f"estimate, {hardware}"]
        assert row["order"] == " < ".join(sorted(totals, key=lambda name: totals[name]))
        for name, total in totals.items():
            assert row[name] == pytest.approx(total / min(totals.values()), rel=1e-12)


def test_the_page_names_device_and_seed_and_no_path_or_date(rehearsed: Path) -> None:
    page = (rehearsed / "table.md").read_text(encoding="utf-8")
    assert "- device: CPU, 1 threads\n" in page
    assert f"- torch: {torch.__version__}\n" in page
    assert "- seeds: 0 (" in page
    assert "- command: `python tests/bench/gpu.py -o gpu --device cpu --quick`\n" in page
    assert "\n- rehearsal: " in page
    assert str(rehearsed.parent) not in page
    assert time.strftime("%Y-%m") not in page
    steps = read(rehearsed, "networks").set_index("network").loc["dts-spikformer-2-64", "t_l"]
    assert steps in page
    assert set(steps.split()) == {"1", "2", "3", "4"}


def test_checkpoints_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["-o", str(tmp_path / "out"), "--device", "cpu", "--quick"]
    assert gpu.main([*where, "--only", "energy", "--data", "digits", *SHIPPED]) == 0
    networks = read(tmp_path / "out", "networks")
    assert list(networks["weights"]) == ["of the checkpoint"] * 3
    assert list(networks["images"]) == ["4 of digits, test"] * 3
    assert not (tmp_path / "out" / "training.csv").exists()
    counts = se.load_counts(tmp_path / "out" / "counts-vit-2-64-digits.json")
    assert counts.header["checkpoint"] == "vit-2-64-digits.safetensors"
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "--only energy vit-2-64-digits.safetensors spikformer-2-64-digits.safetensors" in shown
    assert str(CHECKPOINTS) not in shown


def test_a_part_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory, says /usr/lib/somewhere/driver.so")

    monkeypatch.setattr(gpu, "measured", fails)
    monkeypatch.setattr(gpu, "training", fails)
    assert gpu.main(["-o", str(tmp_path), "--device", "cpu", "--quick", "--only", "energy", "--only", "training"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "error: 7 measurements failed; the page names them"
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    failed = "- energy of vit-2-64, all steps: RuntimeError: out of memory, says driver.so\n"
    assert failed in page
    assert "- training of spikformer-2-64, T 4: RuntimeError" in page
    assert len(read(tmp_path, "training")) == 2  # of the fused ones it is known that they need a GPU
    ranks = read(tmp_path, "ranks").set_index("source")
    assert ranks.loc["estimate, npu-7nm-bf16", "order"].count(" < ") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "--device cuda: torch sees no CUDA device here"),
        (["--device", "cpu", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--device", "cpu", "--seconds", "0"], "--seconds must lie above 0"),
        (["--device", "cpu", "--seconds", "nan"], "--seconds must lie above 0"),
        (["--device", "cpu", "--pairs", "0"], "--pairs must be at least 1"),
        (["--device", "cpu", SHIPPED[0], SHIPPED[0]], "vit-2-64-digits: two checkpoints of this name"),
        (["--device", "cpu", "--data", "npz:nowhere.npz", SHIPPED[0]], "nowhere.npz: "),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["-o", str(tmp_path / "out"), "--quick", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert gpu.main(["-o", str(tmp_path / "file" / "out"), "--device", "cpu", "--quick"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- what only runs on a GPU, against stand-ins -------------------------------------------------------------------


class NVMLError(Exception):
    """Of the stand-in."""


def nvml(**changes: Any) -> types.ModuleType:
    """A card that takes 100 W, by its counter or by its power."""
    module = types.ModuleType("pynvml")
    functions = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetPowerUsage": lambda handle: 100_000,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: int(time.perf_counter() * 100_000),
    }
    for name, function in (functions | changes).items():
        setattr(module, name, function)
    return module


def refuses(*_: Any) -> Any:
    raise NVMLError("Not Supported")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Meter on a stand-in for NVML."""

    def make(**changes: Any) -> gpu.Meter:
        monkeypatch.setitem(sys.modules, "pynvml", nvml(**changes))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(uuid="a-b"))
        return gpu.Meter(torch.device("cuda"))

    return make


@pytest.mark.parametrize("counter", [True, False])
def test_joules_by_counter_or_by_power(card: Any, counter: bool) -> None:
    meter = card() if counter else card(nvmlDeviceGetTotalEnergyConsumption=refuses)
    assert (meter.why_not, meter.driver, meter.handle) == (None, "580.1", "GPU-a-b")
    assert meter.how == ("energy counter" if counter else "power every 20 ms")
    start = time.perf_counter()
    joules = meter.joules(lambda: time.sleep(0.2))
    assert 100 * 0.199 < joules < 101 * (time.perf_counter() - start)


def test_a_card_that_gives_no_power_is_not_measured(card: Any) -> None:
    meter = card(nvmlDeviceGetPowerUsage=refuses)
    assert meter.why_not == "not measured (NVML: Not Supported)"
    assert card(nvmlDeviceGetHandleByUUID=refuses).handle == 0


def test_the_integral_of_a_power_that_rises() -> None:
    start = time.perf_counter()
    joules = gpu.sampled(lambda: 1000 * (time.perf_counter() - start), lambda: time.sleep(0.2))
    assert 1000 * 0.199**2 / 2 < joules < 1050 * (time.perf_counter() - start) ** 2 / 2


def network(name: str) -> gpu.Network:
    model = gpu.untrained(name)
    return gpu.Network(name, model, torch.rand(2, 3, 32, 32), {"can_skip": bool(getattr(model, "skips_time_steps", 0))})


def test_energy_above_idle(card: Any, tmp_path: Path) -> None:
    run = gpu.Run(tmp_path, CPU, gpu.QUICK, {})
    gpu.measure_energy(run, [network("dts-spikformer-1-16")], card())
    assert run.failures == []
    for _, row in read(tmp_path, "energy").iterrows():
        assert row["mean_watts"] == pytest.approx(100, rel=0.3)  # on a busy machine
        assert row["joules_per_image"] == pytest.approx(row["mean_watts"] * row["seconds"] / row["images"])
        above = row["joules_per_image"] - row["idle_joules_per_image"]
        assert row["joules_per_image_above_idle"] == pytest.approx(above, abs=1e-12)
        assert row["idle_joules_per_image"] == pytest.approx(100 * row["seconds"] / row["images"], rel=0.3)
    assert list(read(tmp_path, "idle")["when"]) == ["before", "after"]
    assert pd.isna(read(tmp_path, "energy")["note"]).all()


def test_the_order_of_the_networks() -> None:
    def row(joules: float, above: float) -> dict[str, float]:
        return {"joules_per_image": joules, "joules_per_image_above_idle": above}

    found = {("a", "all steps"): row(3, 2), ("b", "all steps"): row(4, 3), ("b", "skipping"): row(2, 1)}
    models = {name: dict.fromkeys(gpu.HARDWARE, total) for name, total in (("a", 10.0), ("b", 40.0))}
    rows = {r["source"]: r for r in gpu.ranks(["a", "b"], found, models, None)}
    assert rows["measured, as used, all of it"]["order"] == "b < a"
    assert rows["measured, as used, all of it"]["a"] == 1.5
    assert rows["measured, all steps, all of it"]["order"] == "a < b"
    assert rows["measured, all steps, above idle"]["order_as_first_line"] == "no"
    assert rows["estimate, npu-7nm-bf16"]["b"] == 4
    del found["a", "all steps"], models["b"]
    assert all(r["order"] is None and r["a"] is None for r in gpu.ranks(["a", "b"], found, models, None))


def test_synchronisations_are_counted_where_they_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = ["default"]
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda new: mode.__setitem__(0, new))

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                if mode[0] == "warn":
                    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return self.layer(x)

    model = Waits()
    model.time_steps = 1
    found = gpu.synchronisations(gpu.Network("waits", model, torch.rand(2, 4), {"can_skip": False}), 2)
    assert {what: places.total() for what, places in found.items()} == {"plain": 3, "profiled": 3}
    assert all(place.startswith("tests/bench/test_gpu_script.py:") for place in found["plain"])
    assert mode == ["default"]


def test_paths_are_shortened() -> None:
    assert gpu.without_paths("in /a/b-1/c.py, line 3: ../x/y.json") == "in c.py, line 3: y.json"
    assert gpu.name_alone("packed-jpeg:/a/b.npz") == "packed-jpeg:b.npz"
    assert gpu.name_alone("digits") == "digits"


def test_a_row_is_in_the_file_as_soon_as_it_is_there(tmp_path: Path) -> None:
    table = gpu.Table(tmp_path / "rows.csv")
    table.add({"a": 1})
    copied = shutil.copy(tmp_path / "rows.csv", tmp_path / "first.csv")
    table.add({"a": None, "b": 0.1, "note": "none"})
    assert Path(copied).read_text() == "a\n1\n"
    assert (tmp_path / "rows.csv").read_text() == "a,b,note\n1,,\n,0.1,none\n"
    assert table.page() == "| a | b |\n| --- | ---: |\n| 1 | – |\n| none | 0.1000 |\n"
