"""The README tells what the commands give."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = ROOT / "snn_energy" / "demo_checkpoints"


@pytest.mark.parametrize("name", ["table.md", "memory-variants.md"])
def test_the_tables_of_the_readme_are_those_of_the_last_demo(name: str) -> None:
    block = README.split(f"<!-- table: reports/demo/{name} -->\n", 1)[1].split("<!-- end -->", 1)[0]
    assert block.strip() == (ROOT / "reports" / "demo" / name).read_text(encoding="utf-8").strip()


def test_every_picture_and_link_of_the_readme_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def commands() -> list[list[str]]:
    """The snn-energy lines of the section "Use it", without the long training."""
    section = README.split("## Use it", 1)[1].split("```", 1)[0]
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith("snn-energy")]
    assert len(lines) == 7
    return [shlex.split(line)[1:] for line in lines if " train " not in line and " | " not in line]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snn_energy", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    for short, name in (("vit", "vit"), ("spikformer", "spikformer"), ("dtss", "dts-spikformer")):
        (tmp_path / f"{short}.safetensors").write_bytes((SHIPPED / f"{name}-2-64-digits.safetensors").read_bytes())
    for short in ("vit", "spikformer"):
        run(tmp_path, "profile", f"{short}.safetensors", "--data", "digits", "--samples", "4", "-o", f"{short}.json")
    for arguments in commands():
        limited = ["--samples", "4"] if arguments[0] == "profile" else []
        assert run(tmp_path, *arguments, *limited).strip()
    for made in ("dtss.json", "layers.csv", "table.tex", "plots/energy-by-group.svg", "plots/activity.png"):
        assert (tmp_path / made).stat().st_size > 0
    assert "dts-paper-fpga" in run(tmp_path, "hardware", "list")


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import snn_energy as se

    monkeypatch.chdir(tmp_path)
    Path("dtss.safetensors").write_bytes((SHIPPED / "dts-spikformer-2-64-digits.safetensors").read_bytes())
    twin = se.load_checkpoint(SHIPPED / "vit-2-64-digits.safetensors")
    images = torch.rand(2, 1, 16, 16)
    names = {"loader": [(images, torch.tensor([0, 1]))], "vit": se.profile(twin, [images])}
    code = README.split("```python", 1)[1].split("```", 1)[0]
    exec(code, names)
    assert Path("dtss.json").exists()
    assert names["energy"].total_pj > 0  # type: ignore[attr-defined]
