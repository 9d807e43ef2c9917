"""One frame in five formats: terminal, CSV, JSON, Markdown, LaTeX.

CSV and JSON hold every digit under the column names of the frame; the others are for display: one unit per table,
four significant digits, headings in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from snn_energy.core.files import require_distinct_paths, write_texts

if TYPE_CHECKING:
    from rich.table import Table

UNITS = (("mJ", 1e-9), ("µJ", 1e-6), ("nJ", 1e-3), ("pJ", 1.0))  # unit, its factor from pJ
HEADINGS: Mapping[str, str] = {
    "time_steps": "T",
    "time_step": "t",
    "t_avg": "T_avg",
    "t_l": "T_l",
    "sa": "SA",
    "sops_per_sample": "SOPs",
    "real_macs_per_sample": "real MACs",
    "ce": "CE",
    "me": "ME",
    "te": "TE",
    "width_bits": "bits",
    "lambda_m": "λ_m",
    "t_init": "T_init",
    "t_max": "T_max",
    "paper_t_avg": "paper T_avg",
    "paper_sa": "paper SA",
    "paper_sops_per_sample": "paper SOPs",
}
PERCENT = frozenset(
    ("sa", "accuracy", "lowest_accuracy", "highest_accuracy", "rate", "rate_active", "paper_accuracy", "paper_sa")
)
MISSING_TEXT = "–"
FOLDED_WIDTH = 24  # texts are wrapped to this width if a terminal is too narrow


def energy_unit(frame: pd.DataFrame) -> tuple[str, float]:
    """The unit in which the largest energy of a table is at least 1, and its factor from pJ."""
    columns = [c for c in frame.columns if str(c).endswith("_pj")]
    largest = max((float(frame[c].abs().max()) for c in columns if frame[c].notna().any()), default=0.0)
    return next(((unit, factor) for unit, factor in UNITS if largest * factor >= 1), UNITS[-1])


def format_number(value: Any) -> str:
    """Fractions to four significant digits, whole numbers in full, thousands separated; a dash if unknown."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return MISSING_TEXT
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value == 0 or not isinstance(value, float):
        return f"{int(value):,}"
    if abs(value) < 1e-5:
        return f"{value:.3e}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def formatted(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table as text: energies in one unit named in the heading, rates in percent."""
    unit, factor = energy_unit(frame)
    columns: dict[str, list[str]] = {}
    for name in frame.columns:
        values = frame[name].tolist()
        if str(name).endswith("_pj"):
            heading = f"{str(name).removesuffix('_pj').replace('_', ' ')} ({unit})"
            columns[heading] = [format_number(_float(v, factor)) for v in values]
        elif name in PERCENT:
            columns[f"{HEADINGS.get(name, str(name).replace('_', ' '))} (%)"] = [
                format_number(_float(v, 100)) for v in values
            ]
        else:
            heading = HEADINGS.get(str(name), str(name).replace("_", " "))
            columns[heading] = [format_number(v) for v in values]
    return pd.DataFrame(columns)


def _float(value: Any, factor: float) -> float | None:
    if value is None or value is pd.NA or pd.isna(value):
        return None
    return float(f"{float(value) * factor:.12g}")  # 0.0078 pJ, not 0.0077999999999


