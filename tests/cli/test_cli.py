"""The command line as a user meets it: what it prints and writes, and one line for every fault of the input."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import snn_energy as se
from snn_energy.core.errors import SnnEnergyError
from snn_energy.pricing.energy import COMPUTE, MEMORY, TOTALS
from snn_energy.studies.demo import NETWORKS, checkpoint_path

Cli = Callable[..., tuple[int, str, str]]
VIT, SPIKFORMER, DTS = (checkpoint_path(name) for name in NETWORKS)


def command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in which every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "snn_energy", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=50, check=False,
    )  # fmt: skip


def fork(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same without the start of the interpreter."""
    return forked.run(*arguments, cwd=cwd, code="import warnings; warnings.simplefilter('error')")


def assert_fault(result: tuple[int, str, str], *said: str) -> str:
    """Exit code 1 and exactly one line on stderr that says all this."""
    code, _, err = result
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n"), err
    assert code == 1
    for text in said:
        assert text in err
    return err


# --- What works ---------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_counts_and_then_tables_and_pictures(tmp_path: Path) -> None:
    """The whole path in processes of its own, from weights to a normalised table."""
    for start, checkpoint, name in ((fork, VIT, "vit"), (command, DTS, "dts")):
        done = start("profile", checkpoint, "--data", "digits", "--samples", 4, "-o", f"{name}.json", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"counts written to {name}.json" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"vit.json", "vit.samples.npz", "dts.json", "dts.samples.npz"}
    header = json.loads((tmp_path / "dts.json").read_text(encoding="utf-8"))["header"]
    assert (header["samples"], header["time_steps"], header["dataset"]) == (4, 4, "digits")
    assert header["command"].startswith("snn-energy profile ")
    compare = ("compare", "vit.json", "dts.json", "--hardware", "dts-paper-fpga", "--baseline", "dts.json")
    done = command(*compare, "--csv", "table.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_csv(tmp_path / "table.csv").set_index("is_baseline")
    assert table.loc[True, ["ce", "me", "te"]].tolist() == [1, 1, 1]
    assert table.loc[False, "te"] == pytest.approx(table.loc[False, "total_pj"] / table.loc[True, "total_pj"])
    done = fork(*compare, "--folder", "report", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    tables = {f"{stem}.{kind}" for stem in ("table", "memory-variants") for kind in ("csv", "md")}
    layers = {"vit-2-64-layers.csv", "dts-spikformer-2-64-layers.csv"}
    assert tables | layers | {"energy-by-group.png", "normalised.svg", "activity.svg"} <= {
        entry.name for entry in (tmp_path / "report").iterdir()
    }
    done = command("plot", "vit.json", "dts.json", "--hardware", "dts-paper-fpga", "-o", "pictures", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        f"{stem}.{kind}" for stem in ("energy-by-group", "normalised", "activity") for kind in ("svg", "png")
    }


def test_an_estimate_writes_every_kind_of_table_with_every_digit(counted: Path, tmp_path: Path, cli: Cli) -> None:
    faces = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "json", "markdown", "latex")}
    options = [text for kind, path in faces.items() for text in (f"--{kind}", path)]
    code, out, err = cli("estimate", counted / "dts.json", "--hardware", "dts-paper-fpga", "--by", "layer", *options)
    assert (code, err) == (0, "")
    energy = se.estimate(se.load_counts(counted / "dts.json"), "dts-paper-fpga")
    table = pd.read_csv(faces["csv"])
    assert list(table.columns) == ["layer", "group", "op", *COMPUTE, *MEMORY, *TOTALS]
    assert table["total_pj"].sum() == pytest.approx(energy.total_pj, rel=1e-12)
    document = json.loads(faces["json"].read_text(encoding="utf-8"))
    assert document["memory"] == "ws_once"
    assert document["hardware"] == "dts-paper-fpga"
    assert document["total_pj"] == pytest.approx(energy.total_pj)
    assert [row["total_pj"] for row in document["rows"]] == table["total_pj"].tolist()
    assert faces["markdown"].read_text(encoding="utf-8").count("\n") == len(table) + 2
    assert "\\toprule" in faces["latex"].read_text(encoding="utf-8")
    assert "not priced by dts-paper-fpga" in out


