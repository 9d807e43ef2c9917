"""Several processes that train one network with the result of one process: ``torchrun -m snn_energy train ...``.

Every process draws the same random numbers for the whole batch and computes its part of the batch. BatchNorm sums,
gradients and logged figures are summed over all processes. Without torchrun, all of this has no effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError, RecipeError


@dataclass(frozen=True)
class Processes:
    """Rank of this process, number of processes, and the device of this process."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    def part(self, count: int) -> Tensor:
        """Indices of a batch of ``count`` for this process, ascending; i and count - 1 - i share a process."""
        places = torch.arange(count)
        return places[torch.minimum(places, count - 1 - places) % self.size == self.rank]

    def add_up(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def add_up_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over all processes."""
        if self.size > 1:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            together = self.add_up(torch.cat([g.flatten() for g in gradients]))
            for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def wait(self) -> None:
        """Block until all processes have called this."""
        if self.size > 1:
            with _other_process_errors():
                dist.barrier()

    def broadcast(self, words: Any) -> Any:
        """Return the object of the first process in all processes."""
        box = [words]
        if self.size > 1:
            with _other_process_errors():
                dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def _other_process_errors() -> Iterator[None]:
    """Raise a one-line ProfilingError if another process has failed; that process reports the cause."""
    try:
        yield
    except RuntimeError as error:
        raise ProfilingError(
            "another process of this run has failed, and has said why; what was counted is kept: fix that and run the "
            "same command again"
        ) from error


def device_type(device: str) -> str:
    """``auto`` becomes cuda if available, else cpu; any other name is returned unchanged."""
    return device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def processes(device: str, *, backend: str | None = None, timeout: timedelta | None = None) -> Iterator[Processes]:
    """The group that torchrun has started, or this process only. device: auto, cpu or cuda. Raises RecipeError.

    backend: default nccl for CUDA devices, else gloo. timeout: maximum wait for another process; default: that of
    torch.
    """
    chosen = device_type(device)
    if chosen not in ("cpu", "cuda"):
        raise RecipeError(f"device must be auto, cpu or cuda, not '{device}'")
    if chosen == "cuda" and not torch.cuda.is_available():
        raise RecipeError("device cuda: this torch finds no CUDA device; use device cpu")
    if not dist.is_torchelastic_launched():
        yield Processes(0, 1, torch.device(chosen))
        return
    local = int(os.environ["LOCAL_RANK"])
    place = torch.device(chosen, local) if chosen == "cuda" else torch.device("cpu")
    if chosen == "cuda":
        if local >= torch.cuda.device_count():
            raise RecipeError(f"{local + 1} processes on this machine, but {torch.cuda.device_count()} CUDA devices")
        torch.cuda.set_device(place)
    dist.init_process_group(backend or ("nccl" if chosen == "cuda" else "gloo"), timeout=timeout)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].clone()
        dist.all_reduce(summed)
        return summed


def summed_batch_norm(x: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """BatchNorm in training mode over the batch of all processes. x: (B, C, ...), where B may be 0 in one process.

    Ioffe and Szegedy 2015; two passes as in torch: the mean, then the squared deviations from it.
    """
    over = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    values = x.float()
    count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
    sums: Tensor = _SumOverProcesses.apply(torch.cat([values.sum(over), count]))  # type: ignore[no-untyped-call]
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = values - mean.view(shape)
    variance: Tensor = _SumOverProcesses.apply(centred.square().sum(over)) / total  # type: ignore[no-untyped-call]
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum or 0.0)
        norm.running_var.lerp_(variance * total / (total - 1), norm.momentum or 0.0)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


class SummedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d with statistics over the batch of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, N)."""
        return summed_batch_norm(x, self) if self.training else super().forward(x)


class SummedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with statistics over the batch of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        return summed_batch_norm(x, self) if self.training else super().forward(x)


def join_batch_norms(model: nn.Module) -> None:
    """Make every BatchNorm1d and BatchNorm2d sum over all processes; names and weights are unchanged."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SummedBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SummedBatchNorm2d
