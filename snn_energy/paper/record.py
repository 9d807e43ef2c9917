"""Published results, and the ledger that compares ours with them. No torch here.

A ``Figure`` is one published number, as printed. An entry of the ledger is a figure, our result for it, and why they
differ. Results are read from ``results/record.yaml`` next to the published counts, only by this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from snn_energy.core import bundled
from snn_energy.core.errors import SnnEnergyError
from snn_energy.report.tables import MISSING_TEXT

COLUMNS = ("section", "row", "published", "ours", "low", "high", "residual", "residual_percent", "kind", "why")
CALIBRATED_VARIANT = "4-384 made to its averages"  # variant of our results: the networks of snn_energy.paper.reproduce
FLOAT_DIGITS = 15  # significant decimal digits that every float preserves
OUR_DIGITS = 6  # significant digits of our results that are kept if a row is not exact


@dataclass(frozen=True)
class Figure:
    """A published number. section and row name it; text as printed; kind ``exact`` or ``ledger``.

    significant: digits that must agree, if fewer than those printed. settings: how it was measured.
    """

    section: str
    row: str
    text: str
    kind: str
    significant: int = FLOAT_DIGITS
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)

    def rounded(self, ours: float) -> float:
        """Our result rounded to the compared digits: those printed, at most ``significant`` ones."""
        printed = max(0, -int(Decimal(self.text).as_tuple().exponent))
        leading = math.floor(math.log10(abs(self.value))) + 1 if self.value else 1
        return round(ours, min(printed, self.significant - leading))


@dataclass(frozen=True)
class PublishedRecord:
    """All published results: figures in the order of the file; titles and citations of the sections."""

    figures: tuple[Figure, ...]
    titles: Mapping[str, str]
    citations: Mapping[str, str]

    def figures_of(self, section: str) -> dict[str, Figure]:
        """The figures of a section by row."""
        return {f.row: f for f in self.figures if f.section == section}

    def of_setting(self, setting: str, what: str) -> float:
        """A number of Tables III and IV: accuracy and sa in percent, t_avg, sops_m in millions."""
        return self.figures_of("table_iii_iv")[f"{setting} {what}"].value

    def rate(self, setting: str) -> float:
        """Spikes per neuron and active step (a share) of a setting of Tables III and IV: SA T_max / T_avg."""
        t_max = int(self.figures_of("table_iii_iv")[f"{setting} sa"].settings["t_max"])
        return self.of_setting(setting, "sa") / 100 * t_max / self.of_setting(setting, "t_avg")


def load_record() -> PublishedRecord:
    """The published results bundled with snn_energy. Raises SnnEnergyError if they are missing."""
    tree: Any = YAML(typ="base", pure=True).load(_bundled().read_text(encoding="utf-8"))  # every number as printed
    figures, titles, citations = [], {}, {}
    for name, section in tree["sections"].items():
        titles[name] = section["title"]
        citations[name] = "; ".join(tree["sources"][source] for source in section["source"])
        ledger_rows = tuple(section.get("ledger", ()))
        for row, text, settings in _leaves(section["results"], (), {}):
            kind = "ledger" if row.split(" ")[0] in ledger_rows else section["kind"]
            significant = int(section.get("significant", FLOAT_DIGITS))
            figures.append(Figure(name, row, text, kind, significant, settings))
    return PublishedRecord(tuple(figures), titles, citations)


def _bundled() -> Path:
    """The file of the results: in the package (a wheel) or next to it (a checkout)."""
    folder = bundled.published_counts()
    if folder is None or not (folder / "results" / "record.yaml").is_file():
        raise SnnEnergyError(f"{bundled.PACKAGE}: the published results are missing; install snn_energy again")
    return folder / "results" / "record.yaml"


def _leaves(
    node: Mapping[str, Any], path: tuple[str, ...], settings: Mapping[str, str]
) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Row (the keys that lead to it), text and settings of every number."""
    own = node.get("settings", settings)
    for key, child in node.items():
        if isinstance(child, dict) and key != "settings":
            yield from _leaves(child, (*path, key), own)
        elif key != "settings":
            yield " ".join((*path, key)), child, own


