"""Roles of axes: time and samples are followed through reshapes and views, merged with other data or not."""

from __future__ import annotations

from math import prod

import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.roles import (
    BatchShape,
    CompositeAxis,
    Digit,
    Roles,
    broadcast_roles,
    is_complete,
    reshape_roles,
    split_merged,
    stacked_role,
    view_roles,
)

SPAN = BatchShape(2, 3)
SPLITS = [
    ((2, 3, 4), ("T", "B", None)),
    ((4, 2, 3), (None, "T", "B")),
    ((2, 4, 3), ("T", None, "B")),
    ((3, 4, 2), ("B", None, "T")),
    ((3, 2, 4), ("B", "T", None)),
    ((4, 3, 2), (None, "B", "T")),
    ((2, 2, 3, 2), (None, "T", "B", None)),
]


def coordinates(shape: tuple[int, ...], roles: Roles, span: BatchShape = SPAN) -> dict[str, Tensor]:
    """For every element of a tensor its time step and its sample, as its roles tell them."""
    sizes, split = split_merged(shape, roles, span)
    found: dict[str, Tensor] = {}
    for axis, role in enumerate(split):
        along = torch.arange(sizes[axis]).reshape([-1 if i == axis else 1 for i in range(len(sizes))])
        if role == "R":
            found["T"], found["B"] = along // span.samples, along % span.samples
        elif isinstance(role, Digit):
            found[role.atom] = found.get(role.atom, 0) + along * role.step
        elif role is not None:
            found[str(role)] = along
    return {role: values.expand(sizes).reshape(shape) for role, values in found.items()}


def shapes_of(count: int, most: int) -> list[tuple[int, ...]]:
    """Every shape of up to ``most`` axes with this many elements."""
    if most == 1:
        return [(count,)]
    return [(count,)] + [
        (size, *rest)
        for size in range(1, count + 1)
        if count % size == 0
        for rest in shapes_of(count // size, most - 1)
    ]


@pytest.mark.parametrize(("shape", "roles"), SPLITS)
def test_every_role_after_any_reshape_tells_the_truth(shape: tuple[int, ...], roles: Roles) -> None:
    want = coordinates(shape, roles)
    seen = 0
    for new_shape in shapes_of(prod(shape), 3):
        after = reshape_roles(shape, roles, new_shape, SPAN)
        found = coordinates(new_shape, after)
        for role, values in found.items():
            torch.testing.assert_close(values, want[role].reshape(new_shape))
        assert is_complete(new_shape, after, True, SPAN) == (set(found) == {"T", "B"})
        if is_complete(new_shape, after, True, SPAN):
            seen += 1
            assert reshape_roles(new_shape, after, shape, SPAN) == roles
    assert seen > 3


@pytest.mark.parametrize("order", ["TBN", "BTN", "NTB", "TNB", "BNT", "NBT"])
def test_parts_of_time_and_of_samples_are_digits_of_their_index(order: str) -> None:
    """T = 4 and B = 6 can be split: whatever is complete tells the truth, and leads back to where it came from."""
    span, sizes = BatchShape(4, 6), {"T": 4, "B": 6, "N": 2}
    shape = tuple(sizes[letter] for letter in order)
    roles: Roles = tuple(None if letter == "N" else letter for letter in order)
    want, split = coordinates(shape, roles, span), 0
    for new_shape in shapes_of(prod(shape), 4):
        after = reshape_roles(shape, roles, new_shape, span)
        if not is_complete(new_shape, after, True, span):
            continue
        for role, values in coordinates(new_shape, after, span).items():
            torch.testing.assert_close(values, want[role].reshape(new_shape))
        assert reshape_roles(new_shape, after, shape, span) == roles
        split += any(isinstance(role, Digit) for role in after)
    assert split > 10


def test_chunks_of_time_are_complete_together_and_not_alone() -> None:
    span = BatchShape(4, 3)
    chunked = reshape_roles((4, 3, 5), ("T", "B", None), (2, 2, 3, 5), span)
    assert chunked == (Digit("T", 2), Digit("T", 1), "B", None)
    assert is_complete((2, 2, 3, 5), chunked, True, span)
    assert not is_complete((2, 3, 5), (Digit("T", 2), "B", None), True, span)
    assert not is_complete((2, 2, 3), (Digit("T", 2), Digit("T", 2), "B"), True, span)
    assert reshape_roles((2, 3, 10), (Digit("T", 2), "B", CompositeAxis(((Digit("T", 1), 2), (None, 5)))),
                         (2, 3, 2, 5), span) == (Digit("T", 2), "B", Digit("T", 1), None)  # fmt: skip


def test_an_axis_that_holds_samples_and_tokens_has_a_merged_role() -> None:
    assert reshape_roles((3, 4, 5), ("B", None, None), (12, 5), SPAN) == (CompositeAxis((("B", 3), (None, 4))), None)
    assert reshape_roles((4, 3, 5), (None, "B", None), (12, 5), SPAN) == (CompositeAxis(((None, 4), ("B", 3))), None)
    assert reshape_roles((2, 3, 5), ("T", "B", None), (6, 5), SPAN) == ("R", None)
    assert reshape_roles((3, 2, 5), ("B", "T", None), (6, 5), SPAN) == (CompositeAxis((("B", 3), ("T", 2))), None)


def test_a_split_across_the_samples_loses_them() -> None:
    assert reshape_roles((3, 4), ("B", None), (2, 6), SPAN) == (None, None)
    assert reshape_roles((4, 3), (None, "B"), (2, 6), SPAN) == (None, CompositeAxis(((None, 2), ("B", 3))))


def test_a_merged_role_stays_with_its_axis_in_a_view_and_goes_where_the_axis_is_cut() -> None:
    role = CompositeAxis(((None, 4), ("B", 3)))
    assert view_roles((12, 5), (5, 1), (role, None), (5, 12), (1, 5), SPAN) == (None, role)
    assert view_roles((12, 5), (5, 1), (role, None), (3, 5), (5, 1), SPAN) == (None, None)  # x[1:4]: not whole samples


@pytest.mark.parametrize("steps_axis", [0, 1])
def test_two_axes_that_look_alike_in_a_view_are_never_guessed_to_hold_time(steps_axis: int) -> None:
    def forward(self: Does, x: Tensor) -> Tensor:
        heads = x.expand(2, 1, 2).unsqueeze(1).expand(2, 2, 1, 2)  # two steps of two heads; neither moves in memory
        if steps_axis == 0:
            return self.layer(heads * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
        return self.layer(heads.transpose(0, 1) * torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))

    model = Does(forward, 2, layer=nn.Linear(2, 3, bias=False))
    x = torch.tensor([[1.0, 0.0]])
    if steps_axis == 0:  # the axis of time never moved: at every step one head works, on one spike
        assert se.profile(model, [x]).to_frame().query("layer == 'layer'")["sops"].tolist() == [3, 3]
    else:  # no step may be given the work of both heads, and the other none
        with pytest.raises(ProfilingError, match="layer: cannot tell which axes hold time"):
            se.profile(model, [x])


def test_operands_that_disagree_on_an_axis_leave_it_without_role() -> None:
    before, behind = CompositeAxis((("B", 3), (None, 4))), CompositeAxis(((None, 4), ("B", 3)))
    assert broadcast_roles([((12, 5), (before, None)), ((12, 5), (before, None))], (12, 5)) == (before, None)
    assert broadcast_roles([((12, 5), (before, None)), ((12, 5), (behind, None))], (12, 5)) == (None, None)


def test_time_steps_joined_in_front() -> None:
    assert stacked_role(3, "B", SPAN) == "R"
    assert stacked_role(1, None, SPAN) == "T"
    assert stacked_role(4, None, SPAN) == CompositeAxis((("T", 2), (None, 4)))
    assert stacked_role(12, CompositeAxis((("B", 3), (None, 4))), SPAN) == CompositeAxis(
        (("T", 2), ("B", 3), (None, 4))
    )


class Linear(nn.Module):
    """A linear layer between two changes of shape."""

    def __init__(self, before, after=lambda x: x) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.before, self.after, self.fc, self.last = before, after, nn.Linear(8, 8), nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.after(self.fc(self.before(x))))
        return out


