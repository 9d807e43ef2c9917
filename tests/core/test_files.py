"""Files are written whole, where they belong, and never over what is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from snn_energy.core.errors import OutputError
from snn_energy.core.files import require_distinct_paths, require_writable, write_text, write_texts

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "reports" / "demo" / "vit-2-64.json"
CHECKPOINT = ROOT / "snn_energy" / "demo_checkpoints" / "vit-2-64-digits.safetensors"
Cli = Callable[..., tuple[int, str, str]]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"


def test_a_pipe_is_refused_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device or a pipe"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_of_several_texts_all_are_written_or_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_texts({tmp_path / "a": "a", tmp_path / "missing" / "b": "b"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["x" * 300, ""])
def test_a_name_that_cannot_be_is_refused_at_once(path: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        require_writable(tmp_path / path if path else path)


def test_outputs_are_apart_from_inputs_and_from_each_other(tmp_path: Path) -> None:
    require_distinct_paths([tmp_path / "a", None, tmp_path / "b"], [tmp_path / "c"])
    with pytest.raises(OutputError, match="is given for two outputs"):
        require_distinct_paths([tmp_path / "a", tmp_path / "." / "a"])
    with pytest.raises(OutputError, match="is the input itself"):
        require_distinct_paths([tmp_path / "a"], [tmp_path / "a"])


def test_no_command_overwrites_what_it_reads(cli: Cli, tmp_path: Path) -> None:
    checkpoint, counts = tmp_path / "m.safetensors", tmp_path / "c.json"
    checkpoint.write_bytes(CHECKPOINT.read_bytes())
    counts.write_bytes(COUNTS.read_bytes())
    (tmp_path / "vit-2-64.samples.npz").write_bytes(COUNTS.with_name("vit-2-64.samples.npz").read_bytes())
    before = {path: path.read_bytes() for path in (checkpoint, counts)}
    for arguments in (
        ("profile", checkpoint, "--data", "digits", "-o", checkpoint),
        ("estimate", counts, "--hardware", "dts-paper-fpga", "--json", counts),
        ("compare", counts, "--hardware", "dts-paper-fpga", "--baseline", "c", "--csv", counts),
    ):
        code, _, error = cli(*arguments)
        assert code == 1
        assert "is the input itself" in error
        assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


def test_one_output_for_two_formats_is_refused(cli: Cli, tmp_path: Path) -> None:
    code, _, error = cli(
        "estimate", COUNTS, "--hardware", "dts-paper-fpga", "--csv", tmp_path / "x", "--json", tmp_path / "x"
    )
    assert code == 1
    assert "two outputs" in error
    assert list(tmp_path.iterdir()) == []


def test_networks_counted_on_different_data_are_told(cli: Cli, tmp_path: Path) -> None:
    assert cli("profile", CHECKPOINT, "--data", "digits", "--samples", "7", "-o", tmp_path / "few.json")[0] == 0
    other = COUNTS.with_name("spikformer-2-64.json")
    code, out, error = cli("compare", tmp_path / "few.json", other, "--hardware", "dts-paper-fpga", "--baseline", "few")
    assert code == 0
    assert out
    assert "different samples: vit-2-64 7, spikformer-2-64 360" in error
