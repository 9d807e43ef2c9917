"""Speed-ups of a training step on this machine, and checks of what this machine supports."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from collections.abc import Callable, Iterator

import torch

from snn_energy.models import spikformer_fused as fused
from snn_energy.models.spikformer import Spikformer
from snn_energy.training.recipe import Recipe

log = logging.getLogger("snn_energy")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEEP_BYTES = 2**30  # blocks up to this size are kept for the next step
DEFAULT_BYTES = 128 * 2**10  # glibc's own start values


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """The process keeps freed memory until the end, instead of returning it and having it zeroed again every step.

    Sets glibc's mmap and trim thresholds; without glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        yield
        return
    mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, DEFAULT_BYTES)
        mallopt(M_TRIM_THRESHOLD, DEFAULT_BYTES)
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def work_clock(device: torch.device, threads: int) -> Callable[[], float]:
    """A clock in seconds that runs while this process works: on a CPU, processor time divided by its threads.

    So neither pauses nor the load of other jobs count. On a CUDA device it is wall time.
    """
    if device.type == "cpu":
        return lambda: time.process_time() / threads
    return time.monotonic


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32: CUDA, AMX, AVX512_BF16, or Arm's."""
    if device.type != "cpu":
        return True
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return True  # Arm with BF16 instructions
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def forward_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass; float32, with a warning, if bfloat16 is requested but not supported."""
    if recipe.precision == "float32":
        return torch.float32
    if has_bfloat16(device):
        return torch.bfloat16
    log.warning("%s: this CPU has no bfloat16 instructions, so it trains in float32", recipe.name)
    return torch.float32


def enable_fused(model: torch.nn.Module, recipe: Recipe, device: torch.device, processes: int) -> None:
    """Enable the network's fused training path, or warn why it trains with plain operations."""
    if not recipe.fused or not isinstance(model, Spikformer):
        return
    reason = fused.compile_error(device.type) if processes == 1 else "BatchNorms sum over several processes"
    if reason is None:
        model.fused = True
    else:
        log.warning("%s: BatchNorm and neurons are not fused (%s); training is slower", recipe.name, reason)