@pytest.mark.parametrize("by", ["group", "layer", "time_step", "row"])
def test_an_estimate_can_be_asked_for_by_any_level(by: str, counted: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli(
        "estimate", counted / "spik.json", "--hardware", "dts-paper-fpga", "--by", by, "--csv", tmp_path / "t.csv"
    )
    assert (code, err) == (0, "")
    total = se.estimate(se.load_counts(counted / "spik.json"), "dts-paper-fpga").total_pj
    assert pd.read_csv(tmp_path / "t.csv")["total_pj"].sum() == pytest.approx(total, rel=1e-12)


def test_piped_output_is_plain_and_the_same_on_two_runs(counted: Path) -> None:
    """Also of two interpreters, whose hashes of words differ."""
    runs = [start("estimate", counted / "dts.json", "--hardware", "dts-paper-fpga") for start in (command, fork)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stderr == ""
    assert runs[0].returncode == 0
    assert "\x1b" not in runs[0].stdout
    assert not set("│┃━┏") & set(runs[0].stdout)


def test_the_hardware_profiles_are_listed_shown_and_validated(tmp_path: Path, cli: Cli, device_text: Any) -> None:
    code, out, err = cli("hardware", "list")
    assert (code, err) == (0, "")
    assert "horowitz-45nm-fp32" in out
    code, out, err = cli("hardware", "show", "dts-paper-fpga")
    assert (code, err) == (0, "")
    assert "13.32" in out
    assert "cannot price:" in out
    (tmp_path / "own.yaml").write_text(device_text(), encoding="utf-8")
    code, out, err = cli("hardware", "validate", tmp_path / "own.yaml")
    assert (code, err) == (0, "")
    assert "own.yaml: valid" in out


def test_the_models_are_listed(cli: Cli) -> None:
    code, out, err = cli("models")
    assert (code, err) == (0, "")
    assert {f"  {name}" for name in se.list_models()} <= set(out.splitlines())


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == (0, se.__version__ + "\n", "")


WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise AssertionError("torch was imported")
sys.meta_path.insert(0, Blocker())
from snn_energy.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["profile", "--help"],
        ["hardware", "list"],
        ["estimate", "dts.json", "--hardware", "dts-paper-fpga"],
        ["compare", "dts.json", "vit.json", "--hardware", "dts-paper-fpga", "--baseline", "vit.json"],
        ["plot", "dts.json", "--hardware", "dts-paper-fpga", "-o", "{tmp}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_runs_no_network_needs_no_torch(arguments: list[str], counted: Path, tmp_path: Path) -> None:
    arguments = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, cwd=counted, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


# --- Checkpoints --------------------------------------------------------------------------------------------


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def profile(cli: Cli, checkpoint: Path, out: Path, *more: str | Path, data: str = "digits") -> tuple[int, str, str]:
    """Profile into a folder that must stay empty."""
    out.mkdir()
    result = cli("profile", checkpoint, "--data", data, "-o", out / "counts.json", *more)
    assert list(out.iterdir()) == []
    return result


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"", "empty"), (DTS.read_bytes()[:1000], "truncated"),
     (DTS.read_bytes()[:-1000], "truncated"), (b"GIF89a" * 99, "not a safetensors file")],
    ids=["missing", "empty", "cut in the header", "cut in the weights", "foreign"],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_one_line(content: bytes | None, said: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert_fault(profile(cli, path, tmp_path / "out"), str(path), said)


def test_a_folder_is_no_checkpoint(tmp_path: Path, cli: Cli) -> None:
    assert_fault(profile(cli, tmp_path, tmp_path / "out"), str(tmp_path), "folder")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_would_run_code_does_not_run_it(zipped: bool, tmp_path: Path, cli: Cli) -> None:
    path, trap = tmp_path / "weights.pt", tmp_path / "trap"
    if zipped:
        torch.save({"head.weight": _RunsCode(trap)}, path)
    else:
        path.write_bytes(pickle.dumps({"head.weight": _RunsCode(trap)}))
    assert_fault(profile(cli, path, tmp_path / "out", "--model", "vit-2-64"), str(path), "run code")
    assert not trap.exists()


def test_weights_of_another_architecture_name_keys_and_shapes(tmp_path: Path, cli: Cli) -> None:
    options = ("--image-size", "16", "--in-channels", "1", "--num-classes", "7", "--time-steps", "4")
    result = profile(cli, SPIKFORMER, tmp_path / "out", "--model", "spikformer-2-64", *options)
    assert_fault(result, str(SPIKFORMER), "head.weight", "[10, 64] instead of [7, 64]")
    options = ("--image-size", "16", "--in-channels", "1", "--time-steps", "4")
    result = profile(cli, SPIKFORMER, tmp_path / "out2", "--model", "dts-spikformer-2-64", *options)
    assert_fault(result, str(SPIKFORMER), "missing: ", ".tp")
    assert_fault(profile(cli, DTS, tmp_path / "out3", "--model", "spikformer-2-64", *options), "unexpected: ", ".tp")


def test_a_checkpoint_that_says_what_it_is_is_not_taken_for_another_network(tmp_path: Path, cli: Cli) -> None:
    """Names and shapes of a Spikformer's weights fit the ViT of the same size: only the metadata tell them apart."""
    options = ("--image-size", "16", "--in-channels", "1", "--samples", "1")
    out = tmp_path / "counts.json"
    result = cli("profile", SPIKFORMER, "--data", "digits", "-o", out, "--model", "vit-2-64", *options)
    assert_fault(result, str(SPIKFORMER), "spikformer-2-64", "vit-2-64")


def test_bare_weights_ask_for_the_model(tmp_path: Path, cli: Cli) -> None:
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "bare.safetensors")
    assert_fault(profile(cli, tmp_path / "bare.safetensors", tmp_path / "out"), "bare.safetensors", "model")


def test_nan_weights_are_refused(tmp_path: Path, cli: Cli) -> None:
    state = se.load_checkpoint(VIT).state_dict()
    state["head.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "weights.pt")
    options = ("--model", "vit-2-64", "--image-size", "16", "--in-channels", "1")
    assert_fault(profile(cli, tmp_path / "weights.pt", tmp_path / "out", *options), "weights.pt", "NaN", "head.weight")


def test_other_time_steps_than_the_models_are_refused(tmp_path: Path, cli: Cli) -> None:
    assert_fault(profile(cli, DTS, tmp_path / "out", "--samples", "1", "--time-steps", "3"), "T_max=4", "3")


# --- Data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "said"),
    [(np.zeros((3, 1, 8, 8), np.float32), "1x8x8"), (np.zeros((3, 3, 16, 16), np.float32), "3x16x16"),
     (np.full((3, 1, 16, 16), np.nan, np.float32), "NaN"), (np.zeros((0, 1, 16, 16), np.float32), "no image"),
     (np.zeros((2, 1, 16, 16), np.float32), "2 images but 3 labels"), (np.zeros((3, 16), np.float32), "3x16")],
    ids=["size", "channels", "nan", "none", "labels", "dimensions"],
)  # fmt: skip
def test_images_that_do_not_fit_the_model_are_one_line(
    images: np.ndarray[Any, Any], said: str, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=np.zeros(3 if len(images) else 0, np.int64))
    assert_fault(profile(cli, VIT, tmp_path / "out", data=f"npz:{path}"), str(path), said)


def test_labels_beyond_the_classes_of_the_model_are_refused(tmp_path: Path, cli: Cli) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((2, 1, 16, 16), np.float32), labels=np.array([0, 10]))
    assert_fault(profile(cli, VIT, tmp_path / "out", data=f"npz:{tmp_path / 'i.npz'}"), "i.npz", "10 classes")


