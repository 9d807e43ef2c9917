"""Checkpoints that others trained, on real data, from the file to the accuracy and an energy.

They lie in a folder ``shared`` beside the checkout; without it these tests are named as not run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import snn_energy as se

SHARED = Path(__file__).resolve().parents[3] / "shared"
Cli = Callable[..., tuple[int, str, str]]

pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason="no folder 'shared' with real checkpoints beside the checkout"),
    pytest.mark.filterwarnings("ignore"),  # of importing the frameworks
]

NETS = """
from torch import nn


def snntorch_convnet(beta=0.5):
    import snntorch as snn

    def leaky(**more):
        return snn.Leaky(beta=beta, init_hidden=True, **more)

    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky(),
        nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky(),
        nn.Flatten(), nn.Linear(1024, 10), leaky(output=True),
    )


def ann():
    def layers(*sizes):
        return [nn.Conv2d(*sizes, bias=False), nn.ReLU(), nn.AvgPool2d(2)]

    last = [nn.Flatten(), nn.Linear(128, 500, bias=False), nn.ReLU(), nn.Linear(500, 10, bias=False)]
    return nn.Sequential(*layers(1, 20, 5), *layers(20, 32, 5), *layers(32, 128, 3), *last)


def converted(weights, T):
    import snn_energy as se
    from sinabs.from_torch import from_model

    network = se.load_checkpoint(weights, ann())
    return from_model(network, input_shape=(1, 28, 28), num_timesteps=T, add_spiking_output=True).spiking_model
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


MNIST = f"npz:{SHARED / 'data' / 'mnist_test3000.npz'}"


def test_the_snntorch_convnet_is_right_on_96_percent_of_mnist(nets: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    weights, out = SHARED / "checkpoints" / "snntorch_mnist_convnet.pth", tmp_path / "counts.json"
    code, _, err = cli(
        "profile", str(weights), "--model", f"{nets}:snntorch_convnet", "--data", MNIST, "--divide-by", "255",
        "--samples", "1000", "--time-steps", "10", "--batch-size", "250", "-o", str(out),
    )  # fmt: skip
    assert code == 0, err
    counts = se.load_counts(out)
    assert 0.955 <= counts.header["accuracy"] <= 0.975
    assert counts.header["time"] == "call"
    assert "time: call" in err
    frame = counts.to_frame()
    assert set(frame.loc[frame["op"] == "neuron", "neurons"]) == {1728, 1024, 10}
    assert frame.loc[frame["layer"] == "3", "input_kind"].unique().tolist() == ["binary"]
    assert frame.loc[frame["layer"] == "0", "dense_macs"].sum() == 10 * 1000 * 24 * 24 * 25 * 12
    assert se.estimate(counts, "horowitz-45nm-fp32").total_pj > 0


def test_the_converted_sinabs_network_is_right_on_98_percent_of_mnist(nets: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("sinabs", reason="sinabs is not installed")
    weights, out = SHARED / "checkpoints" / "sinabs_mnist_ann.pt", tmp_path / "counts.json"
    code, _, err = cli(
        "profile", "--model", f"{nets}:converted", "--model-args", f"weights={weights}", "--model-args", "T=10",
        "--data", MNIST, "--samples", "200", "--time-steps", "10", "--batch-size", "50", "--max-k", "1000",
        "-o", str(out),
    )  # fmt: skip
    assert code == 0, err
    counts = se.load_counts(out)
    assert counts.header["accuracy"] >= 0.97
    assert counts.header["time"] == "repeat-flat-batch"
    notes = counts.rows.loc[counts.rows["op"] == "neuron", "note"]
    assert notes.str.contains("spikes per step").all()  # sinabs's neurons give several at once


def test_the_nir_network_is_right_on_at_least_8_of_9_recordings(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    weights, out = SHARED / "checkpoints" / "nmnist_cnn_sinabs.nir", tmp_path / "counts.json"
    code, _, err = cli(
        "profile", str(weights), "--data", f"nmnist:{SHARED / 'data' / 'nmnist'}", "--time-steps", "100",
        "--step-us", "3000", "--cut", "-o", str(out),
    )  # fmt: skip
    assert code == 0, err
    counts = se.load_counts(out)
    assert counts.header["accuracy"] >= 8 / 9
    weighted = counts.rows[counts.rows["op"].isin(["conv", "linear"])]
    assert (weighted["input_kind"] != "real").all()  # accumulates from the first layer on
    assert counts.activity()["real_macs_per_sample"] == 0
