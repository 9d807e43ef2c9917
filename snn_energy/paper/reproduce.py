"""The published record: networks with the averages of a paper, their energies, the ledger and its files.

The DTS paper states the mean of T_l and the spiking activity, not the T_l, the rates, the memory prices or the widths.
Here networks are made with its averages (snn_energy.paper.calibrated_networks) and priced under every memory variant
and for all T_l that have the mean (snn_energy.paper.step_distributions). torch is imported only when such a network
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from snn_energy.core import bundled
from snn_energy.core.files import make_folder, write_texts
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.hardware.schema import MemoryVariant
from snn_energy.paper.calibrated_networks import Setting, calibrated_counts
from snn_energy.paper.ledger import DATA, HARDWARE, RATE_SETTINGS, SHIPPED, Networks, make_ledger, table_v_networks
from snn_energy.paper.record import PublishedRecord, load_record, readable
from snn_energy.paper.step_distributions import extreme_steps, memory_costs, spikformer_sources
from snn_energy.pricing.energy import Energy, estimate
from snn_energy.report.tables import csv, markdown

HARDWARE_WITH_ARRAY = "dts-paper-fpga-array"
VARIANTS: tuple[MemoryVariant, ...] = ("ws_once", "ws_reload", "psum_spill", "state_only")
SAMPLES = 2  # random images per network; activity is set on them, so more would change the third digit


# --- The networks -------------------------------------------------------------------------------------------


def settings_of(record: PublishedRecord) -> list[Setting]:
    """The networks to make: those of Table V, of both data sets, and every setting of Tables III and IV."""
    found = []
    for name in dict.fromkeys(row.rsplit(" ", 1)[0] for row in record.figures_of("table_iii_iv")):
        figure = record.figures_of("table_iii_iv")[f"{name} t_avg"]
        t_max = int(figure.settings["t_max"])
        found.append(
            Setting(
                name, "dts-spikformer-4-384", 100, t_max, t_avg=figure.value, sa=record.of_setting(name, "sa") / 100
            )
        )
    for data, classes in zip(DATA, (10, 100), strict=True):
        spikformer = record.figures_of("table_v")[f"{data} spikformer ce"].settings
        found.append(Setting(f"{data} ns_vit", "vit-4-384", classes, 1))
        rate = record.rate(RATE_SETTINGS["spikformer"])
        found.append(Setting(f"{data} spikformer", "spikformer-4-384", classes, int(spikformer["t"]), rate=rate))
    dts = record.figures_of("table_v")["cifar10 dts ce"].settings
    rate, t_avg = record.rate(RATE_SETTINGS["dts"]), float(dts["t_avg"])
    found.append(Setting("cifar10 dts", "dts-spikformer-4-384", 10, int(dts["t_max"]), t_avg=t_avg, rate=rate))
    return found


def make_networks(
    record: PublishedRecord, on_network: Callable[[str, int, int], None] | None = None, samples: int = SAMPLES
) -> dict[str, Counts]:
    """Counts of every network of ``settings_of``. The DTS network of CIFAR-100 in Table V is that of Table IV."""
    settings, found = settings_of(record), {}
    for i, setting in enumerate(settings):
        if on_network is not None:
            on_network(setting.name, i, len(settings))
        found[setting.name] = calibrated_counts(setting, samples)
    return found | {"cifar100 dts": found["IV 4 of 6 1e-4"]}


def shipped_counts(reports: Path | None) -> dict[str, Counts]:
    """Counts of the shipped networks: committed ones; without a checkout the demo's networks are profiled again."""
    from snn_energy.jobs.profile_run import profile_checkpoint
    from snn_energy.studies.demo import NETWORKS, checkpoint_path

    found = {}
    for folder, (size, _) in SHIPPED.items():
        for network in NETWORKS:
            name = network.replace("2-64", size)
            path = None if reports is None else reports / folder / f"{name}.json"
            if path is not None and path.is_file():
                found[f"{folder}/{name}"] = load_counts(path)
            elif folder == "demo":
                found[f"{folder}/{name}"] = profile_checkpoint(checkpoint_path(network), "digits", None)
    return found


# --- Ranges ---------------------------------------------------------------------------------------------------


def energy_ranges(networks: Networks) -> pd.DataFrame:
    """ME and TE of Table V under every memory variant, and between the extremes over all T_l of the same mean.

    Columns: data, network, memory, t_l (as made, 1..T_max, 0..T_max), me_low, me_high, te_low, te_high.
    """
    rows = []
    for data in DATA if networks else ():
        counts = table_v_networks(networks, data)
        dts = counts["dts"]
        layers = dts.spiking_layers()
        total, highest = int(layers["t_l"].sum()), dts.time_steps
        for variant in VARIANTS:
            energies = {row: estimate(c, HARDWARE_WITH_ARRAY, memory=variant) for row, c in counts.items()}
            costs = memory_costs(dts, HARDWARE_WITH_ARRAY, variant, spikformer_sources(4))
            memory_spans = {"as made": (energies["dts"].memory_pj, energies["dts"].memory_pj)}
            for lowest in (1, 0):
                ends = [extreme_steps(costs, total, lowest, highest, largest) for largest in (False, True)]
                low, high = (float(costs.energy_pj(steps)) for steps in ends)
                memory_spans[f"{lowest}..T_max"] = (low, high)
            for row in ("ns_vit", "spikformer"):
                for label, (low, high) in memory_spans.items():
                    rows.append(_range_row(data, row, variant, label, energies, low, high))
    return pd.DataFrame(rows, columns=["data", "network", "memory", "t_l", "me_low", "me_high", "te_low", "te_high"])


