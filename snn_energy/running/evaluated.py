"""Evaluation of a network: checks of model and loader, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError


def require_model_and_loader(model: object, loader: object) -> None:
    """Raise ProfilingError unless the model is a module and the loader an iterable of batches."""
    if not isinstance(model, nn.Module):
        raise ProfilingError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(loader, (Tensor, str)) or not isinstance(loader, Iterable):
        what = (
            "one tensor; give a list of batches, such as [x]" if isinstance(loader, Tensor) else type(loader).__name__
        )
        raise ProfilingError(f"loader must be an iterable of x or (x, y) batches, not {what}")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the training flag of every module is restored on exit."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode() if torch.is_inference_mode_enabled() else torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
