"""The README tells what the commands give."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import frameworks_table
import pandas as pd
import pytest

import snn_energy as se
from snn_energy.cli.main import app
from snn_energy.datasets.names import DATASETS
from snn_energy.hardware.numbers import numbers
from snn_energy.studies.ablation_grid import list_grids
from snn_energy.studies.trio import list_trios
from snn_energy.training.recipe import list_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["demo/table.md", "demo/memory-variants.md", "cifar10/table.md", "frameworks/table.md"]
)
def test_the_tables_of_the_readme_are_those_of_the_reports(name: str) -> None:
    block = README.split(f"<!-- table: reports/{name} -->\n", 1)[1].split("<!-- end -->", 1)[0]
    assert block.strip() == (ROOT / "reports" / name).read_text(encoding="utf-8").strip()


def test_every_row_of_the_table_of_frameworks_is_answered_by_tests_that_exist() -> None:
    here = Path(__file__).parents[1]
    text = "".join((here / name).read_text(encoding="utf-8") for name in frameworks_table.FILES)
    for row in frameworks_table.ROWS:
        assert row.tests
        for test in row.tests:
            assert f"def {test.partition('[')[0]}" in text
    told = (ROOT / "reports" / "frameworks" / "table.md").read_text(encoding="utf-8")
    answers = [line.split(" | ")[2] for line in told.splitlines()[2:]]
    assert answers == [row.answer for row in frameworks_table.ROWS]  # none "fails", none "not run"


def test_every_picture_and_link_of_the_readme_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def commands() -> list[list[str]]:
    """The snn-energy lines of the section "Use it", in order."""
    section = README.split("## Use it", 1)[1].split("```", 1)[0]
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith("snn-energy")]
    assert len(lines) == 17
    return [shlex.split(line)[1:] for line in lines]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snn_energy", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder that looks like the repository's, to be written into."""
    for name in ("snn_energy", "reports", "hardware_profiles", "published"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_commands_of_the_readme_do_what_it_says(repository: Path) -> None:
    for arguments in commands():
        if arguments[0] == "train":  # minutes; its recipe exists
            assert load_recipe(arguments[1]).model.name == "dts-spikformer-2-64"
        else:
            assert run(repository, *arguments).strip()
    for made in (
        "dtss.json",
        "layers.csv",
        "table.tex",
        "plots/energy-by-group.svg",
        "plots/activity.png",
        "sensitivity/sensitivity.png",
        "break-even/break-even.png",
        "points.csv",
        "points.png",
    ):
        assert (repository / made).stat().st_size > 0


def test_the_python_of_the_readme_runs_as_it_stands(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    names: dict[str, Any] = {}
    exec(README.split("```python", 1)[1].split("```", 1)[0], names)
    assert Path("dtss.json").exists()
    assert names["energy"].total_pj > 0


def test_the_saving_that_the_readme_tells_is_that_of_the_demo() -> None:
    energy = se.estimate(se.load_counts(ROOT / "reports/demo/dts-spikformer-2-64.json"), "dts-paper-fpga")
    saved = 100 * (1 - energy.of_needed_steps().total_pj / energy.total_pj)
    assert f"{saved:.1f} % of the" in README


def test_the_training_commands_of_the_readme_name_what_exists() -> None:
    section = README.split("## Train your own", 1)[1].split("\n## ", 1)[0]
    lines = [shlex.split(line) for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) == 6
    known = {"train": list_recipes(), "ablate": list_grids(), "trio": list_trios()}
    for line in lines:
        command = line[line.index("snn_energy" if "torchrun" in line else "snn-energy") + 1 :]
        assert command[0] in {found.name or found.callback.__name__ for found in app.registered_commands}  # type: ignore[union-attr]
        if command[0] in known:
            assert command[1] in known[command[0]]
    for name in re.findall(r"`(\w[\w-]*):PATH`", section):
        assert name in DATASETS or name == "start_from"


def test_the_ablation_of_the_readme_is_that_of_its_report() -> None:
    block = README.split("<!-- table: ablation -->\n", 1)[1].split("<!-- end -->", 1)[0]
    told = [line.strip("| ").split(" | ") for line in block.splitlines()[2:]]
    table = pd.read_csv(ROOT / "reports" / "ablation-digits" / "ablation.csv")
    assert [row[0] for row in told] == table["variant"].tolist()
    for row, (_, found) in zip(told, table.iterrows(), strict=True):
        figures = (100 * found["accuracy"], found["t_avg"], 100 * found["sa"], found["sops_per_sample"] * 1e-6)
        assert row[1:5] == [f"{figure:.2f}" for figure in figures]
        assert row[5] == f"{found['total_pj'] * 1e-6:.2f}"


def test_the_profiles_of_the_readme_are_those_that_are_bundled() -> None:
    block = README.split("<!-- table: profiles -->\n", 1)[1].split("<!-- end -->", 1)[0]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
    assert told == [facts_of(name) for name in se.list_hardware()]


def facts_of(name: str) -> list[str]:
    """The row of a profile in the README's table."""
    profile = se.load_hardware(name)
    n = numbers(profile)
    memory = "–"
    if profile.memory is not None:
        memory = "placed" if profile.memory.placement is not None else "kept where it fits"
        if profile.array is not None:
            memory += f", array {profile.array.rows.value} x {profile.array.columns.value}"
    prices = [f"{n[key]:.4g}" if key in n else "–" for key in ("compute.mac", "compute.ac")]
    return [name, *prices, memory, "–" if profile.latency is None else profile.latency.timing]


def test_the_break_even_of_the_readme_is_that_of_the_demo() -> None:
    snn, ann = (se.load_counts(ROOT / f"reports/demo/{name}.json") for name in ("dts-spikformer-2-64", "vit-2-64"))
    found = se.break_even(snn, ann, "dts-paper-fpga").table.set_index("knob")["break_even"]
    text = " ".join(README.split())
    assert f"above {found['time steps']:.1f} time steps, below a MAC/AC ratio of {found['MAC over AC']:.1f}" in text
    assert f"where memory costs {found['memory price']:.1f} times as much" in text


def test_the_short_example_of_the_readme_is_that_of_the_page() -> None:
    page = (ROOT / "docs" / "how-a-number-comes-about.md").read_text(encoding="utf-8")
    for figure in ("19,693,776", "98,468.9 pJ", "14,745.6 pJ", "174,014.5 pJ"):
        assert figure in page
        assert figure in README


def test_the_table_v_of_the_readme_is_that_of_the_ledger() -> None:
    block = README.split("<!-- table: table-v -->\n", 1)[1].split("<!-- end -->", 1)[0]
    ledger = {}
    for line in (ROOT / "reports" / "paper" / "ledger.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        ledger[cells[0]] = cells[1:]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
    assert len(told) == 4
    for name, *cells in told:
        data, network = name.lower().replace("-", "").replace(" vit", " ns_vit").split()
        found = [ledger[f"{data} {network} {part}, 4-384 made to its averages"] for part in ("ce", "me", "te")]
        expected = [found[0][0], found[0][1]]
        for published, ours, between, *_ in found[1:]:
            expected += [published, f"{ours} ({between})"]
        assert cells == expected