@pytest.mark.parametrize("samples", ["0", "-3", "361"])
def test_a_number_of_samples_that_there_is_not_is_refused(samples: str, tmp_path: Path, cli: Cli) -> None:
    assert_fault(profile(cli, VIT, tmp_path / "out", "--samples", samples), "samples", samples)


def test_unknown_data_names_the_known(tmp_path: Path, cli: Cli) -> None:
    assert_fault(profile(cli, VIT, tmp_path / "out", data="digit"), "did you mean 'digits'", "npz:PATH")


# --- Hardware -----------------------------------------------------------------------------------------------


def test_unknown_hardware_suggests_the_nearest(counted: Path, cli: Cli) -> None:
    assert_fault(cli("estimate", counted / "dts.json", "--hardware", "dts-paper-fgpa"), "did you mean 'dts-paper-fpga'")


@pytest.mark.parametrize(
    ("find", "put", "key", "said"),
    [
        ("  ac:", "  acc:", "compute.acc", "did you mean 'ac'"),
        ("description: round numbers", "name: again", "name", "duplicate"),
        ("  mac: {value: 10, unit: pJ, width_bits: 1, source: test, kind: assumed}\n", "", "compute.mac", "missing"),
        ("value: 3, unit: pJ", "value: 3, unit: pW", "compute.ac.unit", "pJ"),
        ("value: 3,", "value: -3,", "compute.ac.value", "negative"),
        ("value: 3,", "value: .nan,", "compute.ac.value", "finite"),
        ("value: 3,", "value: .inf,", "compute.ac.value", "finite"),
        ("value: 3,", "value: 3 pJ,", "compute.ac.value", "number"),
        ("drop_first_last: false", "drop_first_last: [", "", "not YAML"),
    ],
    ids=["unknown key", "duplicate", "missing", "unit", "negative", "nan", "infinite", "text", "not yaml"],
)
def test_a_faulty_hardware_file_is_named_with_line_and_key(
    find: str, put: str, key: str, said: str, counted: Path, tmp_path: Path, cli: Cli, device_text: Any
) -> None:
    text, path = device_text(), tmp_path / "own.yaml"
    assert text.count(find) == 1
    line = text[: text.index(find)].count("\n") + 1
    path.write_text(text.replace(find, put), encoding="utf-8")
    out = tmp_path / "table.csv"
    err = assert_fault(cli("estimate", counted / "dts.json", "--hardware", path, "--csv", out), key, said)
    where = err.removeprefix("error: ").removeprefix(f"{path}:").split(":")[0]
    assert abs(int(where) - line) <= 1 if said in ("missing", "not YAML") else int(where) == line
    assert not out.exists()


