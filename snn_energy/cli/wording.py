"""Errors name options as Python has them, ``time='flat'``; the terminal shows them as it has them, ``--time flat``."""

from __future__ import annotations

import re

from snn_energy.core.errors import (
    CheckpointError,
    DataError,
    HardwareError,
    ModelError,
    ProfilingError,
    SnnEnergyError,
)

# Arguments in Python -> options of the command line.
FLAGS = {
    "time": "--time",
    "time_steps": "--time-steps",
    "neurons": "--neuron",
    "input_kind": "--input-kind",
    "max_k": "--max-k",
    "model": "--model",
    "ema": "--ema",
    "samples": "--samples",
    "batch_size": "--batch-size",
    "image_size": "--image-size",
    "in_channels": "--in-channels",
    "num_classes": "--num-classes",
    "baseline": "--baseline",
    "strict": "--strict",
    "without": "--without",
}
_NAMES = "|".join(FLAGS)
# Names that are no English words: they are options wherever they stand by themselves.
_WORDS = "|".join(name for name in FLAGS if "_" in name)
_TEXTS = {
    " (time= in Python)": "",
    "cut=False": "--no-cut",
    "give compare a mapping name -> counts": "rename one of the files",
}


def error_text(error: SnnEnergyError) -> str:
    """The line that the terminal shows, with notes such as which batch it was.

    Only errors about a call name options; others name keys of files, which have the same names.
    """
    is_about_a_call = isinstance(error, (ProfilingError, CheckpointError, DataError, ModelError, HardwareError))
    message = for_terminal(str(error), words=isinstance(error, ProfilingError)) if is_about_a_call else str(error)
    return "; ".join([message, *getattr(error, "__notes__", [])])


def for_terminal(message: str, words: bool = True) -> str:
    """The message with every option as the command line has it; words: names alone, too, such as time_steps."""
    for python, terminal in _TEXTS.items():
        message = message.replace(python, terminal)
    message = re.sub(rf"(?<![\w.(-])({_NAMES})= \((--[a-z-]+)\)", r"\2", message)
    message = re.sub(rf"(?<![\w.(-])({_NAMES})=('?)([\w.-]+)\2", _with_value, message)
    message = re.sub(rf"(?<![\w.(-])({_NAMES})=(?!=)", lambda found: FLAGS[found[1]], message)
    if not words:
        return message
    return re.sub(rf"(?<![\w.'/(-])({_WORDS})(?![\w'=.(-])", lambda found: FLAGS[found[1]], message)


def _with_value(found: re.Match[str]) -> str:
    if found[3] == "True":
        return FLAGS[found[1]]
    return f"{FLAGS[found[1]]} {found[3]}"
