"""The choices in which published figures for the same network differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict, get_args

from snn_energy.core.errors import SnnEnergyError, nearest
from snn_energy.core.vocabulary import EncoderPolicy as EncoderPolicy
from snn_energy.core.vocabulary import IntegerPolicy as IntegerPolicy
from snn_energy.core.vocabulary import ProductPolicy as ProductPolicy
from snn_energy.hardware.schema import MEMORY_VARIANTS, HardwareProfile, MemoryVariant


@dataclass(frozen=True)
class Policies:
    """The choices in which published figures for the same network differ; every result records its own.

    integer: how sums of spikes are charged (e_ac*sops, e_ac*sops_multi, e_mac*sops, e_mac*dense_macs). products:
    coincidences of both operands, or gated by the streamed one. encoder: a repeated real input is charged per step
    or once. memory: see snn_energy.pricing.memory.
    """

    memory: MemoryVariant = "ws_once"
    integer: IntegerPolicy = "ac"
    products: ProductPolicy = "coincidence"
    encoder: EncoderPolicy = "per-step"

    def __post_init__(self) -> None:
        choices: Mapping[str, tuple[str, ...]] = {
            "memory": MEMORY_VARIANTS,
            "integer": get_args(IntegerPolicy),
            "products": get_args(ProductPolicy),
            "encoder": get_args(EncoderPolicy),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise SnnEnergyError(
                    f"unknown {name} policy '{value}'{nearest(str(value), allowed)}; choose one of {', '.join(allowed)}"
                )


class PolicyOptions(TypedDict, total=False):
    """Policies as options of ``estimate`` and similar functions; memory None: the profile's own variant."""

    memory: MemoryVariant | None
    integer: IntegerPolicy
    products: ProductPolicy
    encoder: EncoderPolicy


class EstimateOptions(PolicyOptions, total=False):
    """The policies, and the layers that run elsewhere."""

    without: Iterable[str]


def make_policies(
    hardware: HardwareProfile,
    memory: MemoryVariant | None = None,
    integer: IntegerPolicy = "ac",
    products: ProductPolicy = "coincidence",
    encoder: EncoderPolicy = "per-step",
) -> Policies:
    """The policies of an estimate: the memory variant is the profile's own unless one is given."""
    own: MemoryVariant = "ws_once" if hardware.memory is None else hardware.memory.variant
    return Policies(own if memory is None else memory, integer, products, encoder)
