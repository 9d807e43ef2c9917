"""What a tensor's axes hold: time steps, samples, both, or neither; tracked through the network, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ONCE = -1  # time_step of work done once per inference
SOME_SAMPLES = "b"  # role of an axis that holds the samples that a mask or an index selects
PART_OF_TIME = "t"  # role of an axis that holds more or fewer than all T time steps, in their order


@dataclass(frozen=True)
class Digit:
    """The role of an axis that holds one digit of the time or sample index, which is a sum of step * position.

    T = 4 steps in two chunks of two: Digit("T", 2) on the axis of chunks, Digit("T", 1) on that within a chunk.
    """

    atom: str
    step: int


@dataclass(frozen=True)
class CompositeAxis:
    """The role of an axis that holds time or samples merged with other data.

    parts: (role or None, size) in row-major order, role "T", "B" or a Digit; a (B*N) axis has parts
    (("B", B), (None, N)).
    """

    parts: tuple[tuple[str | Digit | None, int], ...]


PartRole = str | Digit | None
Role = str | Digit | CompositeAxis
Roles = tuple[Role | None, ...]


@dataclass(frozen=True)
class BatchShape:
    """How many time steps and samples the tensors of one forward pass hold."""

    time_steps: int
    samples: int

    def rows(self, timed: bool) -> int:
        """Number of rows of a tensor: T*B if it has time, else B."""
        return self.time_steps * self.samples if timed else self.samples

    def atoms(self, timed: bool) -> dict[str, int]:
        """The roles that a tensor's axes must have, with their sizes (axes of size 1 have none)."""
        sizes = {"T": self.time_steps, "B": self.samples} if timed else {"B": self.samples}
        return {role: size for role, size in sizes.items() if size > 1}


def role_positions(roles: Roles) -> dict[Role, int]:
    """Role -> axis."""
    return {role: axis for axis, role in enumerate(roles) if role is not None}


def digits_of(atom: str, size: int, role: Role | None, span: BatchShape) -> list[tuple[int, int]]:
    """(step, size) of every digit of time ("T") or samples ("B") on an axis of this size and role, in its order."""
    found = []
    for part, part_size in _parts(size, role, span):
        if part == atom or (isinstance(part, Digit) and part.atom == atom):
            found.append((part.step if isinstance(part, Digit) else 1, part_size))
    return found


def has_atom(atom: str, role: Role | None, span: BatchShape) -> bool:
    """True if an axis holds time ("T") or samples ("B"), whole, in part, or merged with other data."""
    if role is None:
        return False
    return bool(digits_of(atom, 1, role, span)) or (atom == "T" and has_part_of_time(role, span))


def has_part_of_time(role: Role | None, span: BatchShape) -> bool:
    """True if an axis holds more or fewer than all time steps."""
    return role is not None and any(part == PART_OF_TIME for part, _ in _parts(1, role, span))


def without_atom(atom: str, size: int, role: Role | None, span: BatchShape) -> Role | None:
    """The role of an axis of which the digits of time ("T") or samples ("B") are no longer followed."""
    kept = [
        (None if part == atom or (isinstance(part, Digit) and part.atom == atom) else part, part_size)
        for part, part_size in _parts(size, role, span)
    ]
    return _joined_role(kept, span)


def is_composite(role: Role | None) -> bool:
    """True for the role of an axis that holds time or samples merged with other data, or with each other."""
    return isinstance(role, CompositeAxis) or role == "R"


def is_whole(digits: Sequence[tuple[int, int]], size: int) -> bool:
    """True if digits (step, size), in any order, make up an index of this size, each position once."""
    expected = 1
    for step, part in sorted(digits):
        if step != expected:
            return False
        expected *= part
    return expected == size


def holds(atom: str, shape: Sequence[int], roles: Roles, span: BatchShape) -> bool:
    """True if axes of these sizes and roles hold all time steps ("T") or all samples ("B")."""
    size = span.time_steps if atom == "T" else span.samples
    return is_whole([d for n, role in zip(shape, roles, strict=True) for d in digits_of(atom, n, role, span)], size)


def is_complete(shape: Sequence[int], roles: Roles, timed: bool, span: BatchShape) -> bool:
    """True if the tensor still has every time or sample axis of a size above 1."""
    return all(holds(atom, shape, roles, span) for atom in span.atoms(timed))


