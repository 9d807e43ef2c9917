"""Neurons of SpikingJelly that ask for a backend which this machine lacks: torch's gives the same."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

ON_DEVICE = ("cupy", "triton")  # backends that need a CUDA device
_CHECKS = {  # module of SpikingJelly -> its function that refuses a backend whose library is missing
    "spikingjelly.clock_driven.neuron": "check_backend",
    "spikingjelly.activation_based.base": "check_backend_library",
}


def replaced_backends(model: nn.Module) -> dict[str, str]:
    """Layer -> the backend that it asks for and that cannot run here."""
    found = {}
    for name, module in model.named_modules():
        backend = vars(module).get(_attribute_of(module))
        if backend in ON_DEVICE and _is_of_spikingjelly(module) and not _runs_on_device(model, backend):
            found[name] = str(backend)
    return found


@contextmanager
def runnable_backends(model: nn.Module) -> Iterator[None]:
    """Torch's backend for the neurons that ``replaced_backends`` lists; on exit they have their own again."""
    changed = [(model.get_submodule(name), backend) for name, backend in replaced_backends(model).items()]
    for module, _ in changed:
        vars(module)[_attribute_of(module)] = "torch"
    try:
        yield
    finally:
        for module, backend in changed:
            vars(module)[_attribute_of(module)] = backend


@contextmanager
def any_backend() -> Iterator[None]:
    """While a network is built: SpikingJelly, where it is imported, accepts a backend whose library is missing."""
    before = []
    for module_name, check in _CHECKS.items():
        module = sys.modules.get(module_name)
        if module is not None and hasattr(module, check):
            before.append((module, check, getattr(module, check)))
            setattr(module, check, lambda backend: None)
    try:
        yield
    finally:
        for module, check, function in before:
            setattr(module, check, function)


def backend_hint(error: BaseException) -> str:
    """What to write where a network cannot be built for the sake of a backend; empty for any other error."""
    text = str(error).lower()
    if "unexpected keyword argument 'backend'" in text:
        return "; this version of the framework has no backends: leave backend= out where the neurons are made"
    if "cupy" in text and not isinstance(error, SyntaxError):
        return "; set backend='torch' where the neurons are made: it counts the same, and needs no CuPy"
    return ""


def _attribute_of(module: nn.Module) -> str:
    return "_backend" if "_backend" in vars(module) else "backend"


def _is_of_spikingjelly(module: nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == "spikingjelly" for kind in type(module).__mro__)


def _runs_on_device(model: nn.Module, backend: str) -> bool:
    devices: set[Any] = {p.device.type for p in model.parameters()}
    return devices == {"cuda"} and torch.cuda.is_available() and importlib.util.find_spec(backend) is not None
