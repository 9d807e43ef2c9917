"""300 random whole networks: every row of their profiles equals a brute-force count of what their layers read."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import compare
import describe
import expected
import fuzz
import network
import numpy as np
import pytest
import shrink
import torch
import values
from torch import Tensor

import snn_energy as se

NETWORKS, PER_TEST = 300, 15
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # what frameworks and torch warn of
]


@pytest.fixture(autouse=True)
def _cross_check_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer sets it by seed."""
    monkeypatch.setenv(fuzz.CROSS_CHECK, "1")


@pytest.mark.parametrize("first", range(0, NETWORKS, PER_TEST))
def test_random_networks_are_counted_as_brute_force_counts_them(first: int) -> None:
    found = {seed: fuzz.faults_of(describe.describe(seed)) for seed in range(first, first + PER_TEST)}
    failed = {seed: faults for seed, faults in found.items() if faults}
    assert not failed, "\n".join(fuzz.report(describe.describe(seed), faults) for seed, faults in failed.items())


def test_the_networks_are_of_all_families_layers_and_layouts() -> None:
    """Whatever the generator stops making would not be tested any more."""
    made = [describe.describe(seed) for seed in range(NETWORKS)]
    assert {one["family"] for one in made} == set(describe.FAMILIES)
    assert {(one["family"], one["style"]) for one in made} == {
        (family, style) for family, styles in describe.STYLES.items() for style in styles
    }
    assert {node["op"] for one in made for node in one["nodes"]} == {
        "linear", "conv", "convt", "bn", "ln", "gn", "lif", "relu", "sigmoid", "dropout", "scale", "add", "cat",
        "flatten", "maxpool", "avgpool", "token", "token_mean", "qk", "av", "kv", "qs", "softmax", "sdpa", "again",
    }  # fmt: skip
    assert {one["dtype"] for one in made} == {"float32", "float64", "bfloat16"}
    assert {len(node["kernel"]) for one in made for node in one["nodes"] if node["op"] == "conv"} == {1, 2, 3}
    for name in ("channels_last", "tells_time", "name_neurons"):
        assert {one[name] for one in made} == {True, False}, name
    masked = [node["mask"] for one in made for node in one["nodes"] if "mask" in node]
    assert {0, 1, 2, 3, 4} == set(masked)


def test_most_networks_are_counted_and_their_neurons_fire() -> None:
    """A refusal is allowed where time or neurons are not told; were most refused, or silent, nothing would be shown."""
    counted = spiking = kinds = 0
    seen_kinds: set[str] = set()
    for seed in range(0, 90):
        made = describe.describe(seed)
        batches = network.data(made)
        rows = expected.expect(made, compare.observed(made, batches)).rows
        seen_kinds |= {row.columns["input_kind"] for row in rows.values() if "input_kind" in row.columns}
        fired = [row.columns["spikes"] for key, row in rows.items() if key[1] == "neuron"]
        spiking += any(fired)
        kinds += bool(fired)
        counted += made["tells_time"]
    assert seen_kinds == {"binary", "ternary", "integer", "real"}
    assert spiking >= 0.7 * kinds
    assert counted >= 60


# --- the oracle, against loops ------------------------------------------------------------------------------------


def layers_with_inputs(op: str, most: int) -> list[tuple[dict[str, Any], Tensor]]:
    """Some layers of described networks, with an input of non-zeros at random places."""
    found, rng = [], np.random.default_rng(0)
    for seed in itertools.count():
        made = describe.describe(seed)
        for node in made["nodes"]:
            if node["op"] == op and math.prod(node["out"]) < 150:
                shape = shrink.shape_of(made, node["in"][0])
                found.append((node, torch.from_numpy((rng.random((2, *shape)) < 0.5).astype(np.float64))))
        if len(found) >= most:
            return found[:most]
    raise AssertionError