# --- Counts files -------------------------------------------------------------------------------------------


@pytest.fixture
def edited(counted: Path, tmp_path: Path) -> Callable[..., Path]:
    """A counts file that a hand has changed: ``change(document)``."""

    def edit(change: Callable[[dict[str, Any]], Any], stem: str = "dts") -> Path:
        document = json.loads((counted / f"{stem}.json").read_text(encoding="utf-8"))
        change(document)
        path = tmp_path / f"{stem}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        (tmp_path / f"{stem}.samples.npz").write_bytes((counted / f"{stem}.samples.npz").read_bytes())
        return path

    return edit


def first(document: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    return next(r for r in document["rows"] if all(r[k] == v for k, v in wanted.items()))


UNBALANCED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "sops": (lambda d: (r := first(d, op="conv", input_kind="binary")).update(sops=r["dense_macs"] + 1), "sops"),
    "dense": (lambda d: (r := first(d, op="linear")).update(dense_macs=r["dense_macs"] + 1), "dense_macs"),
    "work where masked": (lambda d: first(d, op="neuron", active=False).update(spikes=1), "not active"),
    "spikes": (lambda d: (r := first(d, op="neuron")).update(spikes=r["neurons"] * 8 + 1), "spikes"),
    "writes": (lambda d: (r := first(d, op="neuron")).update(membrane_writes=r["membrane_writes"] - 1), "membrane"),
    "reads": (lambda d: first(d, op="neuron").update(membrane_reads=0), "membrane"),
    "non-zeros": (
        lambda d: (r := first(d, op="conv")).update(input_nonzeros=r["input_elements"] * 8 + 1), "non-zeros",
    ),
    "gated": (lambda d: (r := first(d, op="matmul", active=True)).update(sops_gated=r["dense_macs"] + 1), "sops_gated"),
    "samples": (lambda d: (r := first(d, op="neuron", active=True)).update(spikes=r["spikes"] + 1), "spikes"),
    "kind": (lambda d: first(d, op="conv").update(input_kind="spikes"), "input_kind"),
    "kind gone": (lambda d: first(d, op="conv").update(input_kind=None), "input_kind"),
    "activity": (lambda d: first(d, op="neuron", active=True).update(active=False), "not active"),
    "step": (lambda d: d["rows"][0].update(time_step=4), "time_step"),
    "twice": (lambda d: d["rows"].append(dict(d["rows"][0])), "twice"),
    "header samples": (lambda d: d["header"].update(samples=7), ""),
}  # fmt: skip
MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (lambda d: d.update(schema=99), "99"),
    "no schema": (lambda d: d.pop("schema"), "schema"),
    "no rows": (lambda d: d.update(rows=[]), "rows"),
    "no model": (lambda d: d["header"].pop("model"), "model"),
    "column gone": (lambda d: d["rows"][3].pop("sops"), "sops"),
    "unknown column": (lambda d: d["rows"][3].update(spps=1), "spps"),
    "negative": (lambda d: d["rows"][3].update(weights=-1), "weights"),
    "fraction": (lambda d: d["rows"][3].update(weights=1.5), "weights"),
    "text": (lambda d: d["rows"][3].update(active="no"), "active"),
    "nan": (lambda d: d["rows"][3].update(weights=float("nan")), "weights"),
    "beyond 64 bits": (lambda d: d["rows"][3].update(weights=10**30), "weights"),
    "group": (lambda d: d["rows"][3].update(group="atn"), "group"),
    "operation": (lambda d: first(d, op="conv").update(op="cnov"), "op"),
    "integer without its largest k": (lambda d: first(d, input_kind="integer").update(max_k=None), "max_k"),
    "integer without weighted sops": (lambda d: first(d, input_kind="integer").update(sops_multi=None), "sops_multi"),
    "other kind": (lambda d: first(d, op="matmul", other_kind="binary").update(other_kind="bin"), "other_kind"),
    "accuracy in words": (lambda d: d["header"].update(accuracy="high"), "accuracy"),
}


