"""Evaluation of a network: checks of model and loader, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.running.backends import runnable_backends
from snn_energy.running.module_state import holds_inference_tensors


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
    """Eval mode without gradients; the training flag of every module is restored on exit.

    Neurons whose backend cannot run here use torch's. Under inference mode too where the model holds a state of an
    evaluation under it: nothing else may change that one.
    """
    modes = [(module, module.training) for module in model.modules()]
    needs_inference_mode = torch.is_inference_mode_enabled() or holds_inference_tensors(model)
    try:
        model.eval()
        with torch.inference_mode() if needs_inference_mode else torch.no_grad(), runnable_backends(model):
            yield
    finally:
        for module, training in modes:
            module.training = training