def by_loops(node: dict[str, Any], x: Tensor) -> list[int]:
    """(input, weight) pairs that meet, per sample: every output, every channel of its group, every tap."""
    channels, (out, *out_space) = x.shape[1], node["out"]
    dilation, stride, groups = node["dilation"], node["stride"], node["groups"]
    same = [dilation * (k - 1) // 2 for k in node["kernel"]]
    before = same if node["padding"] == "same" else node["padding"]
    totals = []
    for sample in x.numpy():
        total = 0
        for channel in range(channels):
            for at in itertools.product(*map(range, x.shape[2:])):
                if not sample[(channel, *at)]:
                    continue
                for tap in itertools.product(*map(range, node["kernel"])):
                    if node["op"] == "convt":
                        lands = [i * stride - p + t * dilation for i, p, t in zip(at, before, tap, strict=True)]
                        total += all(0 <= o < size for o, size in zip(lands, out_space, strict=True))
                        continue
                    from_here = [i + p - t * dilation for i, p, t in zip(at, before, tap, strict=True)]
                    total += all(
                        o % stride == 0 and 0 <= o // stride < size
                        for o, size in zip(from_here, out_space, strict=True)
                    )
        totals.append(total * (out // groups))
    return totals


@pytest.mark.parametrize(("op", "most"), [("conv", 25), ("convt", 12)])
def test_the_oracle_counts_convolutions_as_loops_do(op: str, most: int) -> None:
    for node, x in layers_with_inputs(op, most):
        assert expected.meetings(node, x).tolist() == by_loops(node, x), node


def test_the_oracle_counts_products_as_loops_do() -> None:
    generator = torch.Generator().manual_seed(0)
    for op, shapes in {"qk": [(3, 4), (3, 4)], "kv": [(3, 4), (3, 4)]}.items():
        x = [(torch.rand(2, *shape, generator=generator) < 0.5).double() for shape in shapes]
        node = {"op": op, "heads": 2, "out": [2, 3, 3]}
        left, right = values.operands(node, x)
        row = expected.product_row(node, x, [expected.Kind("binary", 1.0, 1)] * 2, {"active": True})
        by_hand = [
            sum(
                int(left[b, h, m, k] and right[b, h, k, n])
                for h in range(2)
                for m in range(left.shape[2])
                for n in range(right.shape[3])
                for k in range(left.shape[3])
            )
            for b in range(2)
        ]
        assert row.per_sample["sops"].tolist() == by_hand


@pytest.mark.parametrize(
    ("given", "kind", "max_k"),
    [([0, 0], "binary", 1), ([0, 0.5], "binary", 1), ([-2, 0, 2], "ternary", 1), ([1, 3], "integer", 3),
     ([2, 4], "integer", 2), ([-1, 2], "integer", 2), ([1, 1 + 1e-3], "real", None), ([1, 13], "real", None)],
)  # fmt: skip
def test_the_oracle_knows_the_kinds(given: list[float], kind: str, max_k: int | None) -> None:
    found = expected.kind_of(torch.tensor(given, dtype=torch.float32), 12)
    assert (found.name, found.max_k) == (kind, max_k)


# --- what a fault looks like --------------------------------------------------------------------------------------


def test_a_wrong_count_is_found_shrunk_and_can_be_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profiler that takes one spike from every sum of 0.5 and more, say, is caught."""
    profile, made = se.profile, describe.describe(9)  # an own LIF network
    assert made["family"] == "own"

    def wrong(*args: Any, **kwargs: Any) -> se.Counts:
        counts = profile(*args, **kwargs)
        counts.rows.loc[counts.rows["op"].isin(("conv", "linear")), "sops"] += 1
        return counts

    monkeypatch.setattr(se, "profile", wrong)
    monkeypatch.chdir(tmp_path)
    found = fuzz.faults_of(made)
    assert any(" sops: " in fault for fault in found)
    text = fuzz.report(made, found)
    assert "python tests/differential/fuzz.py --networks 1 --seed 9" in text
    small = shrink.shrunk(made, lambda one: bool(fuzz.faults_of(one)), 100)
    assert len(small["nodes"]) == 1
    assert (small["time_steps"], small["batches"]) == (1, [1])


@pytest.mark.parametrize("column", ["sops", "dense_macs", "spikes", "input_nonzeros", "weights", "active", "needed"])
def test_no_column_is_left_uncompared(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = se.profile

    def wrong(*args: Any, **kwargs: Any) -> se.Counts:
        counts = profile(*args, **kwargs)
        is_flag = column in ("active", "needed")
        counts.rows[column] = ~counts.rows[column] if is_flag else counts.rows[column] + 1
        return counts

    monkeypatch.setattr(se, "profile", wrong)
    assert any(f" {column}: " in fault for fault in fuzz.faults_of(describe.describe(9)))


def test_the_fuzzer_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, fuzz.__file__, "--networks", "2", "--flows", "1", "--seed", "7"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3 networks, 0 failed")
