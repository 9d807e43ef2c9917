"""Hardware profiles: list, show, diff, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn_energy.cli.output import say, show

hardware_app = typer.Typer(
    help="Hardware profiles: what a device charges, and the source of each number.", no_args_is_help=True
)


@hardware_app.command("list")
def hardware_list() -> None:
    """The bundled profiles."""
    import pandas as pd

    from snn_energy.hardware.files import list_hardware, load_hardware
    from snn_energy.hardware.numbers import numbers

    profiles = [load_hardware(name) for name in list_hardware()]
    show(
        pd.DataFrame(
            {
                "name": [p.name for p in profiles],
                "mac (pJ)": [None if p.compute.mac is None else p.compute.mac.energy_pj for p in profiles],
                "ac (pJ)": [numbers(p).get("compute.ac") for p in profiles],
                "description": [p.description for p in profiles],
            }
        )
    )


@hardware_app.command("show")
def hardware_show(name: Annotated[str, typer.Argument(help="A bundled name or a path.")]) -> None:
    """Every number of a profile with its source, and what it cannot price."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import describe, missing_prices, profile_notes

    found = load_hardware(name)
    say(f"{found.name}: {found.description}\ntechnology: {found.technology}\n")
    frame = describe(found)
    empty = [column for column in ("low", "high") if frame[column].isna().all()]
    show(frame.drop(columns=["citation", *empty]))
    say("\nsources:")
    for key, source in found.sources.items():
        say(f"  {key}: {source.citation}{f' ({source.note})' if source.note else ''}")
    # Notes on sources are printed with the sources.
    remarks = [line for line in profile_notes(found) if not line.startswith("sources.")]
    for heading, lines in (("notes", remarks), ("cannot price", missing_prices(found))):
        if lines:
            say(f"{heading}:")
            for line in lines:
                say(f"  {line}")


@hardware_app.command("diff")
def hardware_diff(
    a: Annotated[str, typer.Argument(help="A bundled name or a path.")],
    b: Annotated[str, typer.Argument(help="Another.")],
) -> None:
    """The numbers and settings in which two profiles differ."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import differences

    first, second = load_hardware(a), load_hardware(b)
    table = differences(first, second)
    if len(table):
        show(table, f"{first.name} (a) and {second.name} (b)")
    else:
        say(f"{first.name} and {second.name} do not differ")


@hardware_app.command("validate")
def hardware_validate(path: Annotated[Path, typer.Argument(help="A YAML file.")]) -> None:
    """Check a profile of your own: schema, prices, sources, units."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import missing_prices

    found = load_hardware(path)
    say(f"{path}: valid, schema {found.schema_version}, {found.name}")
    for line in missing_prices(found):
        say(f"  cannot price: {line}")
