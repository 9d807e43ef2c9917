"""Spiking layers that a mask skips, that never fired, or that hardly fire, as sentences."""

from __future__ import annotations

from collections.abc import Iterator

from snn_energy.counts.counts import Counts

NEARLY_ALL = 0.8  # of the spiking layers
HARDLY = 0.001  # spikes per neuron and active step


def inactive_layers(counts: Counts) -> Iterator[str]:
    """Layers that are masked at every step, layers that never fired, and a network that hardly fires at all."""
    activity = counts.activity()
    for key, text in (("dead_layers", "dead (T_l = 0)"), ("silent_layers", "silent (active but never fired)")):
        if activity[key]:
            yield f"{text}: {', '.join(activity[key])}"
    sentence = near_silence(counts)
    if sentence is not None:
        yield sentence


def near_silence(counts: Counts) -> str | None:
    """What to check in a network of which nearly all layers hardly fire; None for any other."""
    layers = counts.spiking_layers()
    layers = layers[layers["t_l"] > 0]
    if not len(layers) or layers["spikes"].isna().any():
        return None
    hardly = int((layers["rate_active"] < HARDLY).sum())
    if hardly < NEARLY_ALL * len(layers):
        return None
    return (
        f"nearly silent: {hardly} of {len(layers)} spiking layers fire less than once in {1 / HARDLY:.0f} updates; are "
        "the weights the trained ones, and is the input scaled as in training (--divide-by)?"
    )