def front_axes(shape: Sequence[int], roles: Roles, timed: bool, span: BatchShape) -> list[int]:
    """Axes of time, if timed, and samples, time major; the roles must not be merged with other data."""
    found: list[tuple[str, int, int]] = []
    for axis, (size, role) in enumerate(zip(shape, roles, strict=True)):
        for atom in ("T", "B") if timed else ("B",):
            found += [(atom, step, axis) for step, _ in digits_of(atom, size, role, span)]
    ordered = sorted(found, key=lambda entry: (entry[0] == "B", -entry[1]))
    return list(dict.fromkeys(axis for _, _, axis in ordered))  # an "R" axis stands for both


def split_merged(shape: Sequence[int], roles: Roles, span: BatchShape) -> tuple[tuple[int, ...], Roles]:
    """Shape and roles with every CompositeAxis split into one axis per part; other axes are unchanged."""
    parts: list[tuple[Role | None, int]] = []
    for size, role in zip(shape, roles, strict=True):
        parts += _parts(size, role, span) if isinstance(role, CompositeAxis) else [(role, size)]
    return tuple(size for _, size in parts), tuple(role for role, _ in parts)


def split_axis(size: int, role: Role | None, span: BatchShape) -> tuple[tuple[int, ...], Roles]:
    """Sizes and roles of the parts of one axis."""
    return split_merged((size,), (role,), span)


def stacked_role(size: int, role: Role | None, span: BatchShape) -> Role | None:
    """Role of an axis that concatenates T copies of an axis of this size and role."""
    parts: list[tuple[PartRole, int]] = [("T", span.time_steps), *_parts(size, role, span)]
    return _joined_role(parts, span)


def _parts(size: int, role: Role | None, span: BatchShape) -> list[tuple[PartRole, int]]:
    """What an axis of this size and role holds: (role T, B, a Digit of them or None, size) in row-major order."""
    if isinstance(role, CompositeAxis):
        return list(role.parts)
    if role == "R":
        return [("T", span.time_steps), ("B", span.samples)]
    return [(role, size)]


def input_roles(dims: int, layout: str | None, span: BatchShape) -> Roles:
    """Roles of a tensor of the loader: of layout axis0, axis1, axis-last, flat, flat-batch, or None: samples alone."""
    time, samples = ("T" if span.time_steps > 1 else None), ("B" if span.samples > 1 else None)
    front: list[Role | None] = [samples]
    if layout in ("axis0", "axis1"):
        front = [time, samples] if layout == "axis0" else [samples, time]
    elif layout == "axis-last":
        return (samples, *[None] * (dims - 2), time)
    elif layout in ("flat", "flat-batch"):
        parts: list[tuple[PartRole, int]] = [("T", span.time_steps), ("B", span.samples)]
        front = [_joined_role(parts if layout == "flat" else parts[::-1], span)]
    return (*front, *[None] * (dims - len(front)))


def joined_role(axes: Sequence[tuple[Role | None, int]], span: BatchShape) -> Role | None:
    """The role of one axis that holds these axes (role, size) in row-major order."""
    return _joined_role([part for role, size in axes for part in _parts(size, role, span)], span)


def _joined_role(parts: Sequence[tuple[PartRole, int]], span: BatchShape) -> Role | None:
    """The role of one axis that holds these parts in row-major order; adjacent digits of one index are one."""
    kept: list[tuple[PartRole, int]] = []
    for role, size in parts:
        if size == 1:
            continue
        before, before_size = kept[-1] if kept else (None, 0)
        if role is None and before is None and kept:
            kept[-1] = None, before_size * size
        elif isinstance(role, Digit) and isinstance(before, Digit) and _continues(before, role, size):
            kept[-1] = _whole_or_digit(role.atom, role.step, before_size * size, span), before_size * size
        else:
            kept.append((role, size))
    named = [role for role, _ in kept]
    if not any(named):
        return None
    if named == ["T", "B"]:
        return merge(True, True, span)
    return named[0] if len(kept) == 1 else CompositeAxis(tuple(kept))


def _continues(high: Digit, low: Digit, low_size: int) -> bool:
    """True if two adjacent digits make up one."""
    return high.atom == low.atom and high.step == low.step * low_size


def _whole_or_digit(atom: str, step: int, size: int, span: BatchShape) -> str | Digit:
    """The role of a digit: that of the whole index where it is all of it."""
    whole = span.time_steps if atom == "T" else span.samples
    return atom if step == 1 and size == whole else Digit(atom, step)


