"""A network as it is evaluated: eval mode, no gradients."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def _as_evaluated(model: nn.Module) -> Any:
    """Eval mode without gradients; every module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode() if torch.is_inference_mode_enabled() else torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
