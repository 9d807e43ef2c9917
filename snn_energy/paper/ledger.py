"""The rows of the ledger, section by section: every published figure, ours next to it, and why they differ.

Rows are computed from counts; a row whose network was not made (snn_energy.paper.reproduce) has no figure of ours.
No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from snn_energy.analysis.break_even import spikes_per_synapse
from snn_energy.analysis.comparison import compare
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.numbers import numbers
from snn_energy.paper.record import CALIBRATED_VARIANT, Figure, PublishedRecord, as_frame, derived, ledger_row
from snn_energy.pricing.energy import estimate

HARDWARE = "dts-paper-fpga"
ARITHMETIC = "horowitz-45nm-fp32"  # the prices of published energy arithmetic
DATA = ("cifar10", "cifar100")
LABELS = {"ns_vit": "vit", "spikformer": "spikformer", "dts": "dts-spikformer"}  # row of Table V -> family
RATE_SETTINGS = {"dts": "III all groups", "spikformer": "IV 4 of 4 1e-4"}  # settings whose rate per active step is used
SHIPPED = {"demo": ("2-64", "digits"), "cifar10": ("2-128", "JPEG-coded CIFAR-10")}  # folder -> size, data

Rows = Iterator[dict[str, Any]]
Networks = Mapping[str, Counts]  # made ones, by the name of their setting
Shipped = Mapping[str, Counts]  # "cifar10/vit-2-128" -> counts


def make_ledger(
    record: PublishedRecord, networks: Networks, shipped: Shipped, ablation: pd.DataFrame | None, ranges: pd.DataFrame
) -> pd.DataFrame:
    """Every row; if ``networks`` is empty, those that need a network have no figure of ours."""
    rows = [
        *exact_rows(record),
        *table_v_rows(record, networks, shipped, ranges),
        *contradiction_rows(record, networks),
        *table_i_rows(record, shipped),
        *table_iii_iv_rows(record, networks, ablation, shipped),
        *verdict_rows(record, networks, shipped),
    ]
    return as_frame(rows)


# --- Exact figures ------------------------------------------------------------------------------------------


def exact_rows(record: PublishedRecord) -> Rows:
    """Energy arithmetic, SATA, architectures, latency: through the public API and the files of published counts."""
    for name, figure in record.figures_of("energy_arithmetic").items():
        energy = estimate(load_counts(f"published:energy-arithmetic:{name}"), ARITHMETIC)
        yield ledger_row(figure, energy.compute_pj / 1e9, _arithmetic_why(name))
    for name, figure in record.figures_of("sata").items():
        total_uj = estimate(load_counts(f"published:sata:{name}"), "sata").total_pj * 1e-6
        yield ledger_row(figure, total_uj, "to six digits: the prices of its accesses are rounded")
    yield from _architecture_rows(record)
    counts, without = load_counts("published:spikformer-4-384-cifar"), ["sps.conv0", "head"]
    found = estimate(counts, "eyeriss-prosperity", without=without).latency
    assert found is not None
    layers = found.to_frame()
    attention = float(layers.loc[layers["layer"].str.contains("#"), "cycles"].sum())
    cycles = found.cycles - attention
    ours = {
        "cycles": (cycles, "products of the attention apart, as the source prints them"),
        "attention_cycles": (attention, "floor(both products / (r c)) of every block"),
        "seconds": (cycles / found.clock_hz, "at 500 MHz"),
        "seconds_with_attention": (found.seconds, "at 500 MHz"),
    }
    for name, figure in record.figures_of("latency").items():
        yield ledger_row(figure, *ours[name])


def _arithmetic_why(name: str) -> str:
    """How the published energy accounts for the multiply-accumulates of the stem."""
    n, activity = numbers(load_hardware(ARITHMETIC)), load_counts(f"published:energy-arithmetic:{name}").activity()
    mac_pj, ac_pj = n["compute.mac"], n["compute.ac"]
    if name == "transformer-8-512":
        macs_g = activity["real_macs_per_sample"] / 1e9
        return (
            f"{mac_pj:g} x {macs_g:g} is {mac_pj * macs_g:.3f}; the published product has more digits than are printed"
        )
    dim = int(name.split("-")[2])
    if dim == 512:
        derivation_note = (
            ""
            if name == "spikingformer-8-512"
            else "; its MACs are not published but derived from the energy, so not independent"
        )
        return f"{mac_pj:g} MAC + {ac_pj:g} AC{derivation_note}"
    sops = activity["sops_per_sample"]
    stem_macs = 4 * 224**2 * 27 * (dim // 8)  # four time steps of a 3x3 convolution from 3 to D/8 channels
    true_mj = (ac_pj * sops + mac_pj * stem_macs) * 1e-9
    return f"published with the stem of D = 512; the true stem of D = {dim} gives {true_mj:.3f}"


def _architecture_rows(record: PublishedRecord) -> Rows:
    sizes = {
        name: architecture_sizes(name) for name in {row.split(" ")[0] for row in record.figures_of("architectures")}
    }
    for row, figure in record.figures_of("architectures").items():
        name, what = row.split(" ")
        why = "from the layers of its file of published counts"
        if figure.kind == "ledger":
            why += "; one reading of the architecture"
        yield ledger_row(figure, sizes[name][what], why)


def architecture_sizes(name: str) -> dict[str, float]:
    """Parameters, spiking layers, neurons (by group) and dense MACs (by layer) of published counts."""
    counts = load_counts(f"published:{name}")
    sizes = counts.sizes()
    rows = counts.rows.drop_duplicates("layer")
    macs = rows["positions"] * rows["reduction"] * rows["out_channels"]
    by_layer = macs.groupby(rows["layer"].str.replace(r"#matmul\d$", "#matmul", regex=True)).sum()
    return {
        "parameters": sizes["parameters"],
        "parameters_used": sizes["parameters"] - sizes["parameters_unused"],
        "spiking_layers": sizes["spiking_layers"],
        "neurons": sizes["neurons"],
        "macs": sizes["macs_per_step"],
        "macs_m": sizes["macs_per_step"] * 1e-6,
        "macs_once": sizes["macs_once"],
        **{f"neurons_{group}": value for group, value in sizes["neurons_by_group"].items()},
        **{f"macs_{layer}": value for layer, value in by_layer.items()},
    }


# --- Table V ------------------------------------------------------------------------------------------------


def table_v_rows(record: PublishedRecord, networks: Networks, shipped: Shipped, ranges: pd.DataFrame) -> Rows:
    """CE, ME, TE of made networks with the paper's averages, of CCT instead of the twin, of shipped networks."""
    for data in DATA:
        calibrated, with_cct = {}, {}
        if networks:
            calibrated = _ratios(table_v_networks(networks, data))
            with_cct = _ratios({"ns_vit": load_counts("published:cct-7-3x1"), "dts": networks[f"{data} dts"]})
        for name in LABELS:
            for what in ("ce", "me", "te"):
                figure = record.figures_of("table_v")[f"{data} {name} {what}"]
                low, high = _ratio_range(ranges, data, name, what)
                why = _table_v_why(record, data, name, what)
                yield ledger_row(
                    figure, calibrated.get((name, what)), why, variant=CALIBRATED_VARIANT, low=low, high=high
                )
                if name == "ns_vit":
                    why = "CCT-7/3x1, which the paper's ns_vit is, over the same DTS network"
                    yield ledger_row(figure, with_cct.get((name, what)), why, variant="CCT-7/3x1")
        yield _t_avg_row(record, networks, data)
        yield _own_sops_row(record, data)
        yield from _shipped_table_v(record, data, shipped)


