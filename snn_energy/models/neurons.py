"""Leaky integrate-and-fire neurons and the dynamic-time-step (DTSS) layer.

Equation numbers are those of Datta, Liu, Li, Beerel, "Spiking Neural Networks with Dynamic Time Steps for
Vision Transformers". Every neuron here maps (T, B, ...) input currents to (T, B, ...) spikes; the membrane
potential exists only within one forward call, so nothing has to be reset between samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ModelError

NeuronRule = Literal["paper", "spikformer", "hoyer"]


class TriangularSpike(torch.autograd.Function):
    """1 where x > 0, else 0; the surrogate gradient is gamma / width * max(0, 1 - |x| / width) (paper, II-A).

    With x = H - V_th and width V_th this is the paper's gamma / V_th * max(0, 1 - |H / V_th - 1|).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float, gamma: float = 1.0) -> Tensor:
        """x: any shape, the distance to the threshold; returns 0.0 or 1.0 in the dtype of x."""
        ctx.save_for_backward(x)
        ctx.width, ctx.gamma = width, gamma
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient with respect to x; none for width and gamma."""
        (x,) = ctx.saved_tensors
        return grads[0] * (1 - x.abs() / ctx.width).clamp_min(0) * (ctx.gamma / ctx.width), None, None


class PaperNeuron(torch.autograd.Function):
    """Paper, Eq. 1-2 over all time steps: H = leak*U + I; O = V_th where H > V_th, else 0; U = H - O (soft reset).

    Explicit backpropagation through time with the surrogate of II-A, dO/dH = gamma / V_th * max(0, 1 - |H / V_th - 1|):
    only H is stored, and the gradients equal those of the two equations bit for bit.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, leak: float, v_th: float, gamma: float = 1.0) -> Tensor:
        """current: (T, B, ...) -> spikes (T, B, ...) of amplitude V_th."""
        potential, spikes = torch.empty_like(current), torch.empty_like(current)
        u: Tensor | None = None
        for i, h, spike in zip(current, potential, spikes, strict=True):
            if u is None:
                h.copy_(i)
            else:
                torch.add(i, u, alpha=leak, out=h)
            torch.gt(h, v_th, out=spike)
            if v_th != 1:
                spike.mul_(v_th)
            u = h - spike
        ctx.save_for_backward(potential)
        ctx.leak, ctx.v_th, ctx.peak = leak, v_th, gamma / v_th
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient with respect to the current (T, B, ...)."""
        (potential,), leak, v_th = ctx.saved_tensors, ctx.leak, ctx.v_th
        out = torch.empty_like(potential)
        next_gradient: Tensor | None = None  # gradient of U, carried to the preceding step
        for t in range(len(potential) - 1, -1, -1):
            torch.sub(potential[t], v_th, out=out[t]).abs_()
            if v_th != 1:
                out[t].div_(v_th)
            out[t].neg_().add_(1).clamp_min_(0)
            if ctx.peak != 1:
                out[t].mul_(ctx.peak)
            out[t].mul_(grads[0][t] if next_gradient is None else grads[0][t] - next_gradient)
            if next_gradient is not None:
                out[t].add_(next_gradient)
            next_gradient = out[t] * leak
        return out, None, None, None


class MaskStep(torch.autograd.Function):
    """TM = 1 where TS >= 1, else 0 (paper, Eq. 5); dTM/dTS = 1 where 0 < TS < 2, else 0 (Eq. 6)."""

    @staticmethod
    def forward(ctx: Any, ts: Tensor) -> Tensor:
        """ts: (T,) scores; returns the (T,) mask of 0.0 and 1.0."""
        ctx.save_for_backward(ts)
        return (ts >= 1).to(ts.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient of the mask where the score lies between 0 and 2, and 0 elsewhere."""
        (ts,) = ctx.saved_tensors
        gradient: Tensor = grads[0] * ((ts > 0) & (ts < 2))
        return gradient


