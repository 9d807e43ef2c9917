"""An operation with weights as a matrix product, and the number of weights that each input position meets."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """An operation as a matrix product, per image and step: M = positions, K = reduction, N = out_channels.

    ``fan_out`` (P,): number of weights that each input position meets (a single number for linear layers).
    For a transposed convolution M counts input positions, as fvcore does, so that dense MACs = M*K*N always.
    ``steps_fed`` (T, T): a kernel that runs along time; at row t, column t' how many outputs of step t' one position
    of step t feeds. None where every step feeds its own outputs alone.
    """

    positions: int
    reduction: int
    out_channels: int
    groups: int
    weights: int
    biases: int
    fan_out: npt.NDArray[np.int64]
    steps_fed: npt.NDArray[np.int64] | None = None

    @property
    def dense_macs(self) -> int:
        """M*K*N."""
        return self.positions * self.reduction * self.out_channels

    @functools.cached_property
    def uniform_fan_out(self) -> int | None:
        """The fan-out if it is equal at all positions, else None."""
        if not len(self.fan_out):
            return 0
        return int(self.fan_out[0]) if bool((self.fan_out == self.fan_out[0]).all()) else None

    @functools.cached_property
    def _fan_out_on(self) -> dict[torch.device, Tensor]:
        return {}

    def fan_out_on(self, device: torch.device) -> Tensor:
        """``fan_out`` as (P,) float64 on a device."""
        if device not in self._fan_out_on:
            self._fan_out_on[device] = torch.from_numpy(self.fan_out).to(device=device, dtype=torch.float64)
        return self._fan_out_on[device]

    def at_their_outputs(self, sops: Tensor) -> Tensor:
        """Accumulates (R,) by the step of the input, as accumulates by the step of the output that they belong to."""
        if self.steps_fed is None:
            return sops
        fed = torch.from_numpy(self.steps_fed).to(device=sops.device, dtype=torch.float64)
        of_steps = sops.reshape(len(self.steps_fed), -1).to(torch.float64)
        return (fed.T @ of_steps).to(torch.int64).reshape(-1)
