"""The record itself: its file, its balance, its frame, and the activity read off it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import snn_energy as se
from snn_energy.core.errors import CountsError, OutputError
from snn_energy.core.files import write_atomically, write_text
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import COLUMNS, PER_SAMPLE
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.counts.sample_store import samples_path
from snn_energy.models.neurons import DTSS

MakeCounts = Callable[..., Counts]
LINEAR = {
    "op": "linear", "reduction": 4, "positions": 1, "out_channels": 5, "input_elements": 4, "input_nonzeros": 3,
    "dense_macs": 40, "sops": 15, "sops_gated": 15, "sops_multi": 15, "weights": 20,
}  # fmt: skip
PRODUCT = LINEAR | {
    "layer": "p#matmul0", "op": "matmul", "sops": 7, "other_kind": "binary", "other_max_k": 1, "other_elements": 20,
    "other_nonzeros": 9,
}  # fmt: skip
NEURON = {
    "layer": "lif", "op": "neuron", "input_kind": None, "max_k": None, "input_elements": None, "input_nonzeros": None,
    "sops_multi": None, "neurons": 5, "spikes": 6, "membrane_reads": 10, "membrane_writes": 10,
}  # fmt: skip
ROWS = [LINEAR, PRODUCT, NEURON]
PER_SAMPLE_ROWS = {
    "input_nonzeros": [[1, 2], [0, 3], [0, 0]], "other_nonzeros": [[0, 0], [4, 5], [0, 0]],
    "sops": [[5, 10], [0, 7], [0, 0]], "sops_gated": [[5, 10], [0, 15], [0, 0]],
    "sops_multi": [[5, 10], [0, 15], [0, 0]], "spikes": [[0, 0], [0, 0], [5, 1]],
}  # fmt: skip


def balanced(make_counts: MakeCounts, row: int = 0, **changes: Any) -> Counts:
    rows = [r | changes if i == row else r for i, r in enumerate(ROWS)]
    return make_counts(rows, samples=2, time_steps=2, per_sample=PER_SAMPLE_ROWS)


def test_hand_made_counts_balance(make_counts: MakeCounts) -> None:
    assert first_inconsistency(balanced(make_counts)) is None


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        (0, {"sops": 41, "sops_gated": 41}, "sops exceed dense_macs"),
        (0, {"sops_gated": 16}, "sops_gated differ"),
        (0, {"dense_macs": 41}, "dense_macs"),
        (0, {"reduction": 5}, "dense_macs"),
        (0, {"input_nonzeros": 9}, "non-zeros"),
        (0, {"active": False}, "not active"),
        (0, {"input_kind": "odd"}, "input_kind"),
        (0, {"time_step": 2}, "time_step"),
        (0, {"time_step": -2}, "time_step"),
        (0, {"input_nonzeros": 4}, "per-sample input_nonzeros"),
        (0, {"sops_multi": 16}, "per-sample sops_multi"),
        (1, {"sops": 16}, "sops exceed sops_gated"),
        (1, {"sops_gated": 41}, "sops_gated exceed dense_macs"),
        (1, {"other_nonzeros": 41}, "other elements"),
        (1, {"sops": 8}, "per-sample sops "),
        (1, {"sops_gated": 16}, "per-sample sops_gated"),
        (1, {"other_nonzeros": 10}, "per-sample other_nonzeros"),
        (2, {"spikes": 11}, "more spikes"),
        (2, {"spikes": 7}, "per-sample spikes"),
        (2, {"membrane_writes": 9}, "membrane_writes"),
        (2, {"membrane_reads": 11}, "membrane_reads"),
        (2, {"active": False, "spikes": 0}, "not active"),
        (2, {"layer": "p#matmul0"}, "twice"),
    ],
)
def test_every_kind_of_imbalance_is_found(
    row: int, changes: dict[str, Any], said: str, make_counts: MakeCounts, tmp_path: Path
) -> None:
    counts = balanced(make_counts, row, **changes)
    problem = first_inconsistency(counts)
    assert problem is not None
    assert said in problem
    counts.save(tmp_path / "counts.json")
    with pytest.raises(CountsError, match="profile the network again"):
        load_counts(tmp_path / "counts.json")


@pytest.mark.parametrize("column", PER_SAMPLE)
def test_per_sample_counts_of_another_number_of_samples_do_not_fit(column: str, make_counts: MakeCounts) -> None:
    counts = make_counts(ROWS, samples=2, per_sample=PER_SAMPLE_ROWS | {column: np.zeros((3, 3))})
    problem = first_inconsistency(counts)
    assert problem is not None
    assert column in problem


@pytest.mark.parametrize("stem", ["vit", "spik", "dts"])
def test_a_counts_file_reads_back_as_it_was_written(stem: str, counted: Path, tmp_path: Path) -> None:
    counts = load_counts(counted / f"{stem}.json")
    counts.save(tmp_path / f"{stem}.json")
    again = load_counts(tmp_path / f"{stem}.json")
    pd.testing.assert_frame_equal(again.rows, counts.rows)
    assert dict(again.header) == dict(counts.header)
    assert counts.per_sample is not None
    assert again.per_sample is not None
    for name in PER_SAMPLE:
        assert np.array_equal(again.per_sample[name], counts.per_sample[name])
        assert again.per_sample[name].dtype == np.int64
    for name in (f"{stem}.json", f"{stem}.samples.npz"):
        assert (tmp_path / name).read_bytes() == (counted / name).read_bytes()


def test_counts_as_large_as_an_image_net_run_come_back_exactly(make_counts: MakeCounts, tmp_path: Path) -> None:
    large = LINEAR | {"positions": 3, "reduction": 10**9 + 7, "out_channels": 10**8 + 7}
    dense = 3 * (10**9 + 7) * (10**8 + 7)
    large |= {"dense_macs": dense, "sops": dense - 1, "sops_gated": dense - 1, "sops_multi": dense - 1}
    side = {name: [[dense - 1]] for name in ("sops", "sops_gated", "sops_multi")} | {"input_nonzeros": [[3]]}
    make_counts([large], per_sample=side).save(tmp_path / "large.json")
    again = load_counts(tmp_path / "large.json")
    assert int(again.rows["sops"].iloc[0]) == dense - 1
    assert again.per_sample is not None
    assert int(again.per_sample["sops"][0, 0]) == dense - 1


def test_a_file_without_per_sample_counts_is_read_without(make_counts: MakeCounts, tmp_path: Path) -> None:
    make_counts(ROWS, samples=2).save(tmp_path / "a.json")
    assert not samples_path(tmp_path / "a.json").exists()
    assert load_counts(tmp_path / "a.json").per_sample is None


def test_the_file_is_json_with_a_schema_and_a_row_an_operation_and_time_step(counted: Path) -> None:
    document = json.loads((counted / "dts.json").read_text(encoding="utf-8"))
    assert document["schema"] == 1
    assert {"model", "time_steps", "samples", "dataset", "checkpoint_sha256", "accuracy"} <= set(document["header"])
    assert all(set(row) == set(COLUMNS) for row in document["rows"])
    assert len({(row["layer"], row["time_step"]) for row in document["rows"]}) == len(document["rows"])


def test_the_frame_has_the_columns_of_the_contract_and_is_a_copy(make_counts: MakeCounts) -> None:
    counts = balanced(make_counts)
    frame = counts.to_frame()
    assert list(frame.columns) == [*COLUMNS, "sops_rate_based"]
    assert frame["sops_rate_based"].tolist()[:2] == pytest.approx([3 / 8 * 40, 3 / 8 * 40])
    assert frame["sops_rate_based"].isna().tolist() == [False, False, True]
    frame["sops"] = 0
    assert counts.rows["sops"].sum() == 22


# --- Activity -----------------------------------------------------------------------------------------------


def dtss(time_steps: int, t_l: int) -> DTSS:
    layer = DTSS(time_steps, v_th=0.5, leak=0.0)
    with torch.no_grad():
        layer.tp.zero_()
        if t_l:
            layer.tp[t_l - 1] = 1.5
    return layer


def ones(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def test_activity_is_what_one_works_out_on_paper() -> None:
    """Four steps, two samples, 2 -> 3 neurons (T_l = 2) -> 1 neuron (T_l = 4); without leak inputs are outputs."""
    model = nn.Sequential(ones(2, 3), dtss(4, 2), ones(3, 1), dtss(4, 4))
    x = torch.zeros(4, 2, 2)
    x[0, 0] = 1  # sample 0 fires at steps 0 and 3, and step 3 is masked; sample 1 fires at step 1
    x[3, 0] = 1
    x[1, 1, 0] = 1
    counts = se.profile(model, [x], time_steps=4, time="axis0")
    layers = counts.spiking_layers().set_index("layer")
    assert layers["neurons"].tolist() == [3, 1]
    assert layers["t_l"].tolist() == [2, 4]
    assert layers["spikes"].tolist()[0] == 3 + 3
    last = int(layers["spikes"].iloc[1])
    assert last >= 2
    assert layers["rate"].tolist() == pytest.approx([6 / (3 * 4 * 2), last / (4 * 2)])
    assert layers["rate_active"].tolist() == pytest.approx([6 / (3 * 2 * 2), last / (4 * 2)])
    assert layers["spikes_per_neuron"].tolist() == pytest.approx([6 / 6, last / 2])
    activity = counts.activity()
    assert activity["t_avg"] == 3
    assert activity["sa"] == pytest.approx((6 + last) / (4 * 4 * 2))
    assert activity["mean_layer_rate"] == pytest.approx((6 / 24 + last / 8) / 2)
    assert activity["rate_active"] == pytest.approx((6 + last) / ((3 * 2 + 1 * 4) * 2))
    assert (activity["dead_layers"], activity["silent_layers"]) == ([], [])
    # inputs of the first layer: 5 ones feed 3 outputs each; of the second: 6 spikes feed 1 output each
    assert activity["sops_per_sample"] == pytest.approx((5 * 3 + 6 * 1) / 2)
    assert activity["real_macs_per_sample"] == 0


def test_dead_and_silent_layers_are_told_apart() -> None:
    model = nn.Sequential(ones(2, 3), dtss(2, 0), ones(3, 1), dtss(2, 2))
    activity = se.profile(model, [torch.ones(2, 1, 2)], time_steps=2, time="axis0").activity()
    assert activity["dead_layers"] == ["1"]
    assert activity["silent_layers"] == ["3"]
    assert activity["sa"] == 0


def test_a_network_without_spiking_layers_has_no_activity(counted: Path) -> None:
    activity = load_counts(counted / "vit.json").activity()
    assert activity["spiking_layers"] == 0
    assert activity["t_avg"] is None
    assert activity["sa"] is None
    assert activity["real_macs_per_sample"] > 0


# --- Files --------------------------------------------------------------------------------------------------


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("fault", [BrokenError, KeyboardInterrupt, OSError])
def test_a_writer_that_fails_leaves_the_old_file_and_no_other(fault: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old", encoding="utf-8")

    def half(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise fault

    with pytest.raises(OutputError if fault is OSError else fault):
        write_atomically(path, half)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_with_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "µ")
    (tmp_path / "plain").write_text("µ", encoding="utf-8")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "plain").read_bytes()


def changed(text: str, change: tuple[str, str]) -> str:
    assert change[0] in text, change
    return text.replace(change[0], change[1], 1)


@pytest.mark.parametrize(
    "change",
    [
        ('"op": "add"', '"op": "pool"'),
        ('"weights": 1152', '"weights": 0'),
        ('"time_steps": 4', '"time_steps": 8'),
        ('"input_elements": 2048', '"input_elements": 1000000000000'),
        ('"convention": 1', '"convention": 99'),
        ('"seed": 0', '"seed": 0, "seed": 0'),
        ('"input_kind": "binary"', '"input_kind": "ternary"'),
    ],
)
def test_an_edit_that_leaves_the_books_balanced_is_seen(change: tuple[str, str], tmp_path: Path) -> None:
    demo = Path(__file__).resolve().parents[2] / "reports" / "demo"
    side = "dts-spikformer-2-64.samples.npz"
    (tmp_path / side).write_bytes((demo / side).read_bytes())
    text = (demo / "dts-spikformer-2-64.json").read_text(encoding="utf-8")
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert load_counts(tmp_path / "a.json").samples == 360
    (tmp_path / "a.json").write_text(changed(text, change), encoding="utf-8")
    with pytest.raises(CountsError, match=r"a\.json"):
        load_counts(tmp_path / "a.json")


def test_samples_in_another_order_are_seen(tmp_path: Path) -> None:
    demo = Path(__file__).resolve().parents[2] / "reports" / "demo"
    side = "dts-spikformer-2-64.samples.npz"
    with np.load(demo / side) as archive:
        arrays = {name: archive[name][:, ::-1] for name in archive}
    np.savez(tmp_path / side, **arrays)
    (tmp_path / "a.json").write_bytes((demo / "dts-spikformer-2-64.json").read_bytes())
    with pytest.raises(CountsError, match="content_sha256"):
        load_counts(tmp_path / "a.json")
