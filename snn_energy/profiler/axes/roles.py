"""What a tensor's axes hold: time steps, samples, both, or neither; tracked through the network, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ONCE = -1  # time_step of work done once per inference


@dataclass(frozen=True)
class CompositeAxis:
    """The role of an axis that holds time or samples merged with other data.

    parts: (role or None, size) in row-major order, role "T" or "B"; a (B*N) axis has parts (("B", B), (None, N)).
    """

    parts: tuple[tuple[str | None, int], ...]


Role = str | CompositeAxis
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


def is_complete(roles: Roles, timed: bool, span: BatchShape) -> bool:
    """True if the tensor still has every time or sample axis of a size above 1."""
    present = {atom for role in roles for atom, _ in _parts(0, role, span) if atom is not None}
    return set(span.atoms(timed)) <= present


def split_merged(shape: Sequence[int], roles: Roles, span: BatchShape) -> tuple[tuple[int, ...], Roles]:
    """Shape and roles with every CompositeAxis split into one axis per part; other axes are unchanged."""
    parts: list[tuple[Role | None, int]] = []
    for size, role in zip(shape, roles, strict=True):
        parts += _parts(size, role, span) if isinstance(role, CompositeAxis) else [(role, size)]
    return tuple(size for _, size in parts), tuple(role for role, _ in parts)


def stacked_role(size: int, role: Role | None, span: BatchShape) -> Role | None:
    """Role of an axis that concatenates T copies of an axis of this size and role."""
    return _joined_role([("T", span.time_steps), *_parts(size, role, span)], span)


def _parts(size: int, role: Role | None, span: BatchShape) -> list[tuple[str | None, int]]:
    """What an axis of this size and role holds: (role T, B or None, size) in row-major order."""
    if isinstance(role, CompositeAxis):
        return list(role.parts)
    if role == "R":
        return [("T", span.time_steps), ("B", span.samples)]
    return [(role, size)]


def input_roles(dims: int, layout: str | None, span: BatchShape) -> Roles:
    """Roles of a tensor of the loader: layout axis0, axis1, flat or flat-batch; None for only samples in front."""
    time, samples = ("T" if span.time_steps > 1 else None), ("B" if span.samples > 1 else None)
    front: list[Role | None] = [samples]
    if layout in ("axis0", "axis1"):
        front = [time, samples] if layout == "axis0" else [samples, time]
    elif layout in ("flat", "flat-batch"):
        parts = [("T", span.time_steps), ("B", span.samples)]
        front = [_joined_role(parts if layout == "flat" else parts[::-1], span)]
    return (*front, *[None] * (dims - len(front)))


def _joined_role(parts: Sequence[tuple[str | None, int]], span: BatchShape) -> Role | None:
    """The role of one axis that holds these parts in row-major order."""
    kept = tuple(part for part in parts if part[1] != 1)
    named = [role for role, _ in kept]
    if not any(named):
        return None
    if named == ["T", "B"]:
        return merge(True, True, span)
    return named[0] if len(kept) == 1 else CompositeAxis(kept)


def merge(time_axis: bool, sample_axis: bool, span: BatchShape) -> str | None:
    """The role of one axis that holds time steps and samples, time major."""
    if time_axis and span.time_steps > 1:
        return "R" if sample_axis and span.samples > 1 else "T"
    return "B" if sample_axis and span.samples > 1 else None


def _atom_offsets(shape: Sequence[int], roles: Roles, span: BatchShape) -> list[tuple[int, str, int]]:
    """(product of the sizes before it, role T or B, size) of every axis or part that has a role, in row-major order."""
    atoms: list[tuple[int, str, int]] = []
    sizes = {"T": span.time_steps, "B": span.samples}
    outer = 1
    for size, role in zip(shape, roles, strict=True):
        before = outer
        for atom, part in _parts(size, role, span):
            if atom is not None and sizes[atom] == part:
                atoms.append((before, atom, part))
            before *= part
        outer *= size
    return atoms


def reshape_roles(shape: Sequence[int], roles: Roles, new_shape: Sequence[int], span: BatchShape) -> Roles:
    """Roles after a row-major reshape: time and samples are located by their offset, the product of the sizes before.

    They belong to the new axis that spans them: its offset divides theirs, and their end divides its end.
    """
    atoms = _atom_offsets(shape, roles, span)
    found: list[Role | None] = []
    outer = 1
    for size in new_shape:
        end = outer * size
        parts: list[tuple[str | None, int]] = []
        at = outer  # parts cover the axis from its offset up to here
        for offset, role, atom in atoms:
            if size > 1 and offset and outer and offset % at == 0 and end % (offset * atom) == 0 and offset < end:
                parts += [(None, offset // at), (role, atom)]
                at = offset * atom
        found.append(_joined_role([*parts, (None, end // at)], span) if parts else None)
        outer = end
    return tuple(found)


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
