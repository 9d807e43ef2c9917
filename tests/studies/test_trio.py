"""One command, a budget of seconds, networks for one comparison: planned, killed, resumed, refused."""

from __future__ import annotations

import itertools
import json
import logging
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest

from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata
from snn_energy.core.errors import DataError, OutputError, RecipeError
from snn_energy.datasets.open import load_images
from snn_energy.models.spikformer import spiking_layers
from snn_energy.studies import trio as module
from snn_energy.studies.trio import list_trios, load_trio, train_trio
from snn_energy.training.evaluation import accuracy
from snn_energy.training.train import StepTimes

BASE = """\
name: bars
model: {name: spikformer-1-16, image_size: 8, in_channels: 1, num_classes: 3, time_steps: 1, heads: 2}
epochs: 5
batch_size: 8
shift_pixels: 1
optimiser: {learning_rate: 0.01, warmup_epochs: 1}
test_every: 2
"""
TRIO = """\
name: bars
base: {base}
stages:
  - {{name: t1, share: 0.4, result: false}}
  - {{name: spikformer, share: 0.2, start_from: t1, changes: {{model.time_steps: 2}}}}
  - name: dts
    share: 0.3
    start_from: t1
    changes: {{model.name: dts-spikformer-1-16, model.time_steps: 2, mask_loss: {{weight: 0.01}}}}
  - {{name: vit, share: 0.1, changes: {{model.name: vit-1-16}}}}
"""
RESULTS = ("spikformer-1-16", "dts-spikformer-1-16", "vit-1-16")