def spikformer_step(u: Tensor, current: Tensor, leak: float, v_th: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Public Spikformer code: charge u + (I - u)/tau with 1/tau = 1 - leak; 1 where v >= V_th; hard reset.

    u, current: (B, ...); returns (spikes of amplitude 1, next u).
    """
    v = u + (current - u) * (1 - leak)
    # v >= V_th is the opposite of V_th > v
    spike = 1 - TriangularSpike.apply(v_th - v, v_th, gamma)  # type: ignore[no-untyped-call]
    return spike, v * (1 - spike.detach())


class HoyerSpike(torch.autograd.Function):
    """1 where z >= the extremum, else 0; the surrogate gradient is 1 for 0 <= z <= 2, else 0 (Datta et al. 2022)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, extremum: Tensor) -> Tensor:
        """z: any shape, the potential over the trainable threshold; extremum: a scalar. Returns 0.0 or 1.0."""
        ctx.save_for_backward(z)
        return (z >= extremum).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient with respect to z; none for the extremum."""
        (z,) = ctx.saved_tensors
        return grads[0] * ((z >= 0) & (z <= 2)), None


def hoyer_extremum(z: Tensor) -> Tensor:
    """sum z^2 / sum z of potentials clipped to [0, 1], a scalar; 1 where all are 0 (Datta et al. 2022)."""
    clipped = z.clamp(0, 1)
    total = clipped.sum()
    return torch.where(total > 0, clipped.square().sum() / total.clamp_min(1e-12), torch.ones_like(total))


def hoyer_regulariser(z: Tensor) -> Tensor:
    """(sum z)^2 / sum z^2 of potentials clipped to [0, 1], a scalar, small where few neurons are far from 0."""
    clipped = z.clamp(0, 1)
    return clipped.sum().square() / clipped.square().sum().clamp_min(1e-12)


def _lower_triangle(size: int) -> Tensor:
    """(size, size): ones on and below the diagonal, zeros above; on the meta device only the shape.

    There, tril and arithmetic would import torch's compiler, which takes longer than a small network's profile.
    """
    ones = torch.ones(size, size)
    return ones if ones.is_meta else ones.tril()


Observer = Callable[[int, Tensor, Tensor], None]

NEURON_RULES = ("paper", "spikformer", "hoyer")


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons over T time steps.

    rule "paper": Eq. 1-2, spikes of amplitude V_th, soft reset. rule "spikformer": the public code's variant
    (tau = 1/(1 - leak), v >= V_th, amplitude 1, hard reset, reset detached from the gradient). rule "hoyer":
    H = leak*U + I; 1 where H / threshold >= the Hoyer extremum of the clipped H / threshold, soft reset; the threshold
    is trained, from V_th; the extremum is the batch's in training and its running mean (momentum 0.1) at inference.

    ``observer``, if set, is called as observer(t, spikes_t, potential_t) at every active step of a forward
    without gradients, after the reset, while both tensors are still in cache; it must change neither.

    ``gamma``: the paper's hyper-parameter, peak of the surrogate gradient times V_th; rule "hoyer" has none.

    Shape: (T, B, ...) -> (T, B, ...). Raises ModelError for a leak outside [0, 1], a threshold or gamma <= 0.
    """

    observer: Observer | None = None

    def __init__(self, leak: float = 0.5, v_th: float = 1.0, rule: NeuronRule = "paper", gamma: float = 1.0) -> None:
        super().__init__()
        if not 0 <= leak <= 1:
            raise ModelError(f"leak must lie in [0, 1], not {leak}")
        if not v_th > 0:
            raise ModelError(f"v_th must be positive, not {v_th}")
        if rule not in NEURON_RULES:
            raise ModelError(f"neuron rule must be one of {sorted(NEURON_RULES)}, not '{rule}'")
        if not gamma > 0:
            raise ModelError(f"gamma must be positive, not {gamma}")
        self.leak, self.v_th, self.rule, self.gamma = leak, v_th, rule, gamma
        self.hoyer_loss: Tensor | None = None  # of the last forward with gradients, only for rule "hoyer"
        if rule == "hoyer":
            self.threshold = nn.Parameter(torch.tensor(float(v_th)))
            self.register_buffer("extremum", torch.tensor(1.0))

    @property
    def amplitude(self) -> float:
        """The value of one spike: V_th in the paper's rule (folds into the next weights), else 1."""
        return self.v_th if self.rule == "paper" else 1.0

    def time_step_mask(self, time_steps: int) -> Tensor:
        """(T,) mask of 0.0 and 1.0: the time steps in which the layer may fire. A plain LIF: all of them."""
        return torch.ones(time_steps)

    def forward(self, current: Tensor) -> Tensor:
        """current: (T, B, ...) -> spikes (T, B, ...)."""
        if torch.is_grad_enabled() and (self.training or current.requires_grad):
            return self._forward_differentiable(current)
        return self.fire(current, [True] * len(current))

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles: without the last forward's loss term, which references its autograd graph."""
        return {**self.__dict__, "hoyer_loss": None}

    def _forward_differentiable(self, current: Tensor) -> Tensor:
        if self.rule == "paper":
            return PaperNeuron.apply(current, self.leak, self.v_th, self.gamma)  # type: ignore[no-untyped-call, no-any-return]
        if self.rule == "hoyer":
            return self._forward_hoyer(current)
        u, spikes = torch.zeros_like(current[0]), []
        for current_t in current:
            spike, u = spikformer_step(u, current_t, self.leak, self.v_th, self.gamma)
            spikes.append(spike)
        return torch.stack(spikes)

    def _forward_hoyer(self, current: Tensor) -> Tensor:
        """The Hoyer rule with gradients; in training mode the running extremum is updated once per forward."""
        u, spikes, extrema, terms = torch.zeros_like(current[0]), [], [], []
        for current_t in current:
            h = torch.add(current_t, u, alpha=self.leak)
            z = h / self.threshold
            extremum = hoyer_extremum(z.detach()) if self.training else self.get_buffer("extremum")
            spike = HoyerSpike.apply(z, extremum)  # type: ignore[no-untyped-call]
            u = h - spike * (self.threshold * extremum)
            spikes.append(spike)
            extrema.append(extremum)
            terms.append(hoyer_regulariser(z))
        if self.training:
            self.get_buffer("extremum").lerp_(torch.stack(extrema).mean().float(), 0.1)
        self.hoyer_loss = torch.stack(terms).sum()
        return torch.stack(spikes)

    def fire(self, current: Tensor, active: list[bool], idle: Tensor | None = None) -> Tensor:
        """Spikes at the ``active`` steps and zeros at the others, for inference; written in place.

        current: (A, B, ...) with A <= len(active); later steps get ``idle``, broadcastable to (B, ...), or zeros
        (a BatchNorm turns a step without input into its bias, not into zeros). A masked step does not access the state.
        Returns (len(active), B, ...), the values of the differentiable path.
        """
        shape = (len(active), *current.shape[1:])
        out = current.new_empty(shape) if all(active) else current.new_zeros(shape)
        idle_input = None
        if len(current) < len(active):
            idle_input = current.new_zeros(shape[1:]) if idle is None else idle.expand(shape[1:])
        u: Tensor | None = None
        firing_level = float(self.threshold) * float(self.get_buffer("extremum")) if self.rule == "hoyer" else self.v_th
        for t, is_active in enumerate(active):
            if not is_active:
                continue
            spike, current_t = out[t], current[t] if idle_input is None or t < len(current) else idle_input
            if self.rule == "paper":
                h = current_t.clone() if u is None else torch.add(current_t, u, alpha=self.leak)
                torch.gt(h, self.v_th, out=spike)
                if self.v_th != 1:
                    spike.mul_(self.v_th)
                u = h.sub_(spike)
            elif self.rule == "hoyer":
                h = current_t.clone() if u is None else torch.add(current_t, u, alpha=self.leak)
                torch.ge(h, firing_level, out=spike)
                u = h.sub_(spike, alpha=firing_level)
            else:
                h = current_t * (1 - self.leak) if u is None else u.add_((current_t - u) * (1 - self.leak))
                torch.ge(h, self.v_th, out=spike)
                u = h.masked_fill_(spike.to(torch.bool), 0)
            if self.observer is not None:
                self.observer(t, spike, u)
        return out

    def extra_repr(self) -> str:
        """Leak, threshold and rule."""
        return f"leak={self.leak}, v_th={self.v_th}, rule={self.rule}"


