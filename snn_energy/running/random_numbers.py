"""Whether random numbers are drawn: by torch, NumPy or Python."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RandomNumbers:
    """The states of the global generators at one time. device: where the network computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states = self._read()

    def were_drawn(self) -> bool:
        """True if a number was drawn since."""
        (torch_then, *then), (torch_now, *now) = self._states, self._read()
        return then != now or not all(torch.equal(a, b) for a, b in zip(torch_then, torch_now, strict=True))

    def _read(self) -> tuple[Any, ...]:
        numpy_state = np.random.get_state(legacy=False)
        states = [torch.get_rng_state()]
        states += [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return states, pickle.dumps(numpy_state), random.getstate()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other seeds for all generators; those of NumPy and Python are put back on exit, torch's are the caller's."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
