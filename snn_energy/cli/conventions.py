"""Conventions of published work: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from snn_energy.cli.output import say, show

conventions_app = typer.Typer(
    help="What published work charges for the same counts, and its source.", no_args_is_help=True
)


@conventions_app.command("list")
def conventions_list() -> None:
    """The conventions, and how each differs from exact counts."""
    import pandas as pd

    from snn_energy.conventions.price import convention_of, list_conventions

    found = {name: convention_of(name) for name in list_conventions()}
    rows = [{"convention": name, "differs from exact counts": one.differs} for name, one in found.items()]
    show(pd.DataFrame(rows))


@conventions_app.command("show")
def conventions_show(name: Annotated[str, typer.Argument(help="A name of: snn-energy conventions list.")]) -> None:
    """The formula, the rules, the source and the known errors of a convention."""
    from snn_energy.conventions.price import citation_of, convention_of

    found = convention_of(name)
    say(f"{name}: {found.title}")
    if found.also:
        say(f"also: {', '.join(found.also)}")
    prices = "counts alone" if found.counts_only else f"M = {found.mac_pj:g} pJ, A = {found.ac_pj:g} pJ"
    say(f"prices: {prices}")
    say("rules:")
    for rule, value in found.rules.model_dump().items():
        say(f"  {rule}: {', '.join(value) if isinstance(value, tuple) else value}")
    say(f"differs from exact counts: {found.differs}")
    say(f"source: {citation_of(found)} ({found.based_on})")
    if found.slip is not None:
        reproduced = "reproduced by --as-published" if found.slip.rules is not None else f"needs {found.slip.needs}"
        say(f"error as published: {found.slip.what} ({reproduced})")
    if found.open is not None:
        say(f"open: {found.open}")
