"""The table of counting rules: a rule is a function of one call, registered by the plain names that it counts.

A function of torch is identified by its plain name, without underscores: ``torch.add``, ``Tensor.add_``, ``__iadd__``
and ``aten.add`` are all "add". A rule maps a call to its outcome, without side effects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, TypedDict, Unpack

from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorTrace


@dataclass(frozen=True)
class BatchContext:
    """What all function calls within one call of the model share.

    shape: time steps and samples. step: the time step where the model is called once per step, else None.
    geometries: of the convolutions of this run, by all that they follow from. parameters: names of the model's
    parameters and buffers, by their storage and their offset in it. records: operations of this batch so far.
    """

    shape: BatchShape
    step: int | None = None
    geometries: dict[Hashable, Geometry] = field(default_factory=dict)
    parameters: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    records: Sequence[OperationRecord] = ()


class Call(NamedTuple):
    """One function call that has returned.

    name: the plain name. inputs: tensors that stem from the loader, in order, with their traces. outputs: the returned
    tensors. site: location of the call. in_place: ``add_``, ``__iadd__``, ``__setitem__``.
    """

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    inputs: Sequence[tuple[Tensor, TensorTrace]]
    outputs: Sequence[Tensor]
    site: CallSite
    in_place: bool = False

    @property
    def out(self) -> Tensor:
        """The first result."""
        return self.outputs[0]

    @property
    def traces(self) -> list[TensorTrace]:
        """Traces of the inputs."""
        return [trace for _, trace in self.inputs]

    def bound(self, *names: str) -> dict[str, Any]:
        """Positional and keyword arguments by name; arguments that are not given are absent."""
        found = dict(zip(names, self.args, strict=False))
        found.update({key: value for key, value in self.kwargs.items() if key in names})
        return found

    def trace_of(self, tensor: object) -> TensorTrace | None:
        """The trace of one of the inputs; None for any other tensor."""
        return next((trace for x, trace in self.inputs if x is tensor), None)


class PartCall(NamedTuple):
    """One of the calls that a function is made of."""

    name: str
    args: Sequence[Any]
    out: Tensor


Rule = Callable[[Call, BatchContext, ScanCache], Outcome]
Decomposition = Callable[[Call], Iterator[PartCall]]


@dataclass(frozen=True)
class RuleEntry:
    """A registered rule and its properties.

    count: the rule; None for queries about a tensor, which are not recorded. parts: instead of ``count``, the calls
    that the function is made of. constants_matter: its outcome also depends on the values of tensors that do not stem
    from the loader. is_layer: it computes with weights, products or windows, as layers do. forgets_inputs: it may have
    written to its inputs. writes: it has an effect even if it returns no tensor.
    """

    count: Rule | None = None
    _: KW_ONLY
    parts: Decomposition | None = None
    constants_matter: bool = False
    is_layer: bool = False
    forgets_inputs: bool = False
    writes: bool = False

    @property
    def is_question(self) -> bool:
        """True for a function that only queries a tensor."""
        return self.count is None and self.parts is None


class RuleProperties(TypedDict, total=False):
    """Properties of a rule, as in ``RuleEntry``."""

    constants_matter: bool
    is_layer: bool
    forgets_inputs: bool
    writes: bool


_ENTRIES: dict[str, RuleEntry] = {}


def register(names: Iterable[str], entry: RuleEntry) -> None:
    """Register an entry under plain names. Raises ValueError for a duplicate name or one that is not plain."""
    for name in names:
        if name in _ENTRIES:
            raise ValueError(f"two rules for '{name}'")
        if plain_name(name) != name:
            raise ValueError(f"'{name}' is no plain name: '{plain_name(name)}' is")
        _ENTRIES[name] = entry


def rule(*names: str, **properties: Unpack[RuleProperties]) -> Callable[[Rule], Rule]:
    """Register a rule under plain names, separated by spaces or as several strings, with properties of ``RuleEntry``.

    Raises ValueError for a duplicate name.
    """

    def decorate(count: Rule) -> Rule:
        register((name for text in names for name in text.split()), RuleEntry(count, **properties))
        return count

    return decorate


def decomposition(*names: str) -> Callable[[Decomposition], Decomposition]:
    """Register a function that yields the calls that a layer is made of. Raises ValueError for a duplicate name."""

    def decorate(parts: Decomposition) -> Decomposition:
        register((name for text in names for name in text.split()), RuleEntry(parts=parts, is_layer=True))
        return parts

    return decorate


def find(name: str) -> RuleEntry | None:
    """The rule of a plain name; None if there is none."""
    return _ENTRIES.get(name)


def known_names() -> list[str]:
    """Every registered name, sorted."""
    return sorted(_ENTRIES)


def layer_names() -> frozenset[str]:
    """Names of functions that compute with weights, products or windows."""
    return frozenset(name for name, entry in _ENTRIES.items() if entry.is_layer)


@functools.lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """``__iadd__`` -> add, ``add_`` -> add, ``_softmax`` -> softmax, ``__matmul__`` -> matmul."""
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core in _INPLACE_DUNDERS:
            return core[1:]
        return core[1:] if core in ("radd", "rmul", "rand", "ror", "rxor") else core
    return name.strip("_")


_INPLACE_DUNDERS = frozenset(
    ("iadd", "isub", "imul", "idiv", "itruediv", "imatmul", "iand", "ior", "ixor", "ipow", "ifloordiv", "imod")
)


@functools.lru_cache(maxsize=4096)
def is_in_place(name: str) -> bool:
    """True for ``add_``, ``__iadd__``, ``__setitem__``."""
    if name.startswith("__") and name.endswith("__"):
        return name[2:-2] in _INPLACE_DUNDERS or name == "__setitem__"
    return name.endswith("_") and not name.endswith("__")
