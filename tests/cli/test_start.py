"""The start of a command: an interrupt during its imports, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "snn_energy" / "demo_checkpoints"

# Ctrl-C while a module is imported.
INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                pass
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["profile", {checkpoint!r}, "--data", "digits", "--samples", "2", "-o", {output!r}]
"""
STARTS = {
    "script": "from snn_energy.cli.main import main\nmain()\n",  # as an installed console script does
    "python -m": "import runpy\nrunpy.run_module('snn_energy', run_name='__main__')\n",
}


@pytest.mark.parametrize("module", ["snn_energy.cli.commands", "typer", "snn_energy.cli.options", "pandas", "torch"])
@pytest.mark.parametrize("start", STARTS)
def test_an_interrupt_during_the_imports_is_one_line(start: str, module: str, tmp_path: Path) -> None:
    checkpoint, output = str(DEMO / "vit-2-64-digits.safetensors"), str(tmp_path / "counts.json")
    code = INTERRUPTED_IMPORT.format(module=module, checkpoint=checkpoint, output=output) + STARTS[start]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


UNUSED = ("sympy", "torch._dynamo", "torch._inductor", "matplotlib", "fvcore", "PIL", "scipy", "rich.progress")
FIRST_CALL = """
import sys
from snn_energy.cli.main import main
sys.argv[1:] = ["profile", {checkpoint!r}, "--data", "digits", "--samples", "2", "-o", {output!r}]
try:
    main()
finally:
    print(sorted(set({unused}) & set(sys.modules)))
"""


def test_a_first_profile_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    checkpoint, output = str(DEMO / "dts-spikformer-2-64-digits.safetensors"), str(tmp_path / "counts.json")
    code = FIRST_CALL.format(checkpoint=checkpoint, output=output, unused=UNUSED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


SHAPES_ONLY = """
import sys, torch
from snn_energy.core.errors import ModelError
from snn_energy.models.create import create_model
from snn_energy.models.names import CNNS
built = 0
for name in ("vit-1-16", "spikformer-1-16", "dts-spikformer-1-16", "public-spikformer-1-16", *CNNS):
    for options in ({{}}, {{"neuron": "hoyer"}}, {{"initial_steps": 2, "time_steps": 4}}):
        try:
            with torch.device("meta"):
                create_model(name, **options)
            built += 1
        except ModelError:  # not every network has every option
            pass
assert built >= 20, built
print(sorted(set({unused}) & set(sys.modules)))
"""


def test_the_shape_of_no_network_needs_the_compiler_of_torch() -> None:
    code = SHAPES_ONLY.format(unused=UNUSED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
