"""What a spiking network of any framework really does, by plain forward hooks; and the check against it.

Nothing of the code under test is used here. Time is told apart by sizes alone: the tests take T = 3 steps and B = 5
samples, so that a tensor of 15, of (3, 5, ...) or of (5, 3, ...), or a layer that is called three times, is no riddle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import oracle
import torch
from torch import Tensor, nn

import snn_energy as se

T, B = 3, 5
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
Run = Callable[[nn.Module, Tensor], Any]


@dataclass
class Truth:
    """Per layer and time step ("once": a single entry): what hooks saw. order: what is in front of (T*B) or (3, 5)."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    sops: dict[str, list[int]] = field(default_factory=dict)
    dense: dict[str, list[int]] = field(default_factory=dict)
    spikes: dict[str, list[int]] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    emitted: dict[str, Tensor] = field(default_factory=dict)
    out: Any = None


def steps_of(calls: Sequence[Tensor], steps: int, samples: int, order: str = "time") -> list[Tensor]:
    """(B, ...) per time step, from the tensors of one layer's calls; one entry where it works once per inference."""
    if len(calls) == steps and all(len(call) == samples for call in calls):
        return list(calls)
    (whole,) = calls
    front = (steps, samples) if order == "time" else (samples, steps)
    if whole.shape[:2] == front and whole.dim() > 1:
        stacked = whole
    elif len(whole) == steps * samples:
        stacked = whole.unflatten(0, front)
    else:
        assert len(whole) == samples
        return [whole]
    return list(stacked if order == "time" else stacked.transpose(0, 1))


def truth(
    model: nn.Module, x: Tensor, run: Run, neurons: Sequence[str], order: str = "time", steps: int = T, samples: int = B
) -> Truth:
    """What a model at rest does in ``run(model, x)``; a second one, built alike (not all of sinabs can be copied)."""
    model.eval()
    read: dict[str, list[Tensor]] = {}
    made: dict[str, list[Tensor]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            given = out[0] if isinstance(out, (tuple, list)) else out
            read.setdefault(name, []).append(args[0].detach().clone())
            made.setdefault(name, []).append(given.detach().clone())

        module.register_forward_hook(hook)

    names = dict(model.named_modules())
    weighted = [name for name, module in names.items() if isinstance(module, WEIGHTED)]
    for name in [*weighted, *neurons]:
        watch(name, names[name])
    found = Truth()
    with torch.no_grad():
        found.out = run(model, x)
    for name in weighted:
        if name not in read:
            continue
        layer = names[name]
        inputs = steps_of(read[name], steps, samples, order)
        outputs = steps_of(made[name], steps, samples, order)
        found.inputs[name] = inputs
        found.sops[name] = [sops(layer, step) for step in inputs]
        found.dense[name] = [dense_macs(layer, a, b) for a, b in zip(inputs, outputs, strict=True)]
    for name in neurons:
        spikes = steps_of(made[name], steps, samples, order)
        found.neurons[name] = spikes[0][0].numel()
        found.spikes[name] = [int((step != 0).sum()) for step in spikes]
        found.emitted[name] = torch.stack(spikes)
    return found


def sops(layer: nn.Module, x: Tensor) -> int:
    """Accumulates of one step, over all samples."""
    if isinstance(layer, nn.Linear):
        return int((x != 0).sum()) * layer.out_features
    return int(oracle.conv_meetings(oracle.indicator(x), layer).sum())


def dense_macs(layer: nn.Module, x: Tensor, out: Tensor) -> int:
    """Multiply-accumulates of one step with no zero skipped, over all samples."""
    if isinstance(layer, nn.Linear):
        return out.numel() * layer.in_features
    return len(x) * oracle.conv_dense_macs(tuple(x.shape[2:]), tuple(out.shape[2:]), layer)


def assert_rows(
    counts: se.Counts, found: Truth, samples: int = B, integrating: Sequence[str] = (), read: Sequence[str] = ()
) -> None:
    """The counts say what the hooks saw: no layer with weights is missing and no neuron, and none is added.

    integrating: neurons that keep a potential and never spike. read: layers whose kind is not compared (the loader's).
    """
    frame = counts.to_frame()
    rows = frame[frame["op"].isin(("conv", "linear"))]
    assert set(rows["layer"]) == set(found.sops)
    for name, of_layer in rows.groupby("layer"):
        assert of_layer["sops"].tolist() == found.sops[name], name
        assert of_layer["dense_macs"].tolist() == found.dense[name], name
        kind = oracle.kind_of(torch.cat(found.inputs[name]), 10)
        if name not in read:
            assert set(of_layer["input_kind"]) == {kind.kind}, (name, kind)
            if kind.kind == "integer":
                assert set(of_layer["max_k"]) == {kind.max_k}
    rows = frame[frame["op"] == "neuron"]
    assert set(rows["layer"]) == set(found.neurons)
    for name, of_layer in rows.groupby("layer"):
        expected = [0] * len(found.spikes[name]) if name in integrating else found.spikes[name]
        assert of_layer["spikes"].tolist() == expected, name
        assert set(of_layer["neurons"]) == {found.neurons[name]}, name
        for column in ("membrane_reads", "membrane_writes"):
            assert set(of_layer[column]) == {found.neurons[name] * samples}, (name, column)


def work(counts: se.Counts) -> list[list[Any]]:
    """What must not depend on how the samples are dealt into batches."""
    columns = ["layer", "op", "time_step", "active", "input_kind", "dense_macs", "sops", "sops_gated", "spikes"]
    columns += ["neurons", "membrane_reads", "membrane_writes", "elementwise_ops", "input_nonzeros"]
    found: list[list[Any]] = counts.rows[columns].to_numpy(dtype=object, na_value="-").tolist()
    return found


def everything(model: nn.Module) -> dict[str, Any]:
    """What a profile must leave alone: parameters, buffers, plain attributes, mode, hooks, by value."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for group in (module._parameters, module._buffers, vars(module)):
            for key, value in group.items():
                if key not in ("_parameters", "_buffers", "_modules"):
                    found[f"{name}.{key}"] = frozen(value)
    return found


def frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.detach().flatten().tolist()
    if isinstance(value, dict):
        return {str(key): frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)
