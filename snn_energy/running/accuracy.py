"""What a network's output says of its accuracy: logits per sample, averaged over time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_energy.core.errors import ProfilingError


def right_answers(out: Any, y: Any, mode: str, steps: int, samples: int) -> int | None:
    """How many samples of a batch the largest logit gets right; None where there are no labels or no logits.

    out: what the model gave, a list of that per step where it is called once per step. y: (B,) classes.
    """
    logits = logits_of(out, mode, steps, samples)
    labels = torch.as_tensor(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else None
    if labels is not None and labels.dim() == 1 and not labels.is_floating_point() and len(labels) != samples:
        raise ProfilingError(f"the loader gave {len(labels)} labels for {samples} samples; give one a sample, or none")
    if logits is None or labels is None or labels.shape != (samples,) or labels.is_floating_point():
        return None
    return int((logits.argmax(1).cpu() == labels.cpu()).sum())


def logits_of(out: Any, mode: str, steps: int, samples: int) -> Tensor | None:
    """(B, classes) of what a model gave, averaged over time steps; None where it is nothing of the kind.

    Of a tuple the first counts: neurons return their potentials beside their spikes.
    """
    if mode in ("call", "call-axis0"):
        parts = [part[0] if isinstance(part, tuple) and part else part for part in out]
        if not all(isinstance(part, Tensor) for part in parts):
            return None
        out = torch.stack([part.float() for part in parts]).mean(0)
    out = out[0] if isinstance(out, tuple) and out else out
    if not isinstance(out, Tensor):
        return None
    if out.dim() == 2 and mode.endswith(("flat", "flat-batch")) and len(out) == steps * samples != samples:
        shape = (steps, samples) if mode.endswith("flat") else (samples, steps)
        out = out.unflatten(0, shape)
    if out.dim() == 3 and out.shape[:2] == (samples, steps) and mode.endswith(("axis1", "flat-batch")):
        out = out.transpose(0, 1)
    if out.dim() == 3 and out.shape[:2] == (steps, samples):
        out = out.float().mean(0)
    return out if out.dim() == 2 and len(out) == samples else None
