"""Detects and undoes changes of weights in a run that inspects a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from snn_energy.core.errors import ProfilingError
from snn_energy.running.module_state import version_of

MOST_COPIED = 50_000_000  # weights


@contextmanager
def unchanged_weights(model: nn.Module) -> Iterator[None]:
    """Raise ProfilingError if a forward has changed weights, as it could not be counted; the weights are restored.

    Networks with more than ``MOST_COPIED`` weights are not copied: changes are detected by torch's version counters
    and not undone.
    """
    held = [(module, name, p, version_of(p)) for module in model.modules() for name, p in _own_weights(module)]
    is_small = sum(p.numel() for _, _, p, _ in held) <= MOST_COPIED
    copies = [p.detach().clone() if is_small else p for _, _, p, _ in held]
    problem: Exception | None = None
    try:
        yield
    except ProfilingError as error:
        problem = error
    changed = [
        (module, name, p, values)
        for (module, name, p, version), values in zip(held, copies, strict=True)
        if module._parameters.get(name) is not p
        or version_of(p) != version
        or not (values is p or torch.equal(p, values))
    ]
    with torch.no_grad():
        for module, name, p, values in changed:
            module._parameters[name] = p
            p.copy_(values)
    if problem is not None and not changed:
        raise problem
    if changed:
        raise ProfilingError(
            f"{type(model).__name__}: it changes its own weights when it is run, so every sample is another network's; "
            "switch the learning off"
        )


def _own_weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in module._parameters.items() if p is not None and not p.is_meta]
