"""Neurons that ask for CuPy are counted on torch's backend where there is none, and have their own back afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ModelError
from snn_energy.jobs.references import build_model
from snn_energy.report.sentences import assumptions
from snn_energy.running.backends import backend_hint, replaced_backends

OLD = Path(__file__).parents[2] / ".venv" / "spikingjelly-0.0.0.0.14"


class MultiStepIFNode(nn.Module):
    """As SpikingJelly's: with another backend than torch it needs a CUDA device."""

    __module__ = "spikingjelly.clock_driven.neuron"

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend, self.v_threshold, self.v_reset = backend, 1.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.backend != "torch":
            raise AttributeError("'NoneType' object has no attribute 'MultiStepIFNodePTT'")
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = v + step
            spikes.append((v >= 1).float())
            v = v * (1 - spikes[-1])
        return torch.stack(spikes)


def network(backend: str) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), MultiStepIFNode(backend), nn.Linear(8, 3))


@pytest.mark.parametrize("declared", [{}, {"time": "axis0"}])
@pytest.mark.parametrize("backend", ["cupy", "triton"])
def test_a_backend_that_cannot_run_here_is_replaced_for_the_run(backend: str, declared: dict[str, Any]) -> None:
    x = 2 * torch.rand(3, 4, 6)
    model = network(backend)
    counts = se.profile(model, [x], time_steps=3, **declared)
    plain = se.profile(network("torch"), [x], time_steps=3, **declared)
    assert counts.rows.equals(plain.rows)
    assert counts.rows["spikes"].sum() > 0
    assert model[1].backend == backend  # type: ignore[union-attr]
    said = f"neurons: torch instead of {backend}, which cannot run here; the counts are the same"
    assert said in list(assumptions(counts))
    assert "backends" not in plain.header


def test_the_backend_is_put_back_after_a_forward_that_raises() -> None:
    model = network("cupy")
    with pytest.raises(Exception, match="shape"):
        se.profile(model, [torch.rand(3, 4, 5)], time_steps=3, time="axis0")
    assert model[1].backend == "cupy"  # type: ignore[union-attr]


def test_other_backends_and_other_classes_are_left_alone() -> None:
    class Other(nn.Module):
        backend = "cupy"

    assert replaced_backends(nn.Sequential(MultiStepIFNode("torch"), MultiStepIFNode("lava"), Other())) == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError("CuPy is not installed! You can install it"), "set backend='torch'"),
        (ImportError("CuPy is not installed!"), "set backend='torch'"),
        (ModuleNotFoundError("No module named 'cupy'"), "set backend='torch'"),
        (TypeError("IFNode.__init__() got an unexpected keyword argument 'backend'"), "leave backend= out"),
        (TypeError("missing 1 argument"), None),
    ],
)
def test_the_line_to_set_is_said(error: Exception, said: str | None) -> None:
    hint = backend_hint(error)
    assert hint == "" if said is None else said in hint


def test_a_network_that_fails_for_want_of_cupy_is_refused_with_the_line_to_set(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("import cupy_that_is_not_there\n\ndef make():\n    pass\n")
    with pytest.raises(ModelError, match="set backend='torch' where the neurons are made") as caught:
        build_model(f"{tmp_path / 'kernels.py'}:make")
    assert "\n" not in str(caught.value)


PUBLIC = """
import torch
from torch import nn
from spikingjelly.clock_driven.neuron import MultiStepLIFNode
from spikingjelly.activation_based import neuron

def old(backend="cupy"):
    torch.manual_seed(0)
    lif = MultiStepLIFNode(tau=2.0, v_threshold=0.3, detach_reset=True, backend=backend)
    return nn.Sequential(nn.Flatten(2), nn.Linear(4, 8), lif, nn.Linear(8, 3))

def new(backend="cupy"):
    torch.manual_seed(0)
    lif = neuron.LIFNode(v_threshold=0.3, step_mode="m", backend=backend)
    return nn.Sequential(nn.Flatten(2), nn.Linear(4, 8), lif, nn.Linear(8, 3))

def batches():
    return [torch.rand(3, 5, 2, 2, generator=torch.Generator().manual_seed(0))]
"""


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_public_network_with_cupy_hard_coded_is_counted_on_a_machine_without_it(tmp_path: Path, name: str) -> None:
    if not OLD.is_dir():
        pytest.skip(f"SpikingJelly 0.0.0.0.14 is not in {OLD.name} beside the environment (make test installs it)")
    (tmp_path / "net.py").write_text(PUBLIC)
    path = os.pathsep.join([str(OLD), str(Path(__file__).parents[2])])
    found = {}
    for backend in ("cupy", "torch"):
        words = [
            "profile",
            "--model",
            f"net.py:{name}",
            "--model-args",
            f"backend={backend}",
            "--time-steps",
            "3",
            "--time",
            "axis0",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "snn_energy", *words, "--data", "net.py:batches", "-o", f"{backend}.json"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("torch instead of cupy" in done.stderr) == (backend == "cupy")
        found[backend] = se.load_counts(tmp_path / f"{backend}.json").to_frame()
    assert found["cupy"].equals(found["torch"])
    assert np.asarray(found["cupy"]["spikes"].sum()) > 0
