"""Einsum equations of two operands, letter by letter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape, Role, Roles, joined_role, reshape_roles


class Letters(NamedTuple):
    """A two-operand einsum as a batched product: (batch, m, summed) x (batch, summed, n) -> result, as letters."""

    left: list[str]
    right: list[str]
    result: list[str]

    @property
    def shared(self) -> list[str]:
        """Letters of both operands, in the order of the left one."""
        return [c for c in self.left if c in self.right]

    @property
    def batch(self) -> list[str]:
        """Letters of both operands and the result."""
        shared = self.shared
        return [c for c in self.result if c in shared]

    @property
    def summed(self) -> list[str]:
        """Letters of both operands that the result lacks."""
        return [c for c in self.shared if c not in self.result]

    @property
    def m(self) -> list[str]:
        """Letters of the left operand only."""
        return [c for c in self.left if c not in self.right]

    @property
    def n(self) -> list[str]:
        """Letters of the right operand only."""
        return [c for c in self.right if c not in self.left]

    def sizes(self, left: Tensor, right: Tensor) -> Mapping[str, int]:
        """Letter -> size of its axis."""
        return dict(zip(self.left + self.right, [*left.shape, *right.shape], strict=True))

    def as_matrices(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The operands as (*batch, M, K) and (*batch, K, N)."""
        sizes = self.sizes(left, right)
        batch = [sizes[c] for c in self.batch]
        m, k, n = (math.prod(sizes[c] for c in group) for group in (self.m, self.summed, self.n))
        a = left.permute([self.left.index(c) for c in self.batch + self.m + self.summed])
        b = right.permute([self.right.index(c) for c in self.batch + self.summed + self.n])
        return a.reshape(*batch, m, k), b.reshape(*batch, k, n)

    def roles_as_matrices(
        self, operands: tuple[Tensor, Tensor], roles: tuple[Roles, Roles], span: BatchShape
    ) -> tuple[Roles, Roles]:
        """Roles of the operands as (*batch, M, K) and (*batch, K, N)."""
        sides = ((self.left, [self.m, self.summed]), (self.right, [self.summed, self.n]))
        found: list[Roles] = []
        for x, own, (letters, groups) in zip(operands, roles, sides, strict=True):
            sizes = dict(zip(letters, x.shape, strict=True))
            role_of: dict[str, Role | None] = dict(zip(letters, own, strict=True))
            joined = [joined_role([(role_of[c], sizes[c]) for c in group], span) for group in groups]
            found.append((*(role_of[c] for c in self.batch), *joined))
        return found[0], found[1]

    def result_roles(self, operands: tuple[Tensor, Tensor], roles: Roles, span: BatchShape) -> Roles:
        """Roles of the result in its own order, from those of (*batch, M, N)."""
        sizes = self.sizes(*operands)
        order = [*self.batch, *self.m, *self.n]
        merged = [*(sizes[c] for c in self.batch), *(math.prod(sizes[c] for c in group) for group in (self.m, self.n))]
        role_of = dict(zip(order, reshape_roles(merged, roles, [sizes[c] for c in order], span), strict=True))
        return tuple(role_of[c] for c in self.result)


def letters_of(equation: object, operands: Sequence[Tensor]) -> Letters | None:
    """Letters of a plain two-operand einsum, or None: no ellipsis, no diagonals, no letter summed on one side."""
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    text = _without_ellipsis(equation.replace(" ", ""), operands)
    if text is None:
        return None
    inputs, _, result = text.partition("->")
    sides = inputs.split(",")
    if len(sides) != 2:
        return None
    left, right = list(sides[0]), list(sides[1])
    if "->" not in text:
        result = "".join(sorted(c for c in set(inputs) - {","} if inputs.count(c) == 1))
    if any(len(set(side)) != len(side) for side in (left, right, list(result))):
        return None
    if any(c not in result and not (c in left and c in right) for c in left + right):
        return None
    return Letters(left, right, list(result))


def _without_ellipsis(text: str, operands: Sequence[Tensor]) -> str | None:
    """An einsum equation with its ellipsis replaced by letters; None if its axes differ between the operands."""
    if "..." not in text:
        return None if "." in text else text
    inputs, arrow, result = text.partition("->")
    sides = inputs.split(",")
    if len(sides) != len(operands) or not arrow:
        return None
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in text]
    shapes = [
        tuple(x.shape[(at := side.index("...")) : at + x.dim() - len(side) + 3])
        for side, x in zip(sides, operands, strict=True)
        if "..." in side
    ]
    longest = max(shapes, key=len, default=())
    if any(shape != longest[len(longest) - len(shape) :] for shape in shapes) or len(longest) > len(free):
        return None
    letters = "".join(free[: len(longest)])
    written = []
    for side, x in zip(sides, operands, strict=True):
        count = x.dim() - len(side) + 3 if "..." in side else 0
        written.append(side.replace("...", letters[len(letters) - count :]))
    return ",".join(written) + "->" + result.replace("...", letters)
