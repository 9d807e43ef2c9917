"""The commands: parse, call, print. Data on stdout, progress and warnings on stderr; no maths here.

Exit codes: 0 success, 1 faulty input (one line), 2 usage, 130 interrupted (``main.py``).
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from snn_energy._version import __version__
from snn_energy.cli import exploring, networks, pricing, profiling, reports
from snn_energy.cli.conventions import conventions_app
from snn_energy.cli.hardware import hardware_app
from snn_energy.cli.output import is_first_process, note, warn
from snn_energy.cli.wording import error_text
from snn_energy.core.errors import SnnEnergyError

app = typer.Typer(
    help="Energy of spiking neural networks, from a trained checkpoint to a table one can check by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (  # in the order of --help
    profiling.profile,
    profiling.inspect,
    pricing.estimate,
    pricing.audit,
    pricing.latency,
    exploring.sweep,
    exploring.break_even,
    pricing.compare,
    pricing.plot,
    networks.train,
    networks.half,
    networks.trio,
    networks.ablate,
    exploring.early_exit,
    exploring.sensitivity,
    reports.demo,
    reports.reproduce,
    profiling.time_modes,
    profiling.models,
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(hardware_app, name="hardware")
app.add_typer(conventions_app, name="conventions")


def run() -> None:
    """Run the command of ``sys.argv``: one line and exit code 1 for faulty input, --debug requests the traceback."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    warnings.showwarning = _one_line_warning
    if not is_first_process():
        logging.getLogger("snn_energy").setLevel(logging.ERROR)  # the first process warns for all
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without µ still gets its table
    try:
        app(args=arguments, prog_name="snn-energy")
        sys.stdout.flush()
    except SnnEnergyError as error:
        if debug:
            raise
        note(f"error: {error_text(error)}")
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:
            note("interrupted")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has closed the pipe: nothing is left to flush
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        note(f"error: {error.filename or 'output'}: {error.strerror}")
        sys.exit(1)


def _one_line_warning(message: Warning | str, category: type[Warning], *rest: object, **kwargs: object) -> None:
    if is_first_process():
        warn(str(message))


def _version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Profile once, price on any hardware, compare."""
