"""Many samples: however they are dealt out to batches, parts, processes and runs, the counts are those of one pass."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest
import torch
from own_networks import Does, randomise_norms, set_active_steps
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import CountsError, OutputError, ProfilingError
from snn_energy.counts import sample_store
from snn_energy.counts.columns import PER_SAMPLE
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.counts.sample_store import samples_path
from snn_energy.datasets.images import ImageSet
from snn_energy.jobs import profile_run
from snn_energy.jobs.profile_run import INSPECTED_SAMPLES, profile_checkpoint
from snn_energy.models.neurons import DTSS
from snn_energy.profiler.results import accumulate
from snn_energy.profiler.results.part_files import parts_path, remove_parts
from snn_energy.profiler.results.resume import Parts, covered, missing, share
from snn_energy.studies.demo import checkpoint_path

Cli = Callable[..., tuple[int, str, str]]
DTS, SPIK = checkpoint_path("dts-spikformer-2-64"), checkpoint_path("spikformer-2-64")
SAMPLES, BATCH = 40, 4
COMMAND = ["profile", str(DTS), "--data", "digits", "-o", "counts.json", "--samples", str(SAMPLES), "--batch-size"]
COMMAND = [*COMMAND, str(BATCH), "--device", "cpu"]


def assert_same(a: Counts, b: Counts) -> None:
    pd.testing.assert_frame_equal(a.rows, b.rows)
    assert {**a.header, "file": ""} == {**b.header, "file": ""}
    assert a.per_sample is not None
    assert b.per_sample is not None
    for name in PER_SAMPLE:
        np.testing.assert_array_equal(a.per_sample[name], b.per_sample[name], err_msg=name)


# --- parts of tiny networks, with values that differ from part to part ---


def reader() -> nn.Module:
    """``second`` reads the very values of the samples, which no longer are the loader's own."""
    return Does(lambda self, x: self.second(self.first(x)), first=same(), second=nn.Linear(4, 3))


def same() -> nn.Linear:
    """A layer that gives what it reads."""
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = torch.eye(4)
    return layer


def product() -> nn.Module:
    """The left operand holds the samples' values, the right one ones where they are positive."""
    return Does(lambda self, x: self.layer(x.unsqueeze(2)) @ x.gt(0).float().unsqueeze(1), layer=nn.Identity())


def masked() -> nn.Module:
    torch.manual_seed(3)
    model = se.create_model("dts-spikformer-1-16", image_size=8, in_channels=1, num_classes=3, heads=2, patch_size=2)
    randomise_norms(model)
    for index, layer in enumerate(m for m in model.modules() if isinstance(m, DTSS)):
        set_active_steps(layer, index % (layer.max_steps + 1))
    return model


def unmasked() -> nn.Module:
    """The second step is masked, but a product works there in the samples that hold both a 1 and a 4."""
    lif = DTSS(2)
    set_active_steps(lif, 1)

    def forward(self: Any, x: Tensor) -> Tensor:
        ones = self.lif(x.repeat(2, 1, 1)).clamp(min=1) * x.eq(1).float()
        fours = x.eq(4).float().repeat(2, 1, 1)
        out: Tensor = self.layer(ones.unsqueeze(3) @ fours.unsqueeze(2))
        return out

    return Does(forward, 2, lif=lif, layer=nn.Identity())


SETS = [
    [0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0], [0.0, 0.5], [0.0, 9.0],
    [0.0, 0.1234, 0.77], [-2.0, 0.0, 4.0],
]  # fmt: skip