ORDERS = {
    "time, samples, tokens": (0, 1, 2, 3),
    "tokens in front": (2, 0, 1, 3),
    "tokens between": (0, 2, 1, 3),
    "sample major": (1, 0, 2, 3),
    "tokens between, sample major": (1, 2, 0, 3),
}


@pytest.mark.parametrize("order", ORDERS)
def test_time_samples_and_tokens_in_one_axis_are_told_apart_in_every_order(order: str) -> None:
    dims = ORDERS[order]
    x = (torch.rand(2, 3, 4, 8) > 0.5).float()
    x[0, 1] = 0
    model = Linear(
        lambda x: x.permute(dims).reshape(-1, 8), lambda x: x.reshape([(2, 3, 4)[d] for d in dims[:3]] + [8])
    )
    frame = se.profile(model, [x], time_steps=2, time="axis0").to_frame()
    rows = frame[frame["layer"] == "fc"]
    assert rows["input_nonzeros"].tolist() == [int(step.count_nonzero()) for step in x]
    assert rows["dense_macs"].tolist() == [3 * 4 * 64] * 2
    assert frame[frame["layer"] == "last"]["dense_macs"].tolist() == [3 * 4 * 40] * 2


def test_a_convolution_over_sample_major_steps_counts_each_step_apart() -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x.transpose(0, 1).reshape(-1, 4, 8))
            return out

    x = (torch.rand(2, 3, 4, 8) > 0.5).float()
    x[0, 1] = 0
    rows = se.profile(Conv(), [x], time_steps=2, time="axis0").to_frame()
    assert rows["sops"].tolist() == [2 * int(step.count_nonzero()) for step in x]
    samples = se.profile(Conv(), [x], time_steps=2, time="axis0").per_sample
    assert samples is not None
    assert samples["sops"].tolist() == [[2 * int(image.count_nonzero()) for image in step] for step in x]