class DTSS(LIF):
    """A LIF layer that learns the number of time steps in which it is active (paper, Eq. 4-7).

    Parameter ``tp`` (T_max,), kept non-negative by the optimiser. TS = TP . coeff with coeff the
    lower-triangular ones, so TS^t = sum of TP^i over i >= t is non-increasing in t; TM^t = 1 where TS^t >= 1;
    the output at step t is O^t * TM^t. The first ``min_steps`` entries of TM are 1 regardless of TP: with
    ``min_steps=1`` no layer can die.

    ``initial_steps`` (T_init) steps are active at the start, with a margin of 0.5 on either side of the
    threshold, because a score that starts exactly on it falls below it at the first update.
    """

    def __init__(
        self,
        max_steps: int,
        initial_steps: int | None = None,
        min_steps: int = 0,
        leak: float = 0.5,
        v_th: float = 1.0,
        rule: NeuronRule = "paper",
        gamma: float = 1.0,
    ) -> None:
        super().__init__(leak, v_th, rule, gamma)
        initial_steps = max_steps if initial_steps is None else initial_steps
        if not 1 <= initial_steps <= max_steps:
            raise ModelError(f"initial_steps must lie in 1..{max_steps} (T_max), not {initial_steps}")
        if not 0 <= min_steps <= max_steps:
            raise ModelError(f"min_steps must lie in 0..{max_steps} (T_max), not {min_steps}")
        self.max_steps, self.initial_steps, self.min_steps = max_steps, initial_steps, min_steps
        self.tp = nn.Parameter(torch.zeros(max_steps))
        self.register_buffer("coeff", _lower_triangle(max_steps), persistent=False)
        if not self.tp.is_meta:
            self.reset_scores()

    def reset_scores(self) -> None:
        """Initialise TP: TS^t = 1.5 for t <= T_init, 0.5 for t > T_init."""
        ts = torch.full((self.max_steps + 1,), 0.5)
        ts[: self.initial_steps] = 1.5
        ts[-1] = 0
        with torch.no_grad():
            self.tp.copy_(ts[:-1] - ts[1:])

    def scores(self) -> Tensor:
        """(T_max,) TS = TP . coeff (paper, Eq. 4), in TP's own precision: autocast would round a matrix product."""
        return (self.tp[:, None] * self.get_buffer("coeff")).sum(0)

    def time_step_mask(self, time_steps: int) -> Tensor:
        """(T_max,) TM, differentiable in TP except for the floor. Raises ModelError if T != T_max."""
        if time_steps != self.max_steps:
            raise ModelError(f"a DTSS layer made for T_max={self.max_steps} was run with {time_steps} time steps")
        mask: Tensor = MaskStep.apply(self.scores())  # type: ignore[no-untyped-call]
        floor = torch.arange(self.max_steps, device=mask.device) < self.min_steps
        return torch.where(floor, torch.ones_like(mask), mask)

    def active_flags(self) -> list[bool]:
        """TM as one flag per time step, for inference."""
        return [t < self.min_steps or score >= 1 for t, score in enumerate(self.scores().tolist())]

    def active_steps(self) -> int:
        """T_l, the number of active time steps."""
        return sum(self.active_flags())

    def forward(self, current: Tensor) -> Tensor:
        """current: (T_max, B, ...) -> masked spikes (T_max, B, ...)."""
        if torch.is_grad_enabled() and (self.training or current.requires_grad):
            mask = self.time_step_mask(len(current))
            return self._forward_differentiable(current) * mask.view(-1, *[1] * (current.dim() - 1))
        if len(current) != self.max_steps:
            raise ModelError(f"a DTSS layer made for T_max={self.max_steps} was run with {len(current)} time steps")
        return self.fire(current, self.active_flags())

    def extra_repr(self) -> str:
        """Leak, threshold, rule and time steps."""
        return f"{super().extra_repr()}, max_steps={self.max_steps}, min_steps={self.min_steps}"