def samples_of(rng: random.Random, few: int) -> Tensor:
    """Samples whose values come from one of a few sets each: binary, ternary, integer, real, of several units."""
    sets = rng.sample(SETS, few)
    return torch.tensor([[rng.choice(sets[i * few // 12]) for _ in range(4)] for i in range(12)])


def dealt_out(make: Callable[[], nn.Module], x: Tensor, rng: random.Random, folder: Path, **options: Any) -> Counts:
    """The samples in parts of random sizes, counted by several runs in random order, a fresh network each."""
    cuts = sorted(rng.sample(range(1, len(x)), rng.randint(1, 5)))
    batches = list(zip([0, *cuts], [*cuts, len(x)], strict=True))
    processes = rng.randint(1, 3)
    turns = list(filter(None, (share(batches, rank, processes) for rank in range(processes))))
    rng.shuffle(turns)
    for todo in turns:
        kept = Parts(folder, {}, todo, len(x), save_every_s=0.0)
        with contextlib.nullcontext() if todo is turns[-1] else pytest.raises(CountsError, match="not counted yet"):
            found = se.profile(make(), [x[a:b] for a, b in todo], parts=kept, **options)
    return found


@pytest.mark.parametrize("make", [reader, product])
@pytest.mark.parametrize("seed", range(60))
def test_parts_merge_to_the_counts_of_one_batch(make: Callable[[], nn.Module], seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    x = samples_of(rng, rng.randint(1, 4))
    options: dict[str, Any] = {"time_steps": 1, "max_k": rng.choice([2, 4, 9])}
    assert_same(se.profile(make(), [x], **options), dealt_out(make, x, rng, tmp_path / "parts", **options))


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_a_masked_network_merge_to_the_counts_of_one_batch(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    x = torch.rand(7, 1, 8, 8) * 3
    assert_same(se.profile(masked(), [x]), dealt_out(masked, x, rng, tmp_path / "parts"))


@pytest.mark.parametrize("seed", range(10))
def test_a_masked_step_that_works_in_one_part_is_active_in_all(seed: int, tmp_path: Path) -> None:
    """A sample with ones alone and one with a 4 alone make no work together, whether in one batch or in two."""
    rng = random.Random(seed)
    x = torch.tensor([[float(rng.choice([0, 1])), 0.0, 0.0, 0.0] for _ in range(8)])
    at = rng.randrange(8)
    x[at, 2] = 4.0
    found = se.profile(unmasked(), [x])
    row = found.to_frame().query("op == 'matmul' and time_step == 1").iloc[0]
    assert row["active"]  # clamp(min=1) makes ones of a masked step
    assert (row["sops"], row["other_nonzeros"]) == (int(x[at, 0]), 1)
    assert_same(found, dealt_out(unmasked, x, rng, tmp_path / "parts"))


def test_kinds_rise_from_part_to_part_and_sums_come_to_one_unit(tmp_path: Path) -> None:
    """{0, 2} alone is binary and counts ones; beside {0, 3} the unit is 1, and they count 2 and 3 (4 outputs each)."""
    model = Does(lambda self, x: self.second(self.first(x)), first=same(), second=nn.Linear(4, 4))
    x = torch.tensor([[2.0, 0, 0, 2], [2, 0, 0, 0], [0, 3, 3, 3]])
    kept = Parts(tmp_path, {}, [(0, 1), (1, 2), (2, 3)], 3, save_every_s=0.0)
    found = se.profile(model, list(x.unsqueeze(1)), time_steps=1, max_k=3, parts=kept)
    assert len(list(tmp_path.iterdir())) == 3
    row = found.to_frame().set_index("layer").loc["second"]
    assert (row["input_kind"], row["max_k"], row["sops"], row["sops_multi"]) == ("integer", 3, 24, 4 * (2 * 3 + 3 * 3))
    assert found.per_sample is not None
    assert found.per_sample["sops_multi"][1].tolist() == [16, 8, 36]
    below = se.profile(model, [x], time_steps=1, max_k=2).to_frame().set_index("layer").loc["second"]
    assert below["input_kind"] == "real"


def test_a_network_that_changes_between_parts_is_refused(tmp_path: Path) -> None:
    for at, inputs in enumerate((4, 5)):
        kept = Parts(tmp_path, {}, [(at, at + 1)], save_every_s=0.0)
        model = Does(lambda self, x: self.layer(x), layer=nn.Linear(inputs, 2))
        if at == 0:
            se.profile(model, [torch.ones(1, inputs)], time_steps=1, parts=kept)
    with pytest.raises(ProfilingError, match="changes between batches"):
        se.profile(model, [torch.ones(1, inputs)], time_steps=1, parts=kept)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("found", [[], [(0, 4)], [(4, 7)], [(0, 1), (5, 11), (18, 20)], [(0, 20)]])
@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_every_sample_is_shared_out_once_in_batches_cut_where_one_process_cuts_them(
    found: list[tuple[int, int]], batch_size: int, size: int
) -> None:
    shares = [share(missing(found, 20, batch_size), rank, size) for rank in range(size)]
    batches = [batch for mine in shares for batch in mine]
    every = [sample for start, stop in [*found, *batches] for sample in range(start, stop)]
    assert sorted(every) == list(range(20))
    assert all(start // batch_size == (stop - 1) // batch_size for start, stop in batches)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- runs that are killed, and go on ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, *COMMAND)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run(folder: Path, *arguments: str, code: str = "", expect: int = 0) -> None:
    """The command line in a process of its own, after some code."""
    done = forked.run(*arguments, cwd=folder, code=code)
    assert done.returncode == expect, done.stderr


SAVE_EACH_BATCH = """
    import os, signal
    from snn_energy.profiler.results import resume
    resume.open_parts.__wrapped__.__defaults__ = (None, 0.0)
    import snn_energy.jobs.profile_run as runs
    runs.profile_run.__kwdefaults__["save_every_s"] = 0.0
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = {
    "behind the first batch": """
    from snn_energy.datasets.images import ImageSet
    batch = ImageSet.batch
    ImageSet.batch = lambda self, chosen, crops=None: die() if chosen[0] == 4 else batch(self, chosen, crops)
    """,
    "while a part is written": """
    import numpy as np
    def half(stream, **arrays):
        stream.write(b"PK" * 100)
        stream.flush()
        if len(os.listdir("counts.json.parts")) == 6:
            die()
        savez(stream, **arrays) if stream.seek(0) == 0 else None
    savez, np.savez = np.savez, half
    """,
    "when all is counted and nothing written": """
    import snn_energy.counts.counts as counts
    counts.write_samples = lambda path, arrays: die()
    """,
}


@pytest.mark.parametrize("where", KILLED)
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    where: str, whole: dict[str, bytes], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, *COMMAND, code=SAVE_EACH_BATCH + KILLED[where], expect=-signal.SIGKILL)
    assert not (tmp_path / "counts.json").exists()
    kept = len(covered(sorted((tmp_path / "counts.json.parts").glob("0*.npz"))))
    assert kept == {"behind": 1, "while": 5, "when": 10}[where.split()[0]]
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*COMMAND)
    assert code == 0, err
    assert f"{kept * BATCH} of {SAMPLES} samples are counted already, in counts.json.parts" in err
    assert files(tmp_path).keys() >= whole.keys()
    for name, content in whole.items():
        assert (tmp_path / name).read_bytes() == content, name
    assert not (tmp_path / "counts.json.parts").exists()


def test_whole_parts_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_way(tmp_path, 20)
    seen: list[int] = []
    batch = ImageSet.batch

    def seeing(self: ImageSet, chosen: Any) -> Any:
        seen.extend(chosen.tolist())
        return batch(self, chosen)

    monkeypatch.setattr(ImageSet, "batch", seeing)
    calls: list[tuple[int, int]] = []
    profiled(tmp_path, on_start=lambda *numbers: calls.append(numbers), on_batch=lambda done: calls.append((done, 0)))
    assert seen == [
        *range(INSPECTED_SAMPLES),
        *range(20, 40),
    ]  # the first ones tell what spikes, and are not counted again
    assert calls == [(20, 40), *((done, 0) for done in range(24, 41, 4))]


class StopError(Exception):
    """What a test throws in mid-run."""


def profiled(folder: Path, network: Path = DTS, **options: Any) -> Counts:
    given: dict[str, Any] = {"batch_size": BATCH, "save_every_s": 0.0, **options}
    return profile_checkpoint(network, "digits", SAMPLES, parts=folder / "counts.json.parts", **given)


def half_way(folder: Path, samples: int, **options: Any) -> list[Path]:
    """The parts of a run that stopped behind so many samples."""

    def stop(done: int) -> None:
        if done == samples:
            raise StopError

    with pytest.raises(StopError):
        profiled(folder, on_batch=stop, **options)
    return sorted((folder / "counts.json.parts").iterdir())


@pytest.mark.parametrize("batch_size", [3, 40])
def test_a_run_goes_on_with_another_batch_size(batch_size: int, tmp_path: Path) -> None:
    half_way(tmp_path, 12)
    assert_same(profiled(tmp_path, batch_size=batch_size), profile_checkpoint(DTS, "digits", SAMPLES))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_keeps_what_it_did_and_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    whole: dict[str, bytes],
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    batch = ImageSet.batch
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:

        def raising(self: ImageSet, chosen: Any) -> Any:
            if chosen[0] == 12:
                signal.raise_signal(number)
            return batch(self, chosen)

        patch.setattr(ImageSet, "batch", raising)
        found, out, err = cli(*COMMAND)
    assert (found, out) == (code, "")
    line = f"16 of {SAMPLES} samples are counted and kept in counts.json.parts; the same command goes on from there"
    assert err.splitlines() == [line, *["interrupted"] * (code == 130)]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert cli(*COMMAND)[0] == 0
    assert files(tmp_path) == whole


def test_a_short_run_leaves_no_parts_behind(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(*COMMAND)[0] == 0
    assert sorted(files(tmp_path)) == ["counts.json", "counts.samples.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.json", "counts.samples.npz"]


def test_an_error_in_mid_run_leaves_what_was_counted_and_no_empty_folder(tmp_path: Path) -> None:
    def fail(done: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        profiled(tmp_path, on_batch=fail, save_every_s=1e9)
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir())


# --- parts that do not belong together, and damaged ones ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": SPIK}, "weights"),
        ({"header": {"origin": "elsewhere"}}, "origin"),
    ],
)
def test_parts_of_another_run_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    paths = half_way(tmp_path, 8)
    with pytest.raises(
        CountsError, match=rf"counts\.json\.parts: holds parts of another run .*{said}.*delete the folder"
    ):
        profiled(tmp_path, **options)
    assert sorted((tmp_path / "counts.json.parts").iterdir()) == paths


def test_parts_of_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_way(tmp_path, 8)
    monkeypatch.setattr(ImageSet, "fingerprint", lambda self: b"one pixel differs")
    with pytest.raises(CountsError, match=r"another run \(another data\)"):
        profiled(tmp_path)


def test_parts_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_way(tmp_path, 8)
    monkeypatch.setattr(profile_run, "__version__", "0.0.0")
    with pytest.raises(CountsError, match=r"another run \(another snn_energy\)"):
        profiled(tmp_path)


def test_parts_of_another_number_of_samples_are_refused(tmp_path: Path) -> None:
    half_way(tmp_path, 8)
    with pytest.raises(CountsError, match=r"another run \(another data, data_note, samples\)"):
        profile_checkpoint(DTS, "digits", 41, parts=tmp_path / "counts.json.parts")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of the counts themselves."""
    at = len(content) * 3 // 4
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b"", lambda content: b"{}"])
def test_a_damaged_part_is_one_line_and_only_its_samples_are_counted_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    part = half_way(tmp_path, 12)[1]
    part.write_bytes(damage(part.read_bytes()))
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*COMMAND)
    assert code == 1
    assert err.count("\n") == 1
    assert f"{part.relative_to(tmp_path)}: a damaged part of a run" in err
    assert "delete it and run the same command again" in err
    part.unlink()
    code, _, err = cli(*COMMAND)
    assert (code, "8 of 40 samples are counted already" in err) == (0, True)
    assert files(tmp_path) == whole


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    part = half_way(tmp_path, 12)[2]
    part.rename(part.with_name("000000020-000000024.npz"))
    with pytest.raises(CountsError, match="renamed"):
        profiled(tmp_path)


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    half_way(tmp_path, 4, batch_size=4)
    (tmp_path / "counts.json.parts").rename(tmp_path / "first")
    half_way(tmp_path, 3, batch_size=3)
    next((tmp_path / "first").iterdir()).rename(tmp_path / "counts.json.parts" / "000000000-000000004.npz")
    with pytest.raises(CountsError, match="two parts hold sample 0"):
        profiled(tmp_path)


def test_two_runs_at_once_into_one_folder_are_refused(tmp_path: Path) -> None:
    def meanwhile(done: int) -> None:
        if done == BATCH:
            with pytest.raises(OutputError, match="another run is writing there"):
                profiled(tmp_path)

    profiled(tmp_path, on_batch=meanwhile)


def test_a_place_where_no_folder_can_be_made_is_one_line(tmp_path: Path, cli: Cli) -> None:
    parts_path(tmp_path / "counts.json").write_text("mine")
    code, _, err = cli(*COMMAND[:4], "-o", tmp_path / "counts.json")
    assert (code, err.count("\n")) == (1, 1)
    assert "counts.json.parts: the folder cannot be created" in err
    assert parts_path(tmp_path / "counts.json").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system that even root cannot write to")
def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_counted(cli: Cli) -> None:
    code, _, err = cli(*COMMAND[:4], "-o", "/proc/counts.json")
    assert (code, err.count("\n")) == (1, 1)
    assert "/proc/counts.json" in err


def test_a_part_that_does_not_fit_on_the_disk_is_an_output_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            profiled(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_only_parts_are_removed(tmp_path: Path) -> None:
    (tmp_path / "000000000-000000004.npz").touch()
    (tmp_path / ".000000004-000000008.npz.x7.npz").touch()
    (tmp_path / "mine.npz").touch()
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


# --- several processes ---


def test_two_processes_of_torchrun_count_what_one_counts(whole: dict[str, bytes], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "snn_energy"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *COMMAND], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("counts written to") == 1
    assert files(tmp_path) == whole
    assert not (tmp_path / "counts.json.parts").exists()


def test_more_processes_than_samples(tmp_path: Path) -> None:
    arguments = [*COMMAND[:6], "--samples", "2", "--batch-size", "1", "--device", "cpu"]
    done = forked.run_together(3, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one = profile_checkpoint(DTS, "digits", 2)
    many = load_counts(tmp_path / "counts.json")
    pd.testing.assert_frame_equal(one.rows, many.rows)
    assert one.per_sample is not None
    assert many.per_sample is not None
    assert all(np.array_equal(one.per_sample[name], many.per_sample[name]) for name in PER_SAMPLE)


def test_a_process_that_dies_leaves_no_counts_and_three_go_on(whole: dict[str, bytes], tmp_path: Path) -> None:
    dying = """
        from snn_energy.datasets.images import ImageSet
        batch = ImageSet.batch
        ImageSet.batch = lambda self, chosen, crops=None: die() if chosen[0] == 28 else batch(self, chosen, crops)
    """
    code = textwrap.dedent(SAVE_EACH_BATCH) + textwrap.dedent(dying)
    done = forked.run_together(2, *COMMAND, cwd=tmp_path, code=code)
    assert done.returncode != 0
    assert not (tmp_path / "counts.json").exists()
    kept = covered(sorted((tmp_path / "counts.json.parts").glob("0*.npz")))
    assert {(20, 24), (24, 28)} <= set(kept)
    assert (28, 32) not in kept
    done = forked.run_together(3, *COMMAND, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("samples are counted already") == 1
    assert files(tmp_path) == whole


# --- memory ---


MEMORY = """
    import json, sys, torch
    from torch import nn
    import snn_energy as se
    from snn_energy.models.neurons import LIF

    class Net(nn.Module):
        time_steps = 8
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.l, self.m = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2), LIF(), LIF()
        def forward(self, x):
            return self.c(self.m(self.b(self.l(self.a(x.repeat(8, 1, 1)))))).mean(0)

    def peak():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

    def loader(samples):
        for _ in range(samples // 500):
            yield torch.randn(500, 4) * 3

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Net()
    se.profile(net, loader(500)).save("small.json")
    before = peak()
    counts = se.profile(net, loader(100_000))
    profiled = peak()
    counts.save("large.json")
    loaded = se.load_counts("large.json")
    values = next(iter(loaded.per_sample.values()))
    print(json.dumps([profiled - before, peak() - before, counts.rows.shape[0], type(values).__name__]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak memory of a process to read here")
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """200 times the samples: what is gathered is 8 bytes a row and sample for each of 6 columns, 190 MB."""
    command = [sys.executable, "-c", textwrap.dedent(MEMORY)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    profiled_more, all_more, rows, held = json.loads(done.stdout)
    gathered = rows * 100_000 * 8 * len(PER_SAMPLE)
    print(f"peak memory grew by {profiled_more / 1e6:.1f} MB, {all_more / 1e6:.1f} MB with saving and loading, "
          f"for {gathered / 1e6:.0f} MB of per-sample counts")  # fmt: skip
    assert gathered > 190e6
    assert held == "memmap"
    assert all_more < gathered / 6


def test_counts_in_a_file_are_saved_and_read_as_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = profile_checkpoint(DTS, "digits", SAMPLES)
    monkeypatch.setattr(sample_store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(sample_store, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(accumulate, "PART_BYTES", 100_000)
    there = profile_checkpoint(DTS, "digits", SAMPLES, batch_size=BATCH)
    assert there.per_sample is not None
    assert all(isinstance(values, np.memmap) for values in there.per_sample.values())
    assert_same(here, there)
    here.save(tmp_path / "a.json")
    (tmp_path / "b").mkdir()
    there.save(tmp_path / "b" / "a.json")
    assert files(tmp_path) == files(tmp_path / "b")
    assert_same(load_counts(tmp_path / "a.json"), load_counts(tmp_path / "b" / "a.json"))
    with np.load(samples_path(tmp_path / "a.json")) as archive, (tmp_path / "numpy.npz").open("wb") as stream:
        np.savez_compressed(stream, **dict(archive))
    assert (tmp_path / "numpy.npz").read_bytes() == samples_path(tmp_path / "a.json").read_bytes()


def test_a_side_file_that_is_read_block_by_block_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile_checkpoint(DTS, "digits", 2).save(tmp_path / "a.json")
    monkeypatch.setattr(sample_store, "IN_MEMORY_BYTES", 0)
    side = samples_path(tmp_path / "a.json")
    content = side.read_bytes()
    for damage in (cut, flipped):
        side.write_bytes(damage(content))
        with pytest.raises(CountsError, match=r"not the per-sample counts|edited or damaged"):
            load_counts(tmp_path / "a.json")
