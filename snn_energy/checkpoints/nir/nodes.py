"""Neurons and other nodes of a NIR graph that torch has no module for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_energy.checkpoints.nir.read import Array, Params, Shape, as_tensor

Rule = Literal["nir", "sinabs"]
Reset = Literal["file", "subtract", "v_reset"]
RULES: Mapping[Rule, str] = {
    "nir": "one spike a step where v > v_threshold",
    "sinabs": "as sinabs runs IF nodes: floor(v / v_threshold) spikes a step, v never below -v_threshold",
}
RESETS: Mapping[Reset, str] = {
    "file": "to v_reset where the file gives one, else by subtraction",
    "subtract": "by subtraction of v_threshold",
    "v_reset": "to v_reset, 0 where the file gives none",
}


class NIRIntegrator(nn.Module):
    """I, LI and CubaLI: the potential itself is the output. One time step per call, (B, ...) -> (B, ...).

    The state is ``v``, and ``i`` with a synapse; None before the first step.
    """

    spiking_neuron = True
    integrates_only = True
    amplitude: float | None = None
    reset = "none"
    gain: Tensor | None
    decay: Tensor | None
    leak: Tensor | None
    synapse_gain: Tensor | None
    synapse_decay: Tensor | None

    def __init__(self, kind: str, params: Params, dt: float) -> None:
        super().__init__()
        self.kind = kind
        self.v: Tensor | None = None
        self.i: Tensor | None = None
        tau = params.get("tau", params.get("tau_mem"))
        rate = np.asarray(dt if tau is None else dt / tau)
        self._register_constant("gain", rate * params["r"], 1)
        self._register_constant("decay", 1 - rate if tau is not None else None, 1)
        self._register_constant("leak", rate * params.get("v_leak", np.zeros(())), 0)
        synapse = dt / params["tau_syn"] if "tau_syn" in params else None
        self._register_constant(
            "synapse_gain", None if synapse is None else synapse * params.get("w_in", np.ones(())), 1
        )
        self._register_constant("synapse_decay", None if synapse is None else 1 - synapse, None)

    def _register_constant(self, name: str, values: Array | None, neutral: float | None) -> None:
        """Register a constant as a buffer; None if it has no effect. One number if all neurons have the same."""
        is_neutral = values is None or (neutral is not None and bool((values == neutral).all()))
        self.register_buffer(name, None if is_neutral else as_tensor(values), persistent=False)

    @property
    def state_variables(self) -> int:
        """The potential, and the current of a synapse that has one."""
        return 1 if self.synapse_decay is None else 2

    def reset_state(self) -> None:
        """Forget the potential: the next step starts at rest."""
        self.v = self.i = None

    def integrate(self, x: Tensor) -> Tensor:
        """The potential after one step's input, before any spike."""
        if self.synapse_decay is not None:
            x = x if self.synapse_gain is None else x * self.synapse_gain
            self.i = x = x if self.i is None else self.i * self.synapse_decay + x
        x = x if self.gain is None else x * self.gain
        x = x if self.leak is None else x + self.leak
        if self.v is None:
            return x
        return x + (self.v if self.decay is None else self.v * self.decay)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) current of one step -> the potential after it."""
        self.v = self.integrate(x)
        return self.v

    def extra_repr(self) -> str:
        """The node's type in the file."""
        return self.kind


class NIRNeuron(NIRIntegrator):
    """IF, LIF and CubaLIF: spikes of amplitude 1 (several at once under rule "sinabs"). One time step per call."""

    integrates_only = False
    v_threshold: Tensor
    v_reset: Tensor | None

    def __init__(self, kind: str, params: Params, dt: float, rule: Rule, reset: Reset) -> None:
        super().__init__(kind, params, dt)
        v_reset = params.get("v_reset", np.zeros(()) if reset == "v_reset" else None)
        self.counts_spikes = rule == "sinabs"
        self.amplitude = None if self.counts_spikes else 1.0
        self._register_constant("v_threshold", params["v_threshold"], None)
        self._register_constant("v_reset", None if reset == "subtract" else v_reset, None)
        self.reset = "soft" if self.v_reset is None else "hard, to v_reset"

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) current of one step -> spikes of the same shape."""
        v = self.integrate(x)
        if self.counts_spikes:
            spikes = torch.div(v, self.v_threshold, rounding_mode="trunc").clamp_min(0)
            self.v = torch.maximum(v - spikes * self.v_threshold, -self.v_threshold)
            return spikes
        fired = v > self.v_threshold
        spikes = fired.to(v.dtype)
        if self.v_reset is None:
            self.v = v - spikes * self.v_threshold
        else:
            self.v = torch.where(fired, self.v_reset.to(v.dtype), v)
        return spikes


class NIRThreshold(nn.Module):
    """1 where the input exceeds the threshold, else 0; no state."""

    spiking_neuron = True
    integrates_only = False
    state_variables = 0
    amplitude: float | None = 1.0
    reset = "none"
    v_threshold: Tensor

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.register_buffer("v_threshold", as_tensor(params["threshold"]), persistent=False)

    def reset_state(self) -> None:
        """Do nothing: there is no state."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) -> spikes of the same shape."""
        return (x > self.v_threshold).to(x.dtype)


class SumPool2d(nn.Module):
    """Sums over windows of (B, C, H, W), so that sums of spikes stay whole multiples of one."""

    def __init__(self, kernel: Shape, stride: Shape, padding: Shape) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        padded = functional.pad(x, (pw, pw, ph, ph)) if ph or pw else x
        return padded.unfold(2, kh, sh).unfold(3, kw, sw).sum((-2, -1))


class Scale(nn.Module):
    """y = s x, element by element."""

    scale: Tensor

    def __init__(self, scale: Array) -> None:
        super().__init__()
        self.register_buffer("scale", as_tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        return x * self.scale


class Delay(nn.Module):
    """y(t) = x(t - d): every element of an earlier step; nothing is computed, only moved."""

    spiking_neuron = False
    picks: Tensor

    def __init__(self, steps: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self.max_delay = int(steps.max(initial=0))
        self.uniform = bool((steps == steps.flat[0]).all()) if steps.size else True
        picks = (self.max_delay - steps.reshape(-1)) * steps.size + np.arange(steps.size)
        self.register_buffer("picks", torch.from_numpy(picks), persistent=False)
        self.history: tuple[Tensor, ...] = ()  # the last ``max_delay`` steps, the earliest first

    def reset_state(self) -> None:
        """Forget the delayed steps."""
        self.history = ()

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.max_delay:
            return x
        history = self.history or (_traced_zeros(x),) * self.max_delay
        self.history = (*history[1:], x)
        if self.uniform:
            return history[0]
        steps = torch.cat([step.flatten(1) for step in (*history, x)], 1)
        return steps.index_select(1, self.picks).reshape(x.shape)


def _traced_zeros(x: Tensor) -> Tensor:
    """Zeros of the shape of x, computed from x (an empty slice of it, padded) so that they are traced back to it."""
    flat = x.flatten(1)
    return functional.pad(flat[:, :0], (0, flat.shape[1])).reshape(x.shape)
