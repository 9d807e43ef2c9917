"""How memory energy depends on the distribution of the active steps over layers, at one T_avg. No torch here.

A paper states the mean of T_l over the spiking layers, not the T_l. Memory energy follows from the T_l: a spiking layer
costs its T_l steps, an operation its A active steps (design, section 4), and its weights once or in every active step.

    energy(T) = constant + sum_l step_l T_l + sum_o (step_o A_o(T) + first_o [A_o(T) > 0])

``extreme_steps`` finds the T_l of smallest and largest energy with a given sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import SnnEnergyError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.hardware.schema import HardwareProfile, MemoryVariant
from snn_energy.pricing.charged_work import FloatArray
from snn_energy.pricing.energy import estimate
from snn_energy.pricing.memory import LOADED_ONCE

ActiveSteps = npt.NDArray[np.int64]  # (..., spiking layers) active steps T_l


@dataclass(frozen=True)
class Sources:
    """The LIF layers that an operation reads. It is active at t if any of them is; a product if all are."""

    lifs: tuple[str, ...]
    product: bool = False


def spikformer_sources(depth: int) -> dict[str, Sources]:
    """Operation -> LIF layers, of a Spikformer with ``depth`` blocks, in the order in which they run.

    Max-pools are transparent; a residual sum reads all of its terms; ``attn#matmul1`` reads the first product and
    v. Without ``sps.conv0`` and ``head``, which read the image and the mean over time.
    """
    found = {f"sps.conv{i}": Sources((f"sps.lif{i - 1}",)) for i in (1, 2, 3)}
    found["sps.rpe_conv"] = Sources(("sps.lif3",))
    stream: tuple[str, ...] = ("sps.lif3", "sps.rpe_lif")
    for block in (f"blocks.{i}" for i in range(depth)):
        q, k, v = (f"{block}.attn.{name}_lif" for name in "qkv")
        found |= {f"{block}.attn.{name}_conv": Sources(stream) for name in "qkv"}
        found[f"{block}.attn#matmul0"] = Sources((q, k), product=True)
        found[f"{block}.attn#matmul1"] = Sources((q, k, v), product=True)
        found[f"{block}.attn.proj_conv"] = Sources((f"{block}.attn.lif",))
        stream = (*stream, f"{block}.attn.proj_lif")
        found[f"{block}.mlp.fc1_conv"] = Sources(stream)
        found[f"{block}.mlp.fc2_conv"] = Sources((f"{block}.mlp.fc1_lif",))
        stream = (*stream, f"{block}.mlp.fc2_lif")
    return found


@dataclass(frozen=True)
class MemoryCosts:
    """Memory energy per sample in pJ as a function of T_l.

    lifs, lif_step_cost: spiking layers and the cost of a step of each. sources, step_cost, first_step_cost: for every
    operation its sources, the cost of an active step and the additional cost of the first. constant: the part that does
    not depend on T_l.
    """

    lifs: tuple[str, ...]
    lif_step_cost: FloatArray
    sources: tuple[Sources, ...]
    step_cost: FloatArray
    first_step_cost: FloatArray
    constant: float

    def active_steps(self, steps: ActiveSteps) -> ActiveSteps:
        """T_l (..., spiking layers) -> A (..., operations): the maximum over its sources, for a product the minimum."""
        at = {name: i for i, name in enumerate(self.lifs)}
        columns = [
            (np.min if s.product else np.max)(steps[..., [at[name] for name in s.lifs]], axis=-1) for s in self.sources
        ]
        return np.stack(columns, axis=-1)

    def energy_pj(self, steps: ActiveSteps) -> FloatArray:
        """T_l (..., spiking layers) -> memory energy (...)."""
        active = self.active_steps(steps)
        found = (
            self.constant + steps @ self.lif_step_cost + active @ self.step_cost + (active > 0) @ self.first_step_cost
        )
        return np.asarray(found, dtype=np.float64)


def memory_costs(
    counts: Counts, hardware: str | HardwareProfile, variant: MemoryVariant, sources: Mapping[str, Sources]
) -> MemoryCosts:
    """The cost of a step of every layer, from the energy of a network in which every layer is active at least once.

    Bits per element are those of the counts; the growth of sums of spikes with other T_l is neglected.
    Raises SnnEnergyError for layers that do not match the map, or that are never active.
    """
    rows = estimate(counts, hardware, memory=variant).charges
    rows = rows.assign(active=counts.rows["active"].to_numpy())
    rows = rows[rows["op"].isin((*OPERATIONS, "neuron"))]
    loaded = rows["weights_pj"] if variant in LOADED_ONCE else 0.0
    per_step = (rows["memory_pj"] - loaded).where(rows["active"]).groupby(rows["layer"], sort=False).agg(["min", "max"])
    if per_step.isna().to_numpy().any():
        names = ", ".join(per_step.index[per_step["min"].isna()][:3])
        raise SnnEnergyError(f"{counts.model}: the cost of a step is unknown for layers that are never active: {names}")
    if not np.allclose(per_step["min"], per_step["max"], rtol=1e-9):
        raise SnnEnergyError(
            f"{counts.model}: steps of a layer differ in cost (drop_first_last), so no single cost represents them"
        )
    first = (rows["memory_pj"] * 0 + loaded).groupby(rows["layer"], sort=False).sum()
    lifs = tuple(dict.fromkeys(rows.loc[rows["op"] == "neuron", "layer"]))
    unknown = {lif for s in sources.values() for lif in s.lifs} - set(lifs) | set(sources) - set(rows["layer"])
    if unknown:
        raise SnnEnergyError(f"{counts.model}: no layer {min(unknown)}; the map of sources is that of another network")
    constant_rows = rows[~rows["layer"].isin([*lifs, *sources])]
    return MemoryCosts(
        lifs,
        _values_of(per_step["max"], lifs),
        tuple(sources.values()),
        _values_of(per_step["max"], list(sources)),
        _values_of(first, list(sources)),
        float(constant_rows["memory_pj"].sum()),
    )


def _values_of(values: pd.Series, names: Sequence[str]) -> FloatArray:
    return values[list(names)].to_numpy(dtype=np.float64)


def extreme_steps(costs: MemoryCosts, total: int, lowest: int, highest: int, largest: bool = False) -> ActiveSteps:
    """T_l between ``lowest`` and ``highest`` that sum to ``total``, of smallest (or largest) memory energy. Exact.

    Dynamic programming: T_l are chosen layer by layer, those of one product together. The remaining choices depend only
    on two numbers, the steps used and the active steps of the residual stream; for each pair the best is kept.
    Raises SnnEnergyError if no T_l have that sum, or if there is more than one residual stream.
    """
    layers, sign = len(costs.lifs), -1.0 if largest else 1.0
    if not lowest * layers <= total <= highest * layers:
        raise SnnEnergyError(f"no {layers} T_l of {lowest} to {highest} have the sum {total}")
    stream = _stream(costs)
    best: dict[tuple[int, int], tuple[float, Any]] = {(0, 0): (0.0, None)}
    for group in sorted(_groups(costs), key=lambda g: -1 if g[0] not in stream else stream.index(g[0])):
        is_in_stream = group[0] in stream
        options = _options(costs, group, lowest, highest, sign)
        stream_readers_energy = (
            _read_after(costs, stream[: stream.index(group[0]) + 1], highest, sign) if is_in_stream else [0.0]
        )
        found: dict[tuple[int, int], tuple[float, Any]] = {}
        for (stream_steps, steps_used), (value, chosen) in best.items():
            for price, steps in options:
                key = max(stream_steps, steps[0]) if is_in_stream else stream_steps, steps_used + sum(steps)
                if key[1] > total:
                    continue
                new = value + price + (stream_readers_energy[key[0]] if is_in_stream else 0.0)
                if key not in found or new < found[key][0]:
                    found[key] = new, (chosen, group, steps)
        best = found
    complete = [found for (_, steps_used), found in best.items() if steps_used == total]
    chosen = min(complete, key=lambda found: found[0])[1]
    result = np.zeros(layers, dtype=np.int64)
    while chosen is not None:
        chosen, group, steps = chosen
        result[[costs.lifs.index(name) for name in group]] = steps
    return result


def _stream(costs: MemoryCosts) -> tuple[str, ...]:
    """The layers of the residual stream, in the order in which they are added. Raises SnnEnergyError."""
    sums = [s.lifs for s in costs.sources if not s.product and len(s.lifs) > 1]
    stream = max(sums, key=len, default=())
    if any(stream[: len(lifs)] != lifs for lifs in sums):
        raise SnnEnergyError("the operations read more than one residual stream; extremes can be found for one only")
    return stream


def _groups(costs: MemoryCosts) -> list[tuple[str, ...]]:
    """Spiking layers in groups: those that a product reads are one group."""
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in costs.lifs}
    for source in costs.sources:
        if source.product:
            joined = tuple(dict.fromkeys(n for name in source.lifs for n in groups[name]))
            groups |= dict.fromkeys(joined, joined)
    return list(dict.fromkeys(groups.values()))


def _options(
    costs: MemoryCosts, group: tuple[str, ...], lowest: int, highest: int, sign: float
) -> list[tuple[float, tuple[int, ...]]]:
    """The best T_l of a group for every sum: (signed energy of the group and of operations that read only it, T_l)."""
    found: dict[int, tuple[float, tuple[int, ...]]] = {}
    own = [float(costs.lif_step_cost[costs.lifs.index(name)]) for name in group]
    exclusive_operations = [
        ([group.index(name) for name in s.lifs], float(step), float(once))
        for s, step, once in zip(costs.sources, costs.step_cost, costs.first_step_cost, strict=True)
        if set(s.lifs) <= set(group)
    ]
    for steps in product(range(lowest, highest + 1), repeat=len(group)):
        value = sum(o * t for o, t in zip(own, steps, strict=True))
        for members, step, once in exclusive_operations:
            active = min(steps[i] for i in members)
            value += step * active + (once if active else 0.0)
        if sum(steps) not in found or sign * value < found[sum(steps)][0]:
            found[sum(steps)] = sign * value, steps
    return list(found.values())


def _read_after(costs: MemoryCosts, added: tuple[str, ...], highest: int, sign: float) -> list[float]:
    """Signed energy of the operations that read the stream after these were added, by its active steps."""
    rows = [i for i, s in enumerate(costs.sources) if s.lifs == added and len(added) > 1]
    step, once = float(costs.step_cost[rows].sum()), float(costs.first_step_cost[rows].sum())
    return [sign * (step * active + (once if active else 0.0)) for active in range(highest + 1)]