@pytest.fixture
def data(make_bars: Callable[[int], str]) -> str:
    """Three classes of noisy bars, 8x8, 35 images to train on and 13 to test on."""
    return make_bars(35)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """The YAML file of a trio on those bars."""
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "bars.yaml").write_text(TRIO.format(base=tmp_path / "base.yaml"))
    return tmp_path / "bars.yaml"


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every step takes 1 s, every look at accuracy 0.5 s, an epoch 5 steps."""
    monkeypatch.setattr(module, "measure_steps", lambda *_, **__: StepTimes(1.0, 0.5, 5))


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "trio.json").read_text())
    return found


@pytest.mark.parametrize("name", list_trios())
def test_a_bundled_trio_is_three_networks_of_one_shape_and_the_start_of_two_of_them(name: str) -> None:
    trio, recipes = load_trio(name)
    assert trio.name == name
    assert list(recipes) == ["t1", "spikformer", "dts", "vit"]
    assert [stage.start_from for stage in trio.stages] == [None, "t1", "t1", None]
    assert [stage.result for stage in trio.stages] == [False, True, True, True]
    assert sum(stage.share for stage in trio.stages) == pytest.approx(1)
    shapes = {recipe.model.name.removeprefix("dts-").split("-", 1)[1] for recipe in recipes.values()}
    assert len(shapes) == 1
    assert [recipes[key].model.time_steps for key in ("t1", "spikformer", "dts")] == [1, 4, 4]
    assert recipes["dts"].mask_loss is not None
    assert recipes["dts"].model.initial_steps == 2


@pytest.mark.usefixtures("steady")
def test_the_seconds_are_shared_out_by_share_and_speed(tmp_path: Path, bars: Path, data: str) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=101)
    stages = state_of(tmp_path / "out")["stages"]
    # t1: 40.4 s less one look of 0.5 s are 39 steps, 7 epochs with 3 looks among them: 38 steps
    assert stages["t1"]["steps"] == 38
    assert stages["t1"]["epochs"] == pytest.approx(38 / 5)
    log = (tmp_path / "out" / "stages" / "t1.log.csv").read_text().splitlines()
    assert len(log) == 1 + 8  # seven whole epochs and a part of one
    spent = stages["t1"]["spent_s"] + sum(entry["measuring_s"] for entry in stages.values())
    left = 101 - spent  # later stages have what the first did not need
    assert stages["spikformer"]["planned_s"] == pytest.approx(left * 0.2 / 0.6 - 1.5, abs=1)


@pytest.mark.usefixtures("steady")
def test_a_trio_ends_with_16_bit_checkpoints_whose_accuracies_are_those_it_says(
    tmp_path: Path, bars: Path, data: str
) -> None:
    result = train_trio(bars, tmp_path / "out", data=data, seconds=60)
    images = load_images(data, "test", 8, 1)
    stages = state_of(tmp_path / "out")["stages"]
    assert [stages[name]["model"] for name in ("spikformer", "dts", "vit")] == list(RESULTS)
    for name in ("spikformer", "dts", "vit"):
        entry = stages[name]
        path = result.folder / entry["checkpoint"]
        assert path.stat().st_size == entry["bytes"]
        assert accuracy(load_checkpoint(path), images) == entry["accuracy_16_bit"]
        assert accuracy(load_checkpoint(result.folder / "stages" / f"{name}.safetensors"), images) == entry["accuracy"]
        assert read_metadata(path)["weights"] == "16-bit floats"
    dts = load_checkpoint(result.folder / "dts-spikformer-1-16.safetensors")
    assert {name: layer.active_steps() for name, layer in spiking_layers(dts).items()} == stages["dts"]["active_steps"]  # type: ignore[attr-defined]
    assert (
        read_metadata(result.folder / "spikformer-1-16.safetensors")["started_from"]["checkpoint"] == "t1.safetensors"
    )
    assert not list(result.folder.rglob("*.partial"))


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("kills", [1, 3])
def test_a_trio_stopped_anywhere_and_started_again_ends_with_the_same_bits(
    tmp_path: Path, bars: Path, data: str, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    # what was spent is wall time, which no two runs share: a later stage's plan is the same only without it
    monkeypatch.setattr(module._TrioRun, "_spent", lambda self: 0.0)
    whole = train_trio(bars, tmp_path / "whole", data=data, seconds=30)
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    write, calls = module._TrioRun._write_state, itertools.count(1)
    stops = set(random.Random(kills).sample(range(1, 15), kills))

    def stop_sometimes(self: Any) -> None:
        if next(calls) in stops:
            raise KeyboardInterrupt  # before the note, the hardest place
        write(self)

    monkeypatch.setattr(module._TrioRun, "_write_state", stop_sometimes)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            train_trio(bars, tmp_path / "cut", data=data, seconds=30)
    cut = train_trio(bars, tmp_path / "cut", data=data, seconds=30)
    for name in RESULTS:
        file = f"{name}.safetensors"
        assert (whole.folder / file).read_bytes() == (cut.folder / file).read_bytes(), name


def test_a_trio_killed_by_the_kernel_goes_on_with_the_same_command(tmp_path: Path, bars: Path, data: str) -> None:
    out = tmp_path / "out"
    command = ("trio", bars, "--data", data, "--seconds", "6", "-o", out, "--device", "cpu")
    process = forked.start(*command)
    limit = time.monotonic() + 60
    while not (out / "stages" / "t1.safetensors.partial").exists():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    planned = state_of(out)["stages"]["t1"]["epochs"]
    done = forked.run(*command)
    assert done.returncode == 0, done.stderr
    assert state_of(out)["stages"]["t1"]["epochs"] == planned  # the plan of a stage that has begun stays
    assert all((out / f"{name}.safetensors").exists() for name in RESULTS)


@pytest.mark.usefixtures("steady")
def test_a_finished_trio_does_nothing_more(tmp_path: Path, bars: Path, data: str) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}


# --- refusals ---


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_budget_that_is_no_positive_number_is_refused(tmp_path: Path, bars: Path, data: str, seconds: float) -> None:
    with pytest.raises(RecipeError, match="--seconds must lie above 0"):
        train_trio(bars, tmp_path / "out", data=data, seconds=seconds)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("steady")
def test_a_budget_too_short_for_one_step_of_each_says_how_long_it_must_be(
    tmp_path: Path, bars: Path, data: str
) -> None:
    # four steps of 1 s; one look for the start, three for each result: 10 looks of 0.5 s
    with pytest.raises(
        RecipeError, match=r"bars: --seconds 8 is too short for one step of each of its 4 stages .*\(9 s"
    ):
        train_trio(bars, tmp_path / "out", data=data, seconds=8)
    train_trio(bars, tmp_path / "out", data=data, seconds=10)  # nothing half-written is in the way


@pytest.mark.usefixtures("steady")
def test_a_folder_of_another_trio_or_seed_is_refused(tmp_path: Path, bars: Path, data: str) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    with pytest.raises(RecipeError, match=r"trio.json: belongs to a run of 'bars' with other recipes or another seed"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16, seed=1)
    (tmp_path / "base.yaml").write_text(BASE.replace("0.01", "0.02"))
    with pytest.raises(RecipeError, match=r"trio.json: belongs to a run of 'bars' with other recipes"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)


STATE = '{"trio": "bars", "fingerprint": "x", "data_sha256": "y", "stages": {"t1": %s}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"trio": "bars", "fingerprint": "x", "stages": 3}',
        STATE % "3",
        STATE % "{}",
        STATE % '{"spent_s": 1.0, "measuring_s": "2"}',
        STATE % '{"spent_s": 1.0, "measuring_s": 2.0, "epochs": -1}',
        STATE % '{"spent_s": NaN, "measuring_s": 2.0}',
        STATE % '{"spent_s": 1.0, "measuring_s": 2.0, "epochs": null}',
        STATE % '{"spent_s": 1.0, "measuring_s": 2.0, "epochs": 1.0, "accuracy": 0.5}',
        '{"trio": "bars", "fingerprint": "x", "data_sha256": "y", "stages": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_state_file_is_refused(tmp_path: Path, bars: Path, data: str, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trio.json").write_text(text)
    with pytest.raises(RecipeError, match=r"trio.json: (not what a trio's run writes|stages.t1: )") as caught:
        train_trio(bars, tmp_path / "out", data=data, seconds=16)
    assert "pydantic" not in str(caught.value)


@pytest.mark.usefixtures("steady")
def test_a_checkpoint_of_another_stage_is_not_taken_for_one_that_is_missing(
    tmp_path: Path, bars: Path, data: str
) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    state = state_of(tmp_path / "out")
    del state["stages"]["vit"]["accuracy"], state["stages"]["vit"]["accuracy_16_bit"]
    (tmp_path / "out" / "trio.json").write_text(json.dumps(state))
    stages = tmp_path / "out" / "stages"
    (stages / "vit.safetensors").write_bytes((stages / "t1.safetensors").read_bytes())
    with pytest.raises(RecipeError, match=r"vit.safetensors: is of another recipe than stage 'vit' as planned"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)


@pytest.mark.usefixtures("steady")
def test_a_result_that_is_gone_or_changed_is_written_again(tmp_path: Path, bars: Path, data: str) -> None:
    result = train_trio(bars, tmp_path / "out", data=data, seconds=16)
    before = {name: (result.folder / f"{name}.safetensors").read_bytes() for name in RESULTS}
    (result.folder / "vit-1-16.safetensors").unlink()
    (result.folder / "spikformer-1-16.safetensors").write_bytes(before["vit-1-16"])
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    assert {name: (result.folder / f"{name}.safetensors").read_bytes() for name in RESULTS} == before


@pytest.mark.usefixtures("steady")
def test_a_budget_that_is_used_up_before_a_later_stage_is_said(
    tmp_path: Path, bars: Path, data: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        module._TrioRun, "_spent", lambda self: 39.0 * ("accuracy" in self.state["stages"].get("t1", {}))
    )
    with caplog.at_level(logging.WARNING, "snn_energy"):
        train_trio(bars, tmp_path / "out", data=data, seconds=40)
    assert "--seconds 40 are spent (39 s) before stage 'spikformer', which gets one step" in caplog.text
    assert state_of(tmp_path / "out")["stages"]["spikformer"]["steps"] == 1


@pytest.mark.usefixtures("steady")
def test_what_a_killed_call_left_half_written_is_removed(tmp_path: Path, bars: Path, data: str) -> None:
    (tmp_path / "out" / "stages").mkdir(parents=True)
    left = tmp_path / "out" / "stages" / ".t1.safetensors.partial.x1.partial"
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    left.write_text("half")
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    assert not left.exists()


@pytest.mark.usefixtures("steady")
def test_data_that_were_moved_or_renamed_are_the_same_data(tmp_path: Path, bars: Path, data: str) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    (tmp_path / "bars.npz").rename(tmp_path / "moved.npz")
    train_trio(bars, tmp_path / "out", data=f"npz:{tmp_path / 'moved.npz'}", seconds=16)


def test_checkpoints_of_nobody_knows_what_are_not_overwritten(tmp_path: Path, bars: Path, data: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vit-1-16.safetensors").write_text("mine")
    with pytest.raises(OutputError, match=r"vit-1-16.safetensors: exists, but no trio.json"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)
    assert (tmp_path / "out" / "vit-1-16.safetensors").read_text() == "mine"


@pytest.mark.usefixtures("steady")
def test_data_that_are_gone_are_named_when_a_run_goes_on(
    tmp_path: Path, bars: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "to_float16", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)
    (tmp_path / "bars.npz").rename(tmp_path / "elsewhere.npz")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"bars.npz: no such file"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)


@pytest.mark.usefixtures("steady")
def test_other_data_under_the_same_name_are_not_mixed_into_a_run(tmp_path: Path, bars: Path, data: str) -> None:
    train_trio(bars, tmp_path / "out", data=data, seconds=16)
    state = state_of(tmp_path / "out")
    for key in ("accuracy", "accuracy_16_bit"):
        del state["stages"]["vit"][key]
    (tmp_path / "out" / "trio.json").write_text(json.dumps(state))
    (tmp_path / "out" / "stages" / "vit.safetensors").unlink()
    with np.load(tmp_path / "bars.npz") as arrays:
        changed = {key: arrays[key] for key in arrays}
    changed["images"] = changed["images"] + 0.5
    np.savez(tmp_path / "bars.npz", **changed)
    with pytest.raises(RecipeError, match="other images or labels than those of its earlier stages"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path, bars: Path, data: str) -> None:
    (tmp_path / "out").mkdir()
    with module.exclusive_lock(tmp_path / "out"), pytest.raises(OutputError, match="another run is"):
        train_trio(bars, tmp_path / "out", data=data, seconds=16)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("start_from: t1", "start_from: t9", "start_from 't9' is not an earlier stage"),
        ("name: dts\n", "name: t1\n", "stage 't1': appears twice"),
        ("share: 0.3", "share: 0", "share"),
        ("mask_loss: {{weight: 0.01}}", "mask_los: 1", "unknown key 'mask_los'; did you mean 'mask_loss'"),
        ("result: false", "result: true", "two results are of one model"),
        ("name: dts\n", "name: T1\n", "stage 'T1': appears twice"),
        ("name: dts\n", "name: t1.best\n", "name: string should match pattern"),
        ("model.name: vit-1-16", "epochs: 3", "changes: 'epochs' is set by the trio or its command; leave it out"),
    ],
)
def test_a_trio_that_cannot_be_followed_says_why(
    tmp_path: Path, bars: Path, old: str, new: str, complaint: str
) -> None:
    assert old in TRIO
    bars.write_text(TRIO.replace(old, new).format(base=tmp_path / "base.yaml"))
    with pytest.raises(RecipeError, match=complaint):
        load_trio(bars)


def test_a_trio_without_data_asks_for_them(tmp_path: Path, bars: Path) -> None:
    with pytest.raises(RecipeError, match=r"bars: specifies no data; give --data NAME:PATH"):
        train_trio(bars, tmp_path / "out", data=None, seconds=16)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["trio", "digits", "--seconds", "0", "-o", "OUT"],
            1,
            "--seconds must lie above 0 and be at most 1e+09, not 0",
        ),
        (
            ["trio", "digits", "--seconds", "nan", "-o", "OUT"],
            1,
            "--seconds must lie above 0 and be at most 1e+09, not nan",
        ),
        (
            ["trio", "digit", "--seconds", "9", "-o", "OUT"],
            1,
            "neither a file nor a bundled trio; did you mean 'digits'",
        ),
        (["trio", "digits", "-o", "OUT"], 2, "--seconds"),
        (
            ["trio", "BARS", "--data", "DATA", "--seconds", "0.01", "-o", "OUT", "--device", "cpu"],
            1,
            "is too short for one step of each",
        ),
    ],
)
def test_bad_calls_of_the_command_are_one_line(
    tmp_path: Path,
    bars: Path,
    data: str,
    cli: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    places = {"OUT": str(tmp_path / "out"), "BARS": str(bars), "DATA": data}
    given = [places.get(word, word) for word in arguments]
    status, out, error = cli(*given)
    assert status == code
    assert out == ""
    assert text in " ".join(error.split())
    assert "Traceback" not in error
    assert code == 2 or len(error.splitlines()) == 1


def test_the_trios_are_listed(cli: Callable[..., tuple[int, str, str]]) -> None:
    assert cli("trio", "--list") == (0, "".join(f"{name}\n" for name in list_trios()), "")
