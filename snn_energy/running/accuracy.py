"""Accuracy from the output of a network: logits per sample, averaged over time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.running.time_mode import TimeMode


def correct_samples(out: Any, y: Any, mode: TimeMode, steps: int, samples: int) -> int | None:
    """Number of correctly classified samples of a batch; None if there are no labels or no logits.

    out: result of ``TimeMode.run``. y: (B,) class indices. Raises ProfilingError for another number of labels.
    """
    logits = mode.logits(out, steps, samples)
    labels = torch.as_tensor(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else None
    if labels is not None and labels.dim() == 1 and not labels.is_floating_point() and len(labels) != samples:
        raise ProfilingError(f"the loader gave {len(labels)} labels for {samples} samples; give one a sample, or none")
    if logits is None or labels is None or labels.shape != (samples,) or labels.is_floating_point():
        return None
    return count_hits(logits, labels)


def count_hits(logits: Tensor, labels: Tensor) -> int:
    """Number of rows of the logits (B, classes) whose maximum is at the label (B,)."""
    return int((logits.argmax(1).cpu() == labels.cpu()).sum())
