"""The column ``note``: short English texts that the profiler writes and the audit reads; this module does both.

    element-wise    NAME [of NATURE] [before weights]    "avg_pool2d of spikes before weights"
    norm            NAME: WHY, if it does not fold       "batch_norm: behind sps.pool (max_pool2d)"
    folded          folds into LAYER
    neuron          what it emits if not single spikes   "emits ternary values; spikes counts those that are not zero"
    any of these    ...; depends on the other samples of its batch
    operation       why its input is real                "average of spikes (avg_pool2d)"
                    or its other operand                 "other operand: whole multiples of one constant up to 12, ..."

Unknown parts are left out. Any other text is a name, or a remark of a published source. No torch here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

from snn_energy.core.kinds import ValueSet
from snn_energy.counts.columns import INTEGRATES_ONLY_NOTE

Nature = Literal["spikes", "sums of spikes", "averages of spikes", "real values", "the network's input"]
NATURES: tuple[Nature, ...] = get_args(Nature)

_OF_BATCH = "; depends on the other samples of its batch"
_ELEMENTWISE = re.compile(
    rf"(?P<name>.*?)(?: of (?P<nature>{'|'.join(NATURES)}))?(?P<weighted> before weights)?(?:{_OF_BATCH})?"
)
_FOLDS = "folds into"
_EMITS = "emits "
_OTHER = "other operand: "
_AVERAGE = " (average)"


@dataclass(frozen=True)
class ElementwiseNote:
    """An element-wise operation: the function's name, and the nature of its operands, None if unknown.

    before_weights: an average that a weight layer or matrix product reads without a neuron in between.
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
    def is_averaging(self) -> bool:
        """True if the name is that of a pooling that combines values instead of selecting one."""
        return "avg" in self.name or _AVERAGE in self.name or self.name.startswith(("lp_pool", "upsample_bilinear"))


def parse_elementwise(text: str) -> ElementwiseNote:
    """The parts of a note; a note of another form becomes a name only."""
    match = _ELEMENTWISE.fullmatch(text)
    if match is None:  # several lines
        return ElementwiseNote(text)
    nature = match["nature"]
    return ElementwiseNote(match["name"], nature if _is_nature(nature) else None, match["weighted"] is not None)


def _is_nature(text: str | None) -> TypeGuard[Nature]:
    return text in NATURES


def averaging_name(name: str) -> str:
    """The name of a function that averages; " (average)" is appended if the name does not show it."""
    return name if "avg" in name or "mean" in name else f"{name}{_AVERAGE}"


def unfolded_norm_note(name: str, why: str) -> str:
    """The note of a norm that does not fold into the layer before it."""
    return f"{name}: {why}"


def is_unfolded_norm(note: str) -> bool:
    """True if ``unfolded_norm_note`` wrote the note."""
    return ":" in note


def of_batch_note(note: str) -> str:
    """The note of an operation whose results for one sample depend on the other samples of its batch."""
    return f"{note}{_OF_BATCH}"


def depends_on_batch(note: str) -> bool:
    """True if ``of_batch_note`` wrote the note."""
    return note.endswith(_OF_BATCH)


def folded_note(layer: str) -> str:
    """The note of an operation that costs nothing because it folds into a layer, or into ``its readers``."""
    return f"{_FOLDS} {layer}"


def is_folded(note: str) -> bool:
    """True if ``folded_note`` wrote the note."""
    return note.startswith(_FOLDS)


def emission_note(values: ValueSet) -> str:
    """The note of a neuron that emits these values; empty for 0 and one constant."""
    if values.kind == "binary":
        return ""
    if values.kind == "integer":
        return f"{_EMITS}up to {values.max_k} spikes per step; spikes counts the neurons that fired"
    what = values.reason if values.beyond else f"{values.kind} values"
    return f"{_EMITS}{what}; spikes counts those that are not zero"


def operand_note(streamed: ValueSet, other: ValueSet | None) -> str:
    """Why the input of an operation is real, and which of its operands is real only because of max_k; else empty."""
    found = [streamed.reason] if streamed.reason and streamed.reason != "real" else []
    if other is not None and other.beyond:
        found.append(f"{_OTHER}{other.reason}")
    return "; ".join(found)


def of_other_operand(note: str) -> str:
    """The part of a note of ``operand_note`` that is about a product's other operand; empty if there is none."""
    return note[note.index(_OTHER) :] if _OTHER in note else ""


def integrates_only(note: str) -> bool:
    """True for the note of a neuron that keeps a potential and never spikes (a read-out)."""
    return note == INTEGRATES_ONLY_NOTE


def is_not_plain_spiking(note: str) -> bool:
    """True for the note of a neuron that does not emit single spikes: a read-out, or a note of ``emission_note``."""
    return integrates_only(note) or note.startswith(_EMITS)


def averaged_input(note: str) -> Literal["spikes", "unknown values"] | None:
    """What was averaged, if the real input of an operation is an average of spikes or of unknown values."""
    if note.startswith("average of spikes"):
        return "spikes"
    return "unknown values" if note.startswith("average (") else None
