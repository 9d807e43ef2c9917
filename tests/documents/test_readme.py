"""README.md and the pages under docs/ say what the commands give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import forked
import frameworks_table
import pandas as pd
import pytest
import typer
from pages import DOCS, README, ROOT, TEXTS, block, commands, page, rows, section

import snn_energy as se
from snn_energy.cli.commands import app
from snn_energy.datasets.names import DATASETS
from snn_energy.hardware.numbers import numbers
from snn_energy.studies.ablation_grid import list_grids
from snn_energy.studies.trio import list_trios
from snn_energy.training.recipe import list_recipes, load_recipe


def test_the_readme_stays_short() -> None:
    assert len(page("README.md").splitlines()) <= 150
    assert README.stat().st_size <= 8 * 1024


@pytest.mark.parametrize(
    "name", ["demo/table.md", "demo/memory-variants.md", "cifar10/table.md", "frameworks/table.md"]
)
def test_the_tables_of_the_pages_are_those_of_the_reports(name: str) -> None:
    assert block(f"reports/{name}").strip() == (ROOT / "reports" / name).read_text(encoding="utf-8").strip()


def test_every_row_of_the_table_of_frameworks_is_answered_by_tests_that_exist() -> None:
    here = Path(__file__).parents[1]
    text = "".join((here / name).read_text(encoding="utf-8") for name in frameworks_table.FILES)
    for row in frameworks_table.ROWS:
        assert row.tests
        for test in row.tests:
            assert f"def {test.partition('[')[0]}" in text
    table = (ROOT / "reports" / "frameworks" / "table.md").read_text(encoding="utf-8")
    answers = [line.split(" | ")[2] for line in table.splitlines()[2:]]
    assert answers == [row.answer for row in frameworks_table.ROWS]  # none "fails", none "not run"


# --- Commands and Python --------------------------------------------------------------------------------------------


# What a test adds to a command of a page that looks at all 360 images many times.
FEWER = {"sensitivity": ("--samples", "60"), "early-exit": ("--samples", "60")}


def run(folder: Path, *arguments: str) -> str:
    done = forked.run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder that looks like the repository's, to be written into."""
    for name in ("snn_energy", "reports", "hardware_profiles", "published"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_page_of_commands_has_every_command_of_the_readme() -> None:
    page_of_commands = commands(page("commands.md"))
    assert len(page_of_commands) == 17
    of_readme = commands(page("README.md"))
    assert len(of_readme) == 3
    assert [command for command in of_readme if command not in page_of_commands] == []


def test_the_commands_of_the_page_do_what_it_says(repository: Path) -> None:
    for arguments in commands(page("commands.md")):
        if arguments[0] == "train":  # minutes; its recipe exists
            assert load_recipe(arguments[1]).model.name == "dts-spikformer-2-64"
        else:
            assert run(repository, *arguments, *FEWER.get(arguments[0], ())).strip()
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


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_command_of_a_page_exists_with_its_options(path: Path) -> None:
    for arguments in commands(TEXTS[path]):
        found: Any = typer.main.get_command(app)
        left = list(arguments)
        while hasattr(found, "commands"):  # a group
            found = found.commands[left.pop(0)]
        options = {option for parameter in found.params for option in parameter.opts}
        assert [word for word in left if word.startswith("-") and word.split("=")[0] not in options] == [], arguments


def python_of(name: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", page(name), re.M | re.S)
    return code


def test_the_python_of_the_page_runs_as_it_stands(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    names: dict[str, Any] = {}
    exec(python_of("commands.md"), names)
    assert Path("dtss.json").exists()
    assert names["energy"].total_pj > 0


def test_the_ten_lines_of_the_readme_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snntorch", reason="snntorch is not installed (the extra 'frameworks')")
    code = python_of("README.md")
    assert len([line for line in code.splitlines() if line]) <= 12
    names: dict[str, Any] = {}
    exec(code, names)
    frame = names["energy"].to_frame("layer")
    assert frame["op"].tolist() == ["linear", "neuron", "linear", "neuron"]
    assert names["counts"].rows["time_step"].max() == 9
    assert frame["total_pj"].sum() == pytest.approx(names["energy"].total_pj)
    assert f"{names['energy'].total_pj}" in capsys.readouterr().out


def test_the_training_commands_name_what_exists() -> None:
    text = page("training.md")
    lines = commands(text)
    assert len(lines) == 6
    known = {"train": list_recipes(), "ablate": list_grids(), "trio": list_trios()}
    for command in lines:
        assert command[0] in {found.name or found.callback.__name__ for found in app.registered_commands}  # type: ignore[union-attr]
        if command[0] in known:
            assert command[1] in known[command[0]]
    datasets = re.findall(r"`(\w[\w-]*):PATH`", text)
    assert len(datasets) == 5
    for name in datasets:
        assert name in DATASETS or name == "start_from"


# --- Figures --------------------------------------------------------------------------------------------------------


def test_the_saving_that_the_page_states_is_that_of_the_demo() -> None:
    energy = se.estimate(se.load_counts(ROOT / "reports/demo/dts-spikformer-2-64.json"), "dts-paper-fpga")
    saved = 100 * (1 - energy.of_needed_steps().total_pj / energy.total_pj)
    assert f"{saved:.1f} % of the" in page("demo.md")


def test_the_range_that_the_readme_states_is_that_of_the_memory_variants() -> None:
    found = [float(cells[-1]) for cells in rows(block("reports/demo/memory-variants.md")) if cells[0] == "vit-2-64"]
    assert len(found) == 3
    text = " ".join(page("README.md").split())
    assert f"TE of the ViT is {min(found):.3f} to {max(found):.3f} over the memory variants" in text


def test_the_ablation_of_the_page_is_that_of_its_report() -> None:
    table = pd.read_csv(ROOT / "reports" / "ablation-digits" / "ablation.csv")
    of_page = rows(block("ablation"))
    assert [row[0] for row in of_page] == table["variant"].tolist()
    for row, (_, found) in zip(of_page, table.iterrows(), strict=True):
        figures = (100 * found["accuracy"], found["t_avg"], 100 * found["sa"], found["sops_per_sample"] * 1e-6)
        assert row[1:5] == [f"{figure:.2f}" for figure in figures]
        assert row[5] == f"{found['total_pj'] * 1e-6:.2f}"


def test_the_profiles_of_the_page_are_those_that_are_bundled() -> None:
    assert rows(block("profiles")) == [facts_of(name) for name in se.list_hardware()]


def facts_of(name: str) -> list[str]:
    """The row of a profile in the table of docs/hardware.md."""
    profile = se.load_hardware(name)
    n = numbers(profile)
    memory = "–"
    if profile.memory is not None:
        memory = "placed" if profile.memory.placement is not None else "kept where it fits"
        if profile.array is not None:
            memory += f", array {profile.array.rows.value} x {profile.array.columns.value}"
    prices = [f"{n[key]:.4g}" if key in n else "–" for key in ("compute.mac", "compute.ac")]
    return [name, *prices, memory, "–" if profile.latency is None else profile.latency.timing]


def test_the_break_even_of_the_page_is_that_of_the_demo() -> None:
    snn, ann = (se.load_counts(ROOT / f"reports/demo/{name}.json") for name in ("dts-spikformer-2-64", "vit-2-64"))
    found = se.break_even(snn, ann, "dts-paper-fpga").table.set_index("knob")["break_even"]
    text = " ".join(page("hardware.md").split())
    assert f"above {found['time steps']:.1f} time steps, below a MAC/AC ratio of {found['MAC over AC']:.1f}" in text
    assert f"where memory costs {found['memory price']:.1f} times as much" in text


def test_the_short_example_of_the_readme_is_that_of_the_page() -> None:
    for figure in ("19,693,776", "98,468.9 pJ", "14,745.6 pJ", "174,014.5 pJ"):
        assert figure in page("how-a-number-comes-about.md")
        assert figure in section("README.md", "What the demo finds")


def test_the_table_v_of_the_page_is_that_of_the_ledger() -> None:
    ledger = {}
    for line in (ROOT / "reports" / "paper" / "ledger.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        ledger[cells[0]] = cells[1:]
    of_page = rows(block("table-v"))
    assert len(of_page) == 4
    for name, *cells in of_page:
        data, network = name.lower().replace("-", "").replace(" vit", " ns_vit").split()
        found = [ledger[f"{data} {network} {part}, 4-384 made to its averages"] for part in ("ce", "me", "te")]
        expected = [found[0][0], found[0][1]]
        for published, ours, between, *_ in found[1:]:
            expected += [published, f"{ours} ({between})"]
        assert cells == expected


# --- Links and paths ------------------------------------------------------------------------------------------------

WITH_LINKS = [*TEXTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    outside_code = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", outside_code, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[tuple[Path, str]]:
    """File and anchor of every relative link and picture of a page."""
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    relative = [target.partition("#") for target in targets if "://" not in target]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in relative]


@pytest.mark.parametrize("path", WITH_LINKS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file_and_an_anchor(path: Path) -> None:
    for file, anchor in links(path):
        assert file.exists(), file
        assert not anchor or anchor in anchors(file), f"{file}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached = {file for file, _ in links(README)}
    assert len(DOCS) >= 13
    assert [path for path in DOCS if path not in reached] == []


@pytest.mark.parametrize("path", [*TEXTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    folders = "snn_energy|tests|docs|reports|hardware_profiles|published"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_tree_for_contributors_has_every_folder_and_only_files_that_exist() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The tree", 1)[1].split("\n## ", 1)[0]
    packages = {path.parent.name for path in (ROOT / "snn_energy").glob("*/__init__.py")}
    packages |= {path.parent.name for path in (ROOT / "snn_energy" / "profiler").glob("*/__init__.py")}
    assert {name for name in packages if f"{name}/" not in tree} == set()
    files = {path.name for path in (ROOT / "snn_energy").rglob("*.py")} | {"test_source_layout.py"}
    assert set(re.findall(r"\w+\.py", tree)) <= files