def table_v_networks(networks: Networks, data: str) -> dict[str, Counts]:
    """The three made networks of a data set, by their row of the table."""
    return {row: networks[f"{data} {row}"] for row in LABELS}


def _ratio_range(ranges: pd.DataFrame, data: str, name: str, what: str) -> tuple[float | None, float | None]:
    """The range of ME or TE over the memory variants and all T_l of 1..T_max that have the mean."""
    rows = ranges[(ranges["data"] == data) & (ranges["network"] == name) & (ranges["t_l"] == "1..T_max")]
    if rows.empty or what == "ce":
        return None, None
    return float(rows[f"{what}_low"].min()), float(rows[f"{what}_high"].max())


def _t_avg_row(record: PublishedRecord, networks: Networks, data: str) -> dict[str, Any]:
    """The mean T_l of a made network, whose T_l must be integers."""
    text = record.figures_of("table_v")[f"{data} dts ce"].settings["t_avg"]
    ours = networks[f"{data} dts"].activity()["t_avg"] if networks else None
    return ledger_row(
        Figure("table_v", f"{data} dts t_avg", text, "ledger"), ours, t_avg_why(text), variant=CALIBRATED_VARIANT
    )


def _ratios(counts: Mapping[str, Counts]) -> dict[tuple[str, str], float]:
    """CE, ME and TE over the DTS network, ws_once."""
    table = compare(counts, HARDWARE, baseline="dts").to_frame().set_index("model")
    return {(str(name), what): float(table.loc[name, what]) for name in table.index for what in ("ce", "me", "te")}


