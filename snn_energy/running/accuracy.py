"""What a network's output says of its accuracy: logits per sample, averaged over time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.running.time_mode import TimeMode


def right_answers(out: Any, y: Any, mode: TimeMode, steps: int, samples: int) -> int | None:
    """How many samples of a batch the largest logit gets right; None where there are no labels or no logits.

    out: what the model gave, a list of that per step where it is called once per step. y: (B,) classes.
    """
    logits = mode.logits(out, steps, samples)
    labels = torch.as_tensor(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else None
    if labels is not None and labels.dim() == 1 and not labels.is_floating_point() and len(labels) != samples:
        raise ProfilingError(f"the loader gave {len(labels)} labels for {samples} samples; give one a sample, or none")
    if logits is None or labels is None or labels.shape != (samples,) or labels.is_floating_point():
        return None
    return count_hits(logits, labels)


def count_hits(logits: Tensor, labels: Tensor) -> int:
    """How many of the logits (B, classes) have their maximum at the label (B,)."""
    return int((logits.argmax(1).cpu() == labels.cpu()).sum())