def merge(time_axis: bool, sample_axis: bool, span: BatchShape) -> str | None:
    """The role of one axis that holds time steps and samples, time major."""
    if time_axis and span.time_steps > 1:
        return "R" if sample_axis and span.samples > 1 else "T"
    return "B" if sample_axis and span.samples > 1 else None


class _Extent(NamedTuple):
    """Where a part of a tensor's row-major index lies: from the product of the sizes before it to that with it."""

    begin: int
    end: int
    role: str | Digit


def _extents(shape: Sequence[int], roles: Roles, span: BatchShape) -> list[_Extent]:
    """The extents of all axes and parts that have a role, in row-major order."""
    found: list[_Extent] = []
    outer = 1
    for size, role in zip(shape, roles, strict=True):
        before = outer
        for part, part_size in _parts(size, role, span):
            if part is not None and part_size > 1:
                found.append(_Extent(before, before * part_size, part))
            before *= part_size
        outer *= size
    return found


def reshape_roles(shape: Sequence[int], roles: Roles, new_shape: Sequence[int], span: BatchShape) -> Roles:
    """Roles after a row-major reshape: time and samples are located by their extents.

    A new axis holds a part whose extent lies within its own, and a digit of one that reaches beyond it, where the
    sizes divide each other; else what the axis holds is not followed.
    """
    extents = _extents(shape, roles, span)
    found: list[Role | None] = []
    begin = 1
    for size in new_shape:
        found.append(_role_within(begin, begin * size, extents, span) if size > 1 and begin else None)
        begin *= size
    return tuple(found)


def _role_within(begin: int, end: int, extents: Sequence[_Extent], span: BatchShape) -> Role | None:
    """The role of a new axis with this extent."""
    parts: list[tuple[PartRole, int]] = []
    at = begin  # the parts cover the axis from its begin up to here
    for extent in extents:
        low, high = max(begin, extent.begin), min(end, extent.end)
        if low >= high or low % at or any(b % a for a, b in ((extent.begin, low), (low, high), (high, extent.end))):
            continue
        if end % high == 0 and (role := _cut(extent, low, high, span)) is not None:
            parts += [(None, low // at), (role, high // low)]
            at = high
    return _joined_role([*parts, (None, end // at)], span) if parts else None


def _cut(extent: _Extent, low: int, high: int, span: BatchShape) -> str | Digit | None:
    """The role of the part of an extent from low to high."""
    role = extent.role
    if (low, high) == (extent.begin, extent.end):
        return role
    if role in (PART_OF_TIME, SOME_SAMPLES):
        return None
    atom, step = (role.atom, role.step) if isinstance(role, Digit) else (role, 1)
    return _whole_or_digit(atom, step * (extent.end // high), high // low, span)


def view_roles(
    shape: Sequence[int],
    strides: Sequence[int],
    roles: Roles,
    new_shape: Sequence[int],
    new_strides: Sequence[int],
    span: BatchShape,
) -> Roles:
    """Roles after any view (permute, select, unflatten, ...) of the same memory: size and stride identify an axis."""
    marks: dict[Role, tuple[int, int]] = {}
    for size, stride, role in zip(shape, strides, roles, strict=True):
        if role == "R":
            marks["R"] = (size, stride)
            marks["T"], marks["B"] = (span.time_steps, stride * span.samples), (span.samples, stride)
        elif role is not None:
            marks[role] = (size, stride)
    if "T" in marks and "B" in marks and marks["T"][1] == marks["B"][1] * span.samples:
        marks["R"] = (span.time_steps * span.samples, marks["B"][1])
    found: list[Role | None] = [None] * len(new_shape)
    for role, mark in marks.items():
        axes = [axis for axis, pair in enumerate(zip(new_shape, new_strides, strict=True)) if pair == mark]
        if len(axes) == 1:
            found[axes[0]] = role
    return tuple(found)


def broadcast_roles(shapes_and_roles: Sequence[tuple[Sequence[int], Roles]], new_shape: Sequence[int]) -> Roles:
    """Roles of an element-wise result: axes are aligned from the right; only axes of full size keep a role.

    An axis that has different roles in two operands has none in the result.
    """
    found: list[Role | None] = [None] * len(new_shape)
    clash: set[int] = set()
    for shape, roles in shapes_and_roles:
        for back in range(1, min(len(roles), len(new_shape)) + 1):
            role = roles[-back]
            if role is not None and shape[-back] == new_shape[-back]:
                if found[-back] not in (None, role):
                    clash.add(back)
                found[-back] = role
    for back in clash:
        found[-back] = None
    return tuple(found)