def _range_row(
    data: str, row: str, variant: str, label: str, energies: Mapping[str, Energy], low: float, high: float
) -> dict[str, Any]:
    """ME and TE between the DTS networks of highest and lowest memory energy."""
    energy, compute = energies[row], energies["dts"].compute_pj
    total = energy.compute_pj + energy.memory_pj
    ratios = (energy.memory_pj / high, energy.memory_pj / low, total / (compute + high), total / (compute + low))
    names = ("me_low", "me_high", "te_low", "te_high")
    kept = {name: float(f"{ratio:.6g}") for name, ratio in zip(names, ratios, strict=True)}
    return {"data": data, "network": row, "memory": variant, "t_l": label, **kept}


# --- Results --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reproduction:
    """The ledger, the ranges of Table V and the table of the made networks."""

    record: PublishedRecord
    ledger: pd.DataFrame
    ranges: pd.DataFrame
    networks: pd.DataFrame


def network_table(networks: Networks) -> pd.DataFrame:
    """One row per made network: activity, work, energy as made (ws_once), and the T_l in forward order."""
    rows = []
    for name, counts in networks.items():
        activity, layers, energy = counts.activity(), counts.spiking_layers(), estimate(counts, HARDWARE)
        numbers = {
            "t_avg": activity["t_avg"],
            "sa": activity["sa"],
            "rate_active": activity["rate_active"],
            "lowest_rate_active": None if layers.empty else float(layers["rate_active"].min()),
            "highest_rate_active": None if layers.empty else float(layers["rate_active"].max()),
            "sops_per_sample": activity["sops_per_sample"],
            "real_macs_per_sample": activity["real_macs_per_sample"],
            "compute_pj": energy.compute_pj,
            "memory_pj": energy.memory_pj,
        }
        kept = {key: None if value is None else float(f"{value:.6g}") for key, value in numbers.items()}
        t_l = " ".join(str(int(t)) for t in layers["t_l"])
        rows.append({"network": name, "model": counts.model, "time_steps": counts.time_steps, **kept, "t_l": t_l})
    return pd.DataFrame(rows)


def reproduce(on_network: Callable[[str, int, int], None] | None = None, reports: Path | None = None) -> Reproduction:
    """Make the networks and the ledger. reports: folder of the committed counts, by default the checkout's."""
    record, reports_folder = load_record(), bundled.reports() if reports is None else reports
    networks = make_networks(record, on_network)
    ranges = energy_ranges(networks)
    ledger = make_ledger(record, networks, shipped_counts(reports_folder), read_ablation(reports_folder), ranges)
    return Reproduction(record, ledger, ranges, network_table(networks))


def read_ablation(reports: Path | None) -> pd.DataFrame | None:
    """The committed ablation on the digits."""
    path = None if reports is None else reports / "ablation-digits" / "ablation.csv"
    return pd.read_csv(path) if path is not None and path.is_file() else None


def write_report(found: Reproduction, out: str | Path) -> list[Path]:
    """Ledger, ranges, networks and figures into a folder. Raises OutputError."""
    from snn_energy.paper.plots import sops_figure, table_v_figure
    from snn_energy.report.plots.style import save_figure

    folder = make_folder(out)
    texts = {
        folder / "ledger.csv": csv(found.ledger),
        folder / "ledger.md": ledger_markdown(found),
        folder / "memory-ranges.csv": csv(found.ranges),
        folder / "memory-ranges.md": markdown(found.ranges),
        folder / "networks.csv": csv(found.networks),
    }
    write_texts(texts)
    written = [*texts, *save_figure(table_v_figure(found.ledger), folder / "table-v")]
    return written + save_figure(sops_figure(found.ledger), folder / "sops")


def titles_of(record: PublishedRecord) -> dict[str, str]:
    """Headings of the sections of the ledger, in its order."""
    extra_titles = {
        "contradictions": "Contradictions within Table V (and III): the same arithmetic on the printed figures"
    }
    order = ["energy_arithmetic", "sata", "architectures", "latency", "table_v", "contradictions", "table_i"]
    return {name: (dict(record.titles) | extra_titles)[name] for name in [*order, "table_iii_iv", "verdict"]}


def sections(found: Reproduction) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Heading, citation and readable rows of every section."""
    text = readable(found.ledger, found.record)
    for name, title in titles_of(found.record).items():
        rows = np.flatnonzero((found.ledger["section"] == name).to_numpy())
        yield title, found.record.citations.get(name, found.record.citations["table_v"]), text.iloc[rows]


INTRODUCTION = """\
# The published record

Made by `snn-energy reproduce`. **exact** rows come out to the printed digits. **ledger** rows are printed with the
residual, ours - published, whatever it is: nothing is fitted to them. Energies on `dts-paper-fpga`, `ws_once`.

"Made" networks are Spikformer-4-384 with random weights on {samples} random images (no CIFAR images are needed),
whose T_l have the published mean and whose layers all fire at the published activity (`networks.csv`). The range of
ME and TE is over the four weight-stationary memory variants and all T_l of 1..T_max that have that mean, found exactly
(`memory-ranges.csv`, also for 0..T_max; `psum_spill` on `dts-paper-fpga-array`, whose array is assumed).
"""


def ledger_markdown(found: Reproduction) -> str:
    """The ledger as Markdown, with its figures."""
    parts = [INTRODUCTION.format(samples=SAMPLES)]
    pictures = {
        "table_v": ("Table V, published and ours", "table-v.png"),
        "table_iii_iv": ("SOPs, published and ours", "sops.png"),
    }
    for (title, citation, rows), name in zip(sections(found), titles_of(found.record), strict=True):
        parts.append(f"## {title}\n\n{citation}\n\n{markdown(rows)}")
        if name in pictures:
            text, file = pictures[name]
            parts.append(f"![{text}]({file})\n")
    return "\n".join(parts)