def display_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without energy parts that are zero or unknown everywhere, and without groups that cost nothing."""
    energies = [c for c in frame.columns if str(c).endswith("_pj")]
    empty = [
        c for c in energies if not float(frame[c].abs().sum()) and c not in ("compute_pj", "memory_pj", "total_pj")
    ]
    kept = frame.drop(columns=empty)
    if "group" in frame.columns and "total_pj" in frame.columns and "layer" not in frame.columns:
        kept = kept[~(frame["total_pj"] <= 0)]  # unknown totals are kept
    return kept.drop(columns=[c for c in ("is_baseline",) if c in kept.columns])


def is_text(column: pd.Series) -> bool:
    """True for a column of texts; texts are left-aligned, numbers right-aligned."""
    return any(isinstance(v, str) for v in column)


def plain_text(frame: pd.DataFrame) -> str:
    """Aligned columns, two spaces apart, no colour, no lines: the same on every machine."""
    table = formatted(frame)
    texts = [bool(is_text(frame[name])) for name in frame.columns]
    widths = [max([len(str(h)), *(len(v) for v in table[h])]) for h in table.columns]

    def line(cells: list[str]) -> str:
        aligned = [c.ljust(w) if t else c.rjust(w) for c, w, t in zip(cells, widths, texts, strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(list(table.columns)), *(line(list(row)) for row in table.itertuples(index=False))])


def rich_table(frame: pd.DataFrame, title: str | None, width: int) -> tuple[Table, int]:
    """A table for a terminal of ``width`` columns, and the width that it needs. Numbers are never cut.

    If it is too wide, texts are wrapped; if that is not enough, a table of few rows is transposed.
    """
    from rich.table import Table

    texts = formatted(frame)
    is_text_column = [is_text(frame[name]) for name in frame.columns]
    widths = [max([len(str(h)), *(len(v) for v in texts[h])]) for h in texts.columns]
    wrapped_widths = [min(w, FOLDED_WIDTH) if is_word else w for w, is_word in zip(widths, is_text_column, strict=True)]
    transposed_widths = [
        max(map(len, map(str, texts.columns))),
        *(max(map(len, row)) for row in texts.itertuples(index=False)),
    ]
    if len(texts) and _with_lines(wrapped_widths) > width >= _with_lines(transposed_widths):
        table = Table(title=title, title_justify="left", header_style="bold", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        for _ in range(len(texts)):
            table.add_column(justify="right", no_wrap=True)
        for heading in texts.columns:
            table.add_row(str(heading), *texts[heading])
        return table, _with_lines(transposed_widths)
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading, is_word, w, least in zip(texts.columns, is_text_column, widths, wrapped_widths, strict=True):
        table.add_column(
            str(heading),
            justify="left" if is_word else "right",
            min_width=least,
            max_width=w,
            no_wrap=not is_word,
            overflow="fold",
        )
    for row in texts.itertuples(index=False):
        table.add_row(*row)
    return table, _with_lines(wrapped_widths)


def _with_lines(widths: Sequence[int]) -> int:
    """Width of a table with its rules: a column is two spaces and a line wider than its text."""
    return sum(widths) + 3 * len(widths) + 1


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table, numbers right-aligned."""
    table = formatted(frame)
    rule = ["---" if is_text(frame[name]) else "---:" for name in frame.columns]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rows = [line(list(row)) for row in table.itertuples(index=False)]
    return "\n".join([line(list(table.columns)), line(rule), *rows]) + "\n"


def latex(frame: pd.DataFrame) -> str:
    """A booktabs tabular: \\usepackage{booktabs}, and before 2020's LaTeX \\usepackage{textcomp} for µ."""
    table = formatted(frame)
    align = "".join("l" if is_text(frame[name]) else "r" for name in frame.columns)
    rows = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in _cells(table)]
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Headings and rows of a readable table."""
    return [[str(name) for name in table.columns], *(list(row) for row in table.itertuples(index=False))]


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "µ": r"\textmu{}", "–": r"--",
}  # fmt: skip


def _escaped(text: object) -> str:
    return "".join(_LATEX.get(c, c) for c in str(text))


def as_json(frame: pd.DataFrame, head: Mapping[str, Any] | None = None) -> str:
    """Rows as a list of objects under ``rows``, next to the keys of ``head``; unknown values are null."""
    rows = [
        {str(k): (None if v is None or pd.isna(v) else v) for k, v in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]
    return json.dumps({**(head or {}), "rows": rows}, indent=1, default=_plain, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def csv(frame: pd.DataFrame) -> str:
    """Every digit; unknown values are empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def write_table(
    frame: pd.DataFrame,
    *,
    csv_path: str | Path | None = None,
    json_path: str | Path | None = None,
    markdown_path: str | Path | None = None,
    latex_path: str | Path | None = None,
    head: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the table to every path given, all or none; returns what was written. Raises OutputError."""
    outputs: tuple[tuple[str | Path | None, Callable[[], str]], ...] = (
        (csv_path, lambda: csv(frame)),
        (json_path, lambda: as_json(frame, head)),
        (markdown_path, lambda: markdown(display_frame(frame))),
        (latex_path, lambda: latex(display_frame(frame))),
    )
    require_distinct_paths(path for path, _ in outputs)
    texts = {Path(path): make() for path, make in outputs if path is not None}
    write_texts(texts)
    return list(texts)
