"""Arguments and options that several commands share, each declared once; groups of them are frozen dataclasses.

A command has a group as one keyword parameter, and ``with_option_groups`` exposes the group's fields to typer instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, get_args, get_origin, get_type_hints

import typer

from snn_energy.core.vocabulary import (
    DeviceName,
    EncoderPolicy,
    FrameValues,
    IntegerPolicy,
    Kind,
    MemoryVariant,
    ProductPolicy,
)

if TYPE_CHECKING:
    import pandas as pd

DATA_HELP = "digits, or NAME:PATH with cifar10, cifar100, folder (ImageNet's layout), packed-jpeg or npz."
ANY_DATA_HELP = f"{DATA_HELP[:-1]}; nmnist:PATH; or your loader, file.py:function."
MODEL_HELP = "Architecture of weights that do not say it: a registry name, file.py:function or package.module:function."
COUNTS_HELP = "A counts file, or published counts: published:FILE:NETWORK, FILE.yaml:NETWORK."

CountsArgument = Annotated[Path, typer.Argument(metavar="COUNTS.json", help=COUNTS_HELP)]
CountsFilesArgument = Annotated[list[Path], typer.Argument(metavar="A.json B.json …", help="Counts files.")]
SpikingArgument = Annotated[Path, typer.Argument(help="A .safetensors checkpoint of a spiking network.")]
HardwareOption = Annotated[
    str, typer.Option("--hardware", help="A bundled profile's name, or the path of a YAML file.")
]
DataOption = Annotated[str, typer.Option("--data", metavar="NAME[:PATH]", help=DATA_HELP)]
AnyDataOption = Annotated[str, typer.Option("--data", metavar="NAME[:PATH]", help=ANY_DATA_HELP)]
RecipeDataOption = Annotated[
    str | None, typer.Option("--data", metavar="NAME[:PATH]", help=f"Instead of the recipe's. {DATA_HELP}")
]
SamplesOption = Annotated[int | None, typer.Option("--samples", help="How many test samples; all unless given.")]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="The result does not depend on it.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")]
DeviceOption = Annotated[DeviceName, typer.Option("--device", help="auto: a CUDA device where there is one.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV, every digit.")]


class PolicyArguments(TypedDict):
    """Arguments of ``estimate`` and similar functions, in addition to counts and hardware."""

    memory: MemoryVariant | None
    integer: IntegerPolicy
    products: ProductPolicy
    encoder: EncoderPolicy
    without: list[str]


@dataclass(frozen=True)
class PolicyOptions:
    """The choices by which counts are charged, and the layers that are left out."""

    memory: Annotated[
        MemoryVariant | None,
        typer.Option("--memory", help="What is moved how often; the profile's own variant unless given."),
    ] = None
    integer: Annotated[IntegerPolicy, typer.Option("--integer", help="How sums of spikes are charged.")] = "ac"
    products: Annotated[ProductPolicy, typer.Option("--products", help="How products are charged.")] = "coincidence"
    encoder: Annotated[EncoderPolicy, typer.Option("--encoder", help="How often a repeated real input counts.")] = (
        "per-step"
    )
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="LAYER", help="Leave out a layer that runs elsewhere; repeat."),
    ] = None

    def arguments(self) -> PolicyArguments:
        """The same as keyword arguments of ``estimate``."""
        return {
            "memory": self.memory,
            "integer": self.integer,
            "products": self.products,
            "encoder": self.encoder,
            "without": self.without or [],
        }


@dataclass(frozen=True)
class TableOptions:
    """The files that a table is written to."""

    csv: CsvOption = None
    json: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON, with the policies used.")] = None
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table as Markdown.")] = None
    latex: Annotated[Path | None, typer.Option("--latex", help="Write the table as LaTeX (booktabs).")] = None

    def paths(self) -> tuple[Path | None, ...]:
        """Every path, None if not given."""
        return self.csv, self.json, self.markdown, self.latex

    def write(self, frame: pd.DataFrame, head: Mapping[str, object]) -> None:
        """Write the table to every path, all or none; ``head`` goes into the JSON. Raises OutputError."""
        from snn_energy.report.tables import write_table

        write_table(
            frame, csv_path=self.csv, json_path=self.json, markdown_path=self.markdown, latex_path=self.latex, head=head
        )


@dataclass(frozen=True)
class NetworkOptions:
    """What a user declares about a network and its data if neither states it."""

    model: Annotated[str | None, typer.Option("--model", help=MODEL_HELP)] = None
    model_args: Annotated[
        list[str] | None,
        typer.Option(
            "--model-args", metavar="NAME=VALUE", help="For the function of --model; or a JSON object; repeat."
        ),
    ] = None
    ema: Annotated[bool, typer.Option("--ema", help="The moving average of the weights, of a file with both.")] = False
    image_size: Annotated[int | None, typer.Option("--image-size", help="With --model.")] = None
    in_channels: Annotated[int | None, typer.Option("--in-channels", help="With --model.")] = None
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="With --model and a registry name.")] = None
    time_steps: Annotated[
        int | None, typer.Option("--time-steps", help="T_max, of a network that does not say it; else it is checked.")
    ] = None
    time: Annotated[
        str | None,
        typer.Option("--time", help="Where time is, if the model does not tell; see: snn-energy time-modes."),
    ] = None
    neuron: Annotated[
        list[str] | None, typer.Option("--neuron", help="A class (my.module.LIF) or layer that spikes; repeat.")
    ] = None
    input_kind: Annotated[Kind | None, typer.Option("--input-kind", help="Declare what the data's values are.")] = None
    max_k: Annotated[int | None, typer.Option("--max-k", min=1, help="The largest whole multiple that is integer.")] = (
        None
    )
    divide_by: Annotated[
        float | None,
        typer.Option("--divide-by", help="Divide every value of the images, as by 255 where bytes are kept."),
    ] = None
    step_us: Annotated[
        int | None, typer.Option("--step-us", help="Of recordings: microseconds per step, from the first event on.")
    ] = None
    frames: Annotated[
        FrameValues,
        typer.Option("--frames", help="Of recordings: events per pixel and step, or 1 where there was any."),
    ] = "count"
    cut: Annotated[bool, typer.Option("--cut", help="Of recordings: leave out what comes after the last step.")] = False


class LeaveOut:
    """In ``Annotated[Group, LeaveOut("field")]``: options of a group that a command does not have."""

    def __init__(self, *names: str) -> None:
        self.names = names


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one parameter per field instead of each group; the command itself still receives the groups."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., object], list[str]]] = {}
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        group, *annotations = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(group, type) and is_dataclass(group):
            left_out = {
                name for annotation in annotations if isinstance(annotation, LeaveOut) for name in annotation.names
            }
            options = _options(group, left_out)
            groups[parameter.name] = group, [option.name for option in options]
            parameters += options
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))

    @wraps(command)
    def command_with_options(**values: object) -> None:
        group_values = {name: group(**{key: values.pop(key) for key in keys}) for name, (group, keys) in groups.items()}
        command(**values, **group_values)

    command_with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command_with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command_with_options


def _options(group: type, left_out: set[str]) -> list[inspect.Parameter]:
    """A keyword parameter per field. Raises TypeError for a name to leave out that is no field."""
    hints = get_type_hints(group, include_extras=True)
    unknown = left_out - hints.keys()
    if unknown:
        raise TypeError(f"{group.__name__} has no option {', '.join(sorted(unknown))} to leave out")
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
        if field.name not in left_out
    ]
