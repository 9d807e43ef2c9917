"""A network as it is evaluated: what it may be given, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError


def require_model_and_loader(model: object, loader: object) -> None:
    """Raise ProfilingError for what is no module, or no iterable of batches."""
    if not isinstance(model, nn.Module):
        raise ProfilingError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(loader, (Tensor, str)) or not isinstance(loader, Iterable):
        what = (
            "one tensor; give a list of batches, such as [x]" if isinstance(loader, Tensor) else type(loader).__name__
        )
        raise ProfilingError(f"loader must be an iterable of x or (x, y) batches, not {what}")


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode() if torch.is_inference_mode_enabled() else torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
