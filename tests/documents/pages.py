"""README.md and the pages under docs/, as the tests read them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in (README, *DOCS)}


def page(name: str) -> str:
    """The text of README.md or of a page under docs/."""
    return TEXTS[README if name == "README.md" else ROOT / "docs" / name]


def section(name: str, title: str) -> str:
    """The text under a heading of a page, up to the next heading of the same or a higher level."""
    level, after = re.split(rf"^(#+) {re.escape(title)}$", page(name), maxsplit=1, flags=re.M)[1:]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.M)[0]


def block(name: str) -> str:
    """What stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, in exactly one of all pages."""
    found = [text.split(f"<!-- table: {name} -->\n")[1:] for text in TEXTS.values()]
    (after,) = [part for parts in found for part in parts]
    return after.split("<!-- end -->", 1)[0]


def rows(table: str) -> list[list[str]]:
    """The cells of a table without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def commands(text: str) -> list[list[str]]:
    """The indented lines that call snn-energy, also by torchrun: its arguments, comments left out."""
    found = []
    for line in re.findall(r"^    (.+)$", text, re.M):
        words = shlex.split(line, comments=True)
        for call in (["snn-energy"], ["-m", "snn_energy"]):
            places = [i for i in range(len(words)) if words[i : i + len(call)] == call]
            found += [words[i + len(call) :] for i in places[:1]]
    return found