@pytest.mark.parametrize("edit", [*UNBALANCED, *MALFORMED])
def test_an_edited_counts_file_is_refused(edit: str, edited: Any, cli: Cli) -> None:
    change, said = (UNBALANCED | MALFORMED)[edit]
    path = edited(change)
    try:
        result = cli("compare", path, "--hardware", "dts-paper-fpga", "--baseline", path.name)
    except Exception as error:  # noqa: BLE001 (whatever gets out would be a traceback)
        pytest.fail(f"a traceback: {type(error).__name__}: {error}")
    assert_fault(result, path.stem, said)


@pytest.mark.parametrize("length", [0, 1, 500, -3])
def test_a_truncated_counts_file_is_refused(length: int, counted: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "cut.json"
    path.write_bytes((counted / "dts.json").read_bytes()[:length])
    assert_fault(cli("estimate", path, "--hardware", "dts-paper-fpga"), str(path), "cut off")


def test_a_missing_counts_file_is_named(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "none.json"
    assert_fault(cli("estimate", path, "--hardware", "dts-paper-fpga"), str(path), "no such counts file")


@pytest.mark.parametrize("content", ["[]", "{}", "3", '"text"', "null"])
def test_other_json_is_no_counts_file(content: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "other.json").write_text(content, encoding="utf-8")
    assert_fault(cli("estimate", tmp_path / "other.json", "--hardware", "dts-paper-fpga"), "other.json")


def test_binary_is_no_counts_file(cli: Cli) -> None:
    assert_fault(cli("estimate", DTS, "--hardware", "dts-paper-fpga"), str(DTS))


def test_a_missing_side_file_is_named(edited: Any, cli: Cli) -> None:
    path = edited(lambda d: None)
    side = path.with_name("dts.samples.npz")
    side.unlink()
    assert_fault(cli("estimate", path, "--hardware", "dts-paper-fpga"), str(side), "missing")


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "flipped", "of another network"])
def test_a_damaged_side_file_is_refused(damage: str, edited: Any, counted: Path, cli: Cli) -> None:
    path = edited(lambda d: None)
    side = path.with_name("dts.samples.npz")
    content = bytearray(side.read_bytes())
    if damage == "flipped":
        content[60:400] = bytes(255 - b for b in content[60:400])
    kinds = {"empty": b"", "cut": content[:-200], "foreign": b"text", "flipped": content}
    side.write_bytes(kinds.get(damage) or (b"" if damage == "empty" else (counted / "spik.samples.npz").read_bytes()))
    try:
        result = cli("estimate", path, "--hardware", "dts-paper-fpga")
    except Exception as error:  # noqa: BLE001 (whatever gets out would be a traceback)
        pytest.fail(f"a traceback: {type(error).__name__}: {error}")
    assert_fault(result, "dts")


# --- Baselines, outputs, usage ------------------------------------------------------------------------------


def test_a_baseline_that_is_not_among_the_files_is_refused_with_the_nearest(counted: Path, cli: Cli) -> None:
    files = (counted / "vit.json", counted / "dts.json")
    assert_fault(cli("compare", *files, "--hardware", "dts-paper-fpga", "--baseline", "spik"), "'spik'", "dts", "vit")
    assert_fault(cli("compare", *files, "--hardware", "dts-paper-fpga", "--baseline", "dst"), "did you mean 'dts'")