def _table_v_why(record: PublishedRecord, data: str, name: str, what: str) -> str:
    if name == "dts":
        return "the baseline, 1 by definition"
    if what == "me":
        return "memory prices, widths and variant are not published; range: four variants, all T_l of 1..T_max"
    if what == "ce":
        dts, spikformer = (f"{100 * record.rate(RATE_SETTINGS[row]):.2f} %" for row in ("dts", "spikformer"))
        rates = {
            "cifar10": f"no SA is published for CIFAR-10, so DTS has the rate of Table III's T_avg 1.03 ({dts} a step)",
            "cifar100": "DTS has T_avg and SA of Table IV's 4 of 6",
        }[data]
        more = {
            "ns_vit": "its exact SOPs are several times the paper's (Tables III and IV below); the twin has "
            f"{_macs_m('dts-spikformer-4-384')} M MACs, the paper's CCT {_macs_m('cct-7-3x1')} M",
            "spikformer": f"Spikformer's is not published either: that of Table IV's 4 of 4 ({spikformer} a step)",
        }
        return f"{rates}; {more[name]}"
    return "follows from CE and ME and from how much of the total is compute, which the paper does not give"


def _macs_m(name: str) -> str:
    """Millions of MACs in one time step of a bundled architecture."""
    return f"{load_counts(f'published:{name}').sizes()['macs_per_step'] * 1e-6:.0f}"


def _own_sops_row(record: PublishedRecord, data: str) -> dict[str, Any]:
    """CE of CCT over the paper's own SOPs, accumulates only: the ratio if all its figures describe one system."""
    setting = {"cifar10": RATE_SETTINGS["dts"], "cifar100": "IV 4 of 6 1e-4"}[data]
    compute = load_hardware(HARDWARE).compute
    assert compute.mac is not None
    assert compute.ac is not None
    macs = load_counts("published:cct-7-3x1").sizes()["macs_per_step"]
    sops_m = record.figures_of("table_iii_iv")[f"{setting} sops_m"]
    ours = compute.mac.energy_pj * macs / (compute.ac.energy_pj * sops_m.value * 1e6)
    nearest = " (CIFAR-100, the nearest T_avg: no SOPs are published for CIFAR-10)" if data == "cifar10" else ""
    why = (
        f"{compute.mac.energy_pj:g} pJ x {_macs_m('cct-7-3x1')} M MACs of CCT over {compute.ac.energy_pj:g} pJ x the "
        f"paper's {sops_m.text} M SOPs{nearest}, nothing else charged"
    )
    return ledger_row(record.figures_of("table_v")[f"{data} ns_vit ce"], ours, why, variant="CCT over the paper's SOPs")


def _shipped_table_v(record: PublishedRecord, data: str, shipped: Shipped) -> Rows:
    for folder, (size, images) in SHIPPED.items():
        if data == "cifar100":
            continue  # no network on CIFAR-100 is shipped; only the rows of made ones exist
        counts = {row: shipped.get(f"{folder}/{family}-{size}") for row, family in LABELS.items()}
        known = {row: c for row, c in counts.items() if c is not None}
        ratios = _ratios(known) if len(known) == len(counts) else {}
        for row in ("ns_vit", "spikformer"):
            for what in ("ce", "me", "te"):
                figure = record.figures_of("table_v")[f"{data} {row} {what}"]
                why = f"trained on {images}, T_avg {_t_avg(known)}: another size, data set and activity"
                if not ratios:
                    why = f"not available: the counts in reports/{folder} are only in a source checkout"
                yield ledger_row(figure, ratios.get((row, what)), why, variant=f"shipped {size}")


def _t_avg(counts: Mapping[str, Counts]) -> str:
    return f"{counts['dts'].activity()['t_avg']:.2f}" if "dts" in counts else "unknown"


# --- Contradictory figures -----------------------------------------------------------------------------------


def share_of_compute(ce: float, me: float, te: float) -> float:
    """The a that solves TE = a CE + (1 - a) ME: compute's share of the baseline's total."""
    return (te - me) / (ce - me)


def share_between(ce: float, me: float, te: float, half: float = 0.005) -> tuple[float, float]:
    """The smallest and the largest such a for numbers rounded to two decimals."""
    ends = [
        share_of_compute(ce + i, me + j, te + k) for i in (-half, half) for j in (-half, half) for k in (-half, half)
    ]
    return min(ends), max(ends)


