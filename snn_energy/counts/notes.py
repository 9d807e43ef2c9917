"""The column ``note``: short English texts that the profiler writes and the audit reads; both directions are here.

    element-wise    NAME [of NATURE] [before weights]    "avg_pool2d of spikes before weights"
    norm            NAME: WHY, of one that does not fold "batch_norm: behind sps.pool (max_pool2d)"
    any that folds  folds into LAYER
    neuron          what it gives besides single spikes  "emits ternary values; spikes counts those that are not zero"
    operation       why its input is real                "average of spikes (avg_pool2d)"

What is not known is left out. Every other text is a name, or a remark of a published source. No torch here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

from snn_energy.counts.columns import INTEGRATES

Nature = Literal["spikes", "sums of spikes", "averages of spikes", "real values", "the network's input"]
NATURES: tuple[Nature, ...] = get_args(Nature)

_ELEMENTWISE = re.compile(rf"(?P<name>.*?)(?: of (?P<nature>{'|'.join(NATURES)}))?(?P<weighted> before weights)?")
_FOLDS = "folds into"
_EMITS = "emits "
_AVERAGE = " (average)"


@dataclass(frozen=True)
class ElementwiseNote:
    """What an element-wise operation is: the function's name, and what it works on, None where not known.

    before_weights: an average that a weight layer or product reads with no neuron in between.
    """

    name: str
    nature: Nature | None = None
    before_weights: bool = False

    @property
    def text(self) -> str:
        """The note."""
        nature = "" if self.nature is None else f" of {self.nature}"
        return f"{self.name}{nature}{' before weights' if self.before_weights else ''}"

    @property
    def averages(self) -> bool:
        """True where the name is that of a pooling that mixes values instead of choosing one of them."""
        return "avg" in self.name or _AVERAGE in self.name or self.name.startswith(("lp_pool", "upsample_bilinear"))


def parse_elementwise(text: str) -> ElementwiseNote:
    """The parts of a note; one that is not of this form is a name alone."""
    match = _ELEMENTWISE.fullmatch(text)
    if match is None:  # several lines
        return ElementwiseNote(text)
    nature = match["nature"]
    return ElementwiseNote(match["name"], nature if _is_nature(nature) else None, match["weighted"] is not None)


def _is_nature(text: str | None) -> TypeGuard[Nature]:
    return text in NATURES


def averaging_name(name: str) -> str:
    """The name of a function that averages; one that does not say so gets a remark."""
    return name if "avg" in name or "mean" in name else f"{name}{_AVERAGE}"


def unfolded_norm(name: str, why: str) -> str:
    """The note of a norm that does not fold into the layer before it."""
    return f"{name}: {why}"


def says_why_unfolded(note: str) -> bool:
    """True where ``unfolded_norm`` wrote the note."""
    return ":" in note


def folded_into(layer: str) -> str:
    """The note of what costs nothing because it folds into a layer, or into ``its readers``."""
    return f"{_FOLDS} {layer}"


def is_folded(note: str) -> bool:
    """True where ``folded_into`` wrote the note."""
    return note.startswith(_FOLDS)


def emitted(kind: Literal["ternary", "integer", "real"], max_k: int | None) -> str:
    """The note of a neuron that gives something else than 0 and one constant. max_k: spikes per step, of integers."""
    if kind == "integer":
        return f"{_EMITS}up to {max_k} spikes per step; spikes counts the neurons that fired"
    also = " (or more spikes per step than max_k)" if kind == "real" else ""
    return f"{_EMITS}{kind} values{also}; spikes counts those that are not zero"


def integrates_only(note: str) -> bool:
    """True for the note of a neuron that keeps a potential and never spikes (a read-out)."""
    return note == INTEGRATES


def is_more_than_spiking(note: str) -> bool:
    """True for the note of a neuron that does something else than give single spikes: read-outs, and ``emitted``."""
    return integrates_only(note) or note.startswith(_EMITS)


def average_read(note: str) -> Literal["spikes", "unknown values"] | None:
    """What was averaged, of an operation whose real input is an average of spikes, or of what is not known."""
    if note.startswith("average of spikes"):
        return "spikes"
    return "unknown values" if note.startswith("average (") else None
