"""Tables say what the frame says, in every format; pictures draw what the frame says, the same on every run."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

import snn_energy as se
from snn_energy.analysis.comparison import Comparison
from snn_energy.core.errors import OutputError
from snn_energy.core.groups import GROUPS
from snn_energy.counts.counts import Counts
from snn_energy.pricing.energy import COMPUTE, MEMORY
from snn_energy.report.plots.activity import activity_map
from snn_energy.report.plots.energy import energy_by_group, normalised_bars
from snn_energy.report.plots.folder import save_all
from snn_energy.report.plots.style import save_figure
from snn_energy.report.tables import as_json, csv, energy_unit, format_number, latex, markdown, plain_text, write_table

MakeCounts = Callable[..., Counts]


@pytest.fixture
def comparison(counted: Path) -> Comparison:
    named = {stem: se.load_counts(counted / f"{stem}.json") for stem in ("vit", "spik", "dts")}
    return se.compare(named, "dts-paper-fpga", baseline="dts")


ODD = pd.DataFrame(
    {
        "layer": ["a_b & 50% #1 ~^", "{x}|y$\\z", "plain"],
        "time_step": [0, 1, 2],
        "sa": [0.125, None, 1.0],
        "compute_pj": [1.5e6, 0.0, 2.25e6],
        "total_pj": [3e6, None, 1234.5],
    }
)


def test_markdown_has_a_unit_a_rule_and_a_row_each() -> None:
    assert markdown(ODD).splitlines() == [
        "| layer | t | SA (%) | compute (µJ) | total (µJ) |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a_b & 50% #1 ~^ | 0 | 12.50 | 1.500 | 3.000 |",
        "| {x}\\|y$\\z | 1 | – | 0 | – |",
        "| plain | 2 | 100.0 | 2.250 | 0.001234 |",
    ]


def test_plain_text_is_aligned_and_ends_no_line_in_spaces() -> None:
    lines = plain_text(ODD).splitlines()
    assert len(lines) == 4
    assert all(line == line.rstrip() for line in lines)
    assert len({len(line) for line in lines}) == 1


def test_csv_and_json_keep_every_digit() -> None:
    frame = pd.DataFrame({"layer": ["x", "y"], "total_pj": [1 / 3, None], "ok": [True, False]})
    assert csv(frame).splitlines()[0] == "layer,total_pj,ok"
    assert pd.read_csv(StringIO(csv(frame)))["total_pj"].tolist()[0] == 1 / 3
    document = json.loads(as_json(frame, {"model": "m", "n": np.int64(3)}))
    assert document["rows"] == [
        {"layer": "x", "total_pj": 1 / 3, "ok": True},
        {"layer": "y", "total_pj": None, "ok": False},
    ]
    assert (document["model"], document["n"]) == ("m", 3)


def test_latex_escapes_what_latex_reads_as_commands(tmp_path: Path) -> None:
    text = latex(ODD)
    assert r"a\_b \& 50\% \#1 \textasciitilde{}\textasciicircum{}" in text
    assert r"\{x\}|y\$\textbackslash{}z" in text
    assert r"compute (\textmu{}J)" in text
    assert r"SA (\%)" in text
    lines = text.strip().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrr}"
    assert lines[-1] == r"\end{tabular}"
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 4
    assert all(len(re.findall(r"(?<!\\)&", line)) == 4 for line in body)
    if shutil.which("pdflatex"):  # what is left to check where LaTeX is at hand
        source = "\\documentclass{article}\\usepackage{booktabs,textcomp}\\begin{document}" + text + "\\end{document}"
        (tmp_path / "t.tex").write_text(source, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False, timeout=40
        )
        assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (pd.NA, "–"), (0.0, "0"), (0, "0"), (1234567, "1,234,567"), (True, "yes"),
     (np.bool_(False), "no"), (1234567.0, "1,234,567"), (12.345, "12.35"), (0.5, "0.5000"), (0.00012346, "0.0001235"),
     (-2.5, "-2.500"), (np.float64(3.25), "3.250"), (np.int64(7), "7"), ("text", "text")],
)  # fmt: skip
def test_numbers_read_as_a_reader_expects(value: Any, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("largest", "unit"), [(2e9, "mJ"), (1e9, "mJ"), (9e8, "µJ"), (1e6, "µJ"), (5e3, "nJ"), (999.0, "pJ"), (0.0, "pJ")]
)
def test_a_table_has_the_unit_of_its_largest_energy(largest: float, unit: str) -> None:
    assert energy_unit(pd.DataFrame({"a_pj": [0.1, largest], "b": [1e12, 1]}))[0] == unit


def test_a_price_above_zero_is_never_shown_as_zero() -> None:
    shown = format_number(1.25e-10)
    assert float(shown.replace(",", "")) > 0


@pytest.mark.parametrize("stem", ["vit", "spik", "dts"])
@pytest.mark.parametrize("level", ["group", "layer", "time_step", None])
def test_the_columns_of_a_written_table_add_up_again(stem: str, level: Any, comparison: Comparison) -> None:
    energy = comparison.energies[stem]
    table = pd.read_csv(StringIO(csv(energy.to_frame(level))))
    assert np.allclose(table[list(COMPUTE)].sum(axis=1), table["compute_pj"], rtol=1e-12)
    assert np.allclose(table[list(MEMORY)].sum(axis=1), table["memory_pj"], rtol=1e-12)
    assert np.allclose(table["compute_pj"] + table["memory_pj"], table["total_pj"], rtol=1e-12)
    assert table["total_pj"].sum() == pytest.approx(energy.total_pj, rel=1e-12)


def test_the_columns_for_readers_add_up_to_their_last_digit(comparison: Comparison) -> None:
    lines = markdown(comparison.energies["dts"].to_frame("layer")).splitlines()
    names = [cell.strip() for cell in lines[0].strip("|").split("|")]
    rows = [dict(zip(names, (c.strip() for c in line.strip("|").split("|")), strict=True)) for line in lines[2:]]
    total = next(name for name in names if name.startswith("total"))
    _, factor = energy_unit(comparison.energies["dts"].to_frame("layer"))
    shown = sum(float(row[total].replace(",", "")) for row in rows)
    assert shown == pytest.approx(comparison.energies["dts"].total_pj * factor, rel=2e-3)


def test_one_fault_in_a_list_of_tables_writes_that_table_not(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_table(ODD, latex_path=tmp_path / "missing" / "t.tex")
    assert list(tmp_path.iterdir()) == []
    assert write_table(ODD, csv_path=tmp_path / "t.csv") == [tmp_path / "t.csv"]


# --- Pictures -----------------------------------------------------------------------------------------------


def test_the_normalised_bars_are_as_high_as_the_table_says(comparison: Comparison) -> None:
    frame = comparison.to_frame()
    axes = normalised_bars(comparison).axes[0]
    assert [c.get_label() for c in axes.containers] == ["compute (CE)", "memory (ME)", "total (TE)"]
    for container, column in zip(axes.containers, ("ce", "me", "te"), strict=True):
        assert [bar.get_height() for bar in container] == pytest.approx(frame[column].tolist())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["vit", "spik", "dts"]
    written = {text.get_text() for text in axes.texts}
    assert {f"{value:.2f}" for value in frame["te"]} <= written


def test_the_stacks_by_group_are_as_high_as_the_energies(comparison: Comparison) -> None:
    figure = energy_by_group(comparison.energies)
    panels = [ax for ax in figure.axes if ax.containers]
    assert len(panels) == 3
    _, factor = energy_unit(pd.concat([e.to_frame("group") for e in comparison.energies.values()]))
    for ax, energy in zip(panels, comparison.energies.values(), strict=True):
        table = energy.to_frame("group").set_index("group")["total_pj"] * factor
        groups = [label.get_text() for label in ax.get_xticklabels()]
        assert groups == [g for g in GROUPS if g in groups]
        heights = np.sum([[bar.get_height() for bar in c] for c in ax.containers], axis=0)
        assert heights.tolist() == pytest.approx([float(table.get(g, 0.0)) for g in groups])
        assert heights.sum() == pytest.approx(energy.total_pj * factor)
        tops = [max(bars, key=lambda b: b.get_y() + b.get_height()) for bars in zip(*ax.containers, strict=True)]
        assert [bar.get_y() + bar.get_height() for bar in tops] == pytest.approx(heights.tolist())


def test_masked_steps_are_hatched_and_silent_ones_are_not(counted: Path) -> None:
    counts = se.load_counts(counted / "dts.json")
    ax = activity_map({"dts": counts}).axes[0]
    neurons = counts.rows[counts.rows["op"] == "neuron"]
    names = list(dict.fromkeys(neurons["layer"]))
    masked = {(names.index(r.layer), int(r.time_step)) for r in neurons.itertuples() if not r.active}
    assert 0 < len(masked) < len(neurons)
    cells = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in cells} == masked
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    for row in neurons.itertuples():
        value = shown[names.index(row.layer), int(row.time_step)]
        assert np.isnan(value) == (not row.active)
        assert not row.active or value == pytest.approx(row.spikes / (row.neurons * counts.samples))
    assert [label.get_text() for label in ax.get_yticklabels()] == names


def test_a_picture_where_every_step_is_masked_can_be_drawn(make_counts: MakeCounts, tmp_path: Path) -> None:
    dead = {"layer": "lif", "op": "neuron", "input_kind": None, "active": False, "neurons": 4}
    counts = make_counts([dead | {"time_step": t} for t in range(2)], time_steps=2)
    figure = activity_map({"dead": counts})
    assert len([p for p in figure.axes[0].patches if p.get_hatch()]) == 2
    assert all(path.stat().st_size for path in save_figure(figure, tmp_path / "dead"))


def test_a_network_that_costs_nothing_can_be_drawn(make_counts: MakeCounts, tmp_path: Path) -> None:
    idle = make_counts([{"layer": "lif", "op": "neuron", "input_kind": None, "active": False, "neurons": 4}])
    assert len(save_all(se.compare({"idle": idle}, "dts-paper-fpga", baseline="idle"), tmp_path)) == 6


def test_pictures_are_the_same_bytes_on_two_runs(comparison: Comparison, tmp_path: Path) -> None:
    first, second = save_all(comparison, tmp_path / "a"), save_all(comparison, tmp_path / "b")
    assert [p.name for p in first] == [p.name for p in second]
    assert len(first) == 6
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    svg = (tmp_path / "a" / "activity.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert "<dc:date>" not in svg


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_no_figure_is_cut_on_a_terminal_of_any_width(width: int) -> None:
    from rich.console import Console

    from snn_energy.report.tables import formatted, rich_table

    frame = pd.DataFrame(
        {
            "model": ["a-network-of-a-long-name", "b"],
            "sops_per_sample": [1234567, 89],
            **{f"part{i}_pj": [123456.789 * (i + 1), 0.5] for i in range(6)},
            "description": ["words " * 20, "few"],
        }
    )
    table, needed = rich_table(frame, "title", width)
    console = Console(width=max(width, needed), record=True, file=StringIO())
    console.print(table, crop=False)
    text = console.export_text()
    assert "…" not in text
    figures = formatted(frame).drop(columns=["model", "description"])
    assert [value for column in figures for value in figures[column] if value not in text] == []
