"""All members of the zoo, in the order of the files that build them, and those that the profiler refuses."""

from __future__ import annotations

import importlib

from members import ZOO, Member

FILES = ("spikformers", "attention", "driven", "residual", "folded_time", "loops", "sequences")
UNDETERMINED = "time= must say where time is"
# Member -> how the message begins, or the words that matter in it.
REFUSED = {
    "sglformer": UNDETERMINED,
    "statten": "cannot tell which axes hold time and samples",
    "tdbn": UNDETERMINED,
    "tdbn_images": UNDETERMINED,
    "nda": "the convolution reads",
    "qcfs": UNDETERMINED,
    "snn_rat": UNDETERMINED,
    "dsr": "it changes its own weights when it is run",
    "norse_convnet": UNDETERMINED,
    "spiking_ssm": "no time axis reaches it",
    "lava_dl": UNDETERMINED,
    "snn_delays": UNDETERMINED,
    "tcja": "if it wants them with time, declare it",
}
ONE_WORD = {"spytorch", "spytorch_recurrent"}  # no module of theirs is a neuron or a layer: time= is named by a message
WRONG = {
    "spikegpt": "layers in front of the first LIF are counted once, not per time step",
}


def members() -> tuple[Member, ...]:
    """Every network, once."""
    for name in FILES:
        importlib.import_module(name)
    return tuple(ZOO)