@pytest.mark.parametrize("option", ["--csv", "--json", "--markdown", "--latex"])
def test_a_table_that_cannot_be_written_is_one_line(option: str, counted: Path, tmp_path: Path, cli: Cli) -> None:
    arguments = ("estimate", counted / "dts.json", "--hardware", "dts-paper-fpga", option)
    missing = tmp_path / "missing" / "table"
    assert_fault(cli(*arguments, missing), str(missing))
    assert_fault(cli(*arguments, tmp_path), str(tmp_path), "folder")
    assert list(tmp_path.iterdir()) == []


def test_counts_that_could_not_be_written_are_refused_before_the_work(tmp_path: Path, cli: Cli) -> None:
    gone = tmp_path / "missing" / "counts.json"
    absent = tmp_path / "absent.safetensors"  # were it looked for first, this would be the fault
    assert_fault(cli("profile", absent, "--data", "digits", "-o", gone), str(gone), "does not exist")
    assert_fault(cli("profile", absent, "--data", "digits", "-o", tmp_path), str(tmp_path), "file")


def test_pictures_need_a_folder(counted: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    result = cli("plot", counted / "dts.json", "--hardware", "dts-paper-fpga", "-o", tmp_path / "file")
    assert_fault(result, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_the_activity_of_a_network_without_spiking_layers_cannot_be_drawn(
    counted: Path, tmp_path: Path, cli: Cli
) -> None:
    from snn_energy.report.plots.activity import activity_map

    vit = se.load_counts(counted / "vit.json")
    with pytest.raises(SnnEnergyError, match="no activity to draw"):
        activity_map({"vit": vit})
    code, _, err = cli("plot", counted / "vit.json", "--hardware", "dts-paper-fpga", "-o", tmp_path / "p")
    assert (code, err) == (0, "")
    assert {p.stem for p in (tmp_path / "p").iterdir()} == {"energy-by-group", "normalised"}


@pytest.mark.parametrize(
    "arguments",
    [["estimate"], ["estimate", "x.json"], ["nonsense"], ["estimate", "x.json", "--hardware", "h", "--nonsense"],
     ["estimate", "x.json", "--hardware", "h", "--by", "colour"], ["profile", "x", "--data", "digits"],
     ["profile", "x", "--data", "digits", "-o", "y", "--samples", "many"],
     ["profile", "x", "--data", "digits", "-o", "y", "--batch-size", "0"],
     ["profile", "x", "--data", "digits", "-o", "y", "--image-size", "32"], ["hardware", "nonsense"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_call_exits_with_2_and_shows_the_usage(arguments: list[str], cli: Cli) -> None:
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    assert "Usage: snn-energy" in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = fork("--debug", "estimate", tmp_path / "none.json", "--hardware", "dts-paper-fpga")
    assert "Traceback" in done.stderr
    assert done.returncode == 1
    assert "Traceback" not in fork("estimate", tmp_path / "none.json", "--hardware", "x").stderr


# --- Interrupted --------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal
import snn_energy.profiler.run as profiling
real = profiling.profile
def profile(*arguments, on_batch, **options):
    return real(*arguments, on_batch=lambda done: os.kill(os.getpid(), signal.SIGINT), **options)
profiling.profile = profile
"""


def test_an_interrupted_profile_leaves_only_what_it_can_go_on_from(tmp_path: Path) -> None:
    arguments = ["profile", str(DTS), "--data", "digits", "--batch-size", "2", "-o", str(tmp_path / "counts.json")]
    done = forked.run(*arguments, code=INTERRUPTED)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["counts.json.parts"]
    assert [path.name for path in (tmp_path / "counts.json.parts").iterdir()] == ["000000000-000000004.npz"]


@pytest.mark.parametrize("writer", ["write_array_header_1_0", "write_text"])
def test_an_interrupt_while_writing_leaves_the_old_counts(
    writer: str, counted: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "counts.json"
    se.load_counts(counted / "spik.json").save(out)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def interrupted(target: Any, *rest: Any, **kwargs: Any) -> None:
        if hasattr(target, "write"):
            target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path if writer == "write_text" else np.lib.format, writer, interrupted)
    code, _, err = cli("profile", VIT, "--data", "digits", "--samples", "2", "-o", out)
    assert code == 130
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_interrupted_training_writes_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "vit.safetensors"
    process = forked.start("train", "digits-vit", "-o", out)
    deadline = time.monotonic() + 40
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    done = process.ended()
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
