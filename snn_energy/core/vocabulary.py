"""Vocabulary shared by files, options and code."""

from __future__ import annotations

from typing import Literal

Kind = Literal["binary", "ternary", "integer", "real"]  # of operand values; design rule 4
FrameValues = Literal["count", "binary"]  # of a pixel in one time step of a recording
NormalisationName = Literal["cifar10", "cifar100", "imagenet", "mnist"]  # whose published mean and std
MemoryVariant = Literal["ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse"]
IntegerPolicy = Literal["ac", "multi-ac", "mac", "mac-dense"]
ProductPolicy = Literal["coincidence", "gated"]
EncoderPolicy = Literal["per-step", "once"]
Schedule = Literal["layer-serial", "step-serial", "layer-pipelined"]
ZeroHandling = Literal["none", "gate", "skip"]
TableLevel = Literal["group", "layer", "time_step", "row"]  # what one row of an energy table covers
DeviceName = Literal["auto", "cpu", "cuda"]

TIME_MODES = {
    "inside": "the model takes (B, ...) and runs all time steps itself, vectorised",
    "loop": "the model takes (B, ...) and calls its layers once per time step in a loop",
    "axis0": "the loader gives (T, B, ...)",
    "axis1": "the loader gives (B, T, ...)",
    "axis-last": "the loader gives (B, ..., T), as lava-dl's layers read it",
    "flat": "the loader gives (T*B, ...), time major",
    "flat-batch": "the loader gives (B*T, ...), sample major",
    "call": "the model is called once per time step with the same (B, ...) (direct encoding)",
    "call-axis0": "the loader gives (T, B, ...), the model is called once per time step with (B, ...)",
    "repeat-axis0": "the loader gives (B, ...), the model gets it repeated T times, (T, B, ...) (direct encoding)",
    "repeat-axis1": "as repeat-axis0, (B, T, ...)",
    "repeat-flat": "as repeat-axis0, (T*B, ...), time major",
    "repeat-flat-batch": "as repeat-axis0, (B*T, ...), sample major",
}