def contradiction_rows(record: PublishedRecord, networks: Networks) -> Rows:
    """Published figures that contradict each other; ours are those of the made networks, ws_once."""
    table = {row: figure.value for row, figure in record.figures_of("table_v").items()}
    energies = {name: estimate(counts, HARDWARE) for name, counts in networks.items()}

    def energy_of(name: str, what: str) -> float | None:
        return float(getattr(energies[name], f"{what}_pj")) if name in energies else None

    section = "contradictions"
    for data in DATA:
        ours = _ratio(energy_of(f"{data} dts", "compute"), energy_of(f"{data} dts", "total"))
        for name in ("ns_vit", "spikformer"):
            three = [table[f"{data} {name} {what}"] for what in ("ce", "me", "te")]
            low, high = share_between(*three)
            why = f"TE = a CE + (1 - a) ME has one a a data set; with rounding this row allows {low:.3f} to {high:.3f}"
            yield derived(section, f"{data} {name} share a of compute", share_of_compute(*three), ours, why)
    for data, steps in zip(DATA, (4, 6), strict=True):
        published = table[f"{data} spikformer me"] / table[f"{data} ns_vit me"]
        ours = _ratio(energy_of(f"{data} spikformer", "memory"), energy_of(f"{data} ns_vit", "memory"))
        why = "more steps move more data: this must grow from T = 4 to T = 6, and falls as published"
        yield derived(section, f"memory of Spikformer over ViT, T = {steps}", published, ours, why)
    for data, steps in zip(DATA, (4, 6), strict=True):
        published = table[f"{data} ns_vit ce"] / table[f"{data} spikformer ce"]
        ours = _ratio(energy_of(f"{data} ns_vit", "compute"), energy_of(f"{data} spikformer", "compute"))
        why = "more steps cost more: this must fall from T = 4 to 6 unless rates fall to a third; it grows as published"
        yield derived(section, f"compute of ViT over Spikformer, T = {steps}", published, ours, why)
    published = table["cifar100 ns_vit ce"] / table["cifar10 ns_vit ce"]
    ours = _ratio(energy_of("cifar10 dts", "compute"), energy_of("cifar100 dts", "compute"))
    why = "the ViT is the same but for its head: DTS at T_avg 1.15 would cost more compute than at 3.81 in one network"
    yield derived(section, "compute of DTS, T_avg 1.15 over T_avg 3.81", published, ours, why)
    sa = record.figures_of("table_iii_iv")["III qkv mlp sa"]
    other = record.figures_of("table_iii_iv")["IV 2 of 4 1e-6 sa"].text
    why = f"Table IV gives SA {other} for the same setting (2 of 4, 1e-6), with the same accuracy, T_avg and SOPs"
    yield derived(section, "SA of T_avg 2.73 in Table III (%)", sa.value, None, why)
    why = "follows from the rows above: no single model gives all rows of Table V, so none is fitted"
    yield derived(section, "one consistent model", None, None, why)


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


# --- Accuracies, activity, verdict ------------------------------------------------------------------------------


def table_i_rows(record: PublishedRecord, shipped: Shipped) -> Rows:
    """Published accuracies next to those of the shipped networks, which are not comparable."""
    shipped_networks = {
        "cifar10 cct t1": "vit-2-128",
        "cifar10 spikformer t4": "spikformer-2-128",
        "cifar10 dts t1.15": "dts-spikformer-2-128",
    }
    for row, figure in record.figures_of("table_i").items():
        counts = shipped.get(f"cifar10/{shipped_networks[row]}") if row in shipped_networks else None
        if counts is not None:
            t_avg = counts.activity()["t_avg"]
            steps = "" if t_avg is None else f", T_avg {t_avg:.2f}"
            why = (
                f"not comparable: {shipped_networks[row]} on JPEG-coded CIFAR-10, a few epochs on two CPU cores{steps}"
            )
            yield ledger_row(
                figure, 100 * counts.header["accuracy"], why, variant=shipped_networks[row], comparable=False
            )
        elif row in shipped_networks:
            yield ledger_row(figure, None, "not available: the counts in reports/cifar10 are only in a source checkout")
        else:
            data = {"cifar10": "at these time steps", "cifar100": "on CIFAR-100", "imagenet": "on ImageNet"}
            yield ledger_row(figure, None, f"no network of ours {data[row.split(' ')[0]]} is shipped")