def ledger_row(
    figure: Figure,
    ours: float | None,
    why: str,
    *,
    variant: str = "",
    low: float | None = None,
    high: float | None = None,
    comparable: bool = True,
) -> dict[str, Any]:
    """A row of the ledger. variant: of our results; low, high: the range of ours; residual: ours - published.

    An exact figure's residual is that of the compared digits; None if the two are not comparable.
    """
    exact = figure.kind == "exact"
    compared = None if ours is None else figure.rounded(ours) if exact else _rounded_unless_whole(ours)
    published = figure.rounded(figure.value) if exact else figure.value
    residual = None if compared is None or not comparable else _rounded(compared - published)
    return {
        "section": figure.section,
        "row": f"{figure.row}{f', {variant}' if variant else ''}",
        "published": figure.value,
        "ours": compared if ours is None or not exact else ours,
        "low": None if low is None else _rounded(low),
        "high": None if high is None else _rounded(high),
        "residual": residual,
        "residual_percent": None if residual is None or not figure.value else _rounded(100 * residual / figure.value),
        "kind": figure.kind,
        "why": why,
    }


def _rounded_unless_whole(value: float) -> float:
    """Our result to ``OUR_DIGITS`` digits; whole numbers unchanged."""
    return float(value) if float(value).is_integer() else _rounded(value)


def _rounded(value: float) -> float:
    """A number to ``OUR_DIGITS`` significant digits."""
    return float(f"{value:.{OUR_DIGITS}g}")


def derived(section: str, row: str, published: float | None, ours: float | None, why: str) -> dict[str, Any]:
    """A row whose published number follows from others by arithmetic."""
    text = "nan" if published is None else f"{published:.4g}"
    found = ledger_row(Figure(section, row, text, "ledger"), ours, why)
    return found if published is not None else found | {"published": None, "residual": None, "residual_percent": None}


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The ledger as a frame; missing numbers are NaN."""
    numbers = ("published", "ours", "low", "high", "residual", "residual_percent")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(numbers, "float64"))


def readable(ledger: pd.DataFrame, record: PublishedRecord) -> pd.DataFrame:
    """The ledger as text: published figures as printed, ours to one digit more."""
    printed = {(f.section, f.row): f.text for f in record.figures}
    rows = []
    for row in ledger.to_dict("records"):
        text = printed.get((row["section"], row["row"].split(", ")[0]), _text(row["published"], 4))
        low, high = _text(row["low"]), _text(row["high"])
        rows.append(
            {
                "row": row["row"],
                "published": text,
                "ours": _ours(row["ours"], text, row["kind"] == "exact"),
                "range": MISSING_TEXT if MISSING_TEXT in (low, high) else f"{low} … {high}",
                "residual": _text(row["residual"], 3, sign=True),
                "residual (%)": _text(row["residual_percent"], 3, sign=True),
                "kind": row["kind"],
                "why": row["why"],
            }
        )
    return pd.DataFrame(rows)


def _text(value: Any, digits: int = 4, sign: bool = False) -> str:
    """A number to ``digits`` significant digits, without an exponent; a dash if missing."""
    if value is None or pd.isna(value):
        return MISSING_TEXT
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{float(value):{'+' if sign else ''}.{min(places, 8)}f}"


def _ours(value: Any, printed: str, exact: bool) -> str:
    """Our result to four significant digits and at least the printed decimals; in exact rows one more decimal."""
    if value is None or pd.isna(value):
        return MISSING_TEXT
    places = 0 if printed == MISSING_TEXT else max(0, -int(Decimal(printed).as_tuple().exponent))
    if float(value).is_integer() and not places:
        return f"{float(value):.0f}"
    if not exact:
        text = _text(value)
        return text if len(text.partition(".")[2]) >= places else f"{float(value):.{places}f}"
    return f"{float(value):.{min(places + 1, 15) if places else 0}f}"