def table_iii_iv_rows(
    record: PublishedRecord, networks: Networks, ablation: pd.DataFrame | None, shipped: Shipped
) -> Rows:
    """T_avg, SA and SOPs of the made networks; accuracies of the same settings on the digits, not comparable."""
    figures = record.figures_of("table_iii_iv")
    sizes = architecture_sizes("dts-spikformer-4-384")
    macs = sizes["macs"] - sizes["macs_sps.conv0"]
    trained = shipped.get("cifar10/dts-spikformer-2-128")
    trained_note = "" if trained is None else f"; of our trained 2-128 {input_density(trained):.1f} times"
    for name in dict.fromkeys(row.rsplit(" ", 1)[0] for row in figures):
        activity = networks[name].activity() if networks else {}
        yield _ablation_row(figures[f"{name} accuracy"], name, ablation)
        figure = figures[f"{name} t_avg"]
        yield ledger_row(figure, activity.get("t_avg"), t_avg_why(figure.text, int(sizes["spiking_layers"])))
        sa = activity.get("sa")
        why = "set: one rate per active step in all layers; the thresholds behind the attention are whole numbers"
        yield ledger_row(figures[f"{name} sa"], None if sa is None else 100 * sa, why)
        figure = figures[f"{name} sops_m"]
        sops = activity.get("sops_per_sample")
        times = f"{input_density(networks[name]):.1f} times" if networks else "several times"
        why = (
            f"{times} the count by mean rate: max-pools and residual sums make inputs denser than spikes, most so with "
            f"equal rates and random images{trained_note}"
        )
        yield ledger_row(figure, None if sops is None else sops * 1e-6, why, variant="exact")
        t_max = int(figure.settings["t_max"])
        by_rate = record.of_setting(name, "sa") / 100 * t_max * macs * 1e-6
        why = (
            f"SA x T_max x {macs * 1e-6:.1f} M MACs (all but the first convolution and the head), as if SA were every "
            "input's rate"
        )
        yield ledger_row(figure, by_rate, why, variant="by mean rate")


def input_density(counts: Counts) -> float:
    """Exact SOPs over those by mean rate: spikes per synapse over spikes per neuron."""
    return spikes_per_synapse(counts) / (counts.activity()["sa"] * counts.time_steps)  # type: ignore[no-any-return]


def t_avg_why(text: str, layers: int = 33) -> str:
    """The sum of integer T_l with the printed mean, or that no T_l have this mean."""
    total = round(float(text) * layers)
    places = len(text.partition(".")[2])
    if round(total / layers, places) == round(float(text), places):
        return f"set: the {layers} T_l sum to {total}"
    return f"the nearest that {layers} whole T_l can have (sum {total}); none has the printed mean"


def _ablation_row(figure: Figure, name: str, ablation: pd.DataFrame | None) -> dict[str, Any]:
    if ablation is None:
        return ledger_row(figure, None, "not available: reports/ablation-digits is only in a source checkout")
    same = "III qkv mlp" if name == "IV 2 of 4 1e-6" else name  # one setting, in both tables
    ours = 100 * float(ablation.loc[ablation["variant"] == same, "accuracy"].iloc[0])
    why = "not comparable: the same setting on 8x8 digits, 2 blocks and 64 channels, one seed"
    return ledger_row(figure, ours, why, variant="dts-spikformer-2-64", comparable=False)


def verdict_rows(record: PublishedRecord, networks: Networks, shipped: Shipped) -> Rows:
    """Spikes per synapse of every spiking network against the published bounds."""
    spiking: dict[str, Counts | None] = {}
    for folder, (size, _) in SHIPPED.items():
        for family in ("spikformer", "dts-spikformer"):
            spiking[f"{family}-{size}"] = shipped.get(f"{folder}/{family}-{size}")
    for data in DATA:
        for row in ("spikformer", "dts"):
            spiking[f"{LABELS[row]}-4-384 {data} made"] = networks.get(f"{data} {row}")
    for figure in record.figures_of("verdict").values():
        for name, counts in spiking.items():
            if counts is None:
                calibrated = name.endswith("made")
                why = "needs torch" if calibrated else "not available: its counts are only in a source checkout"
                yield ledger_row(figure, None, why, variant=name)
                continue
            found = spikes_per_synapse(counts)
            if found is None:
                yield ledger_row(figure, None, "its counts do not give the spikes per synapse", variant=name)
                continue
            side = "below: it can win" if found < figure.value else "above: it cannot win"
            yield ledger_row(figure, found, f"{side} against its non-spiking twin, by this bound", variant=name)
