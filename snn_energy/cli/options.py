"""Arguments and options that several commands share, each declared once; groups of them are frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from snn_energy.core.vocabulary import (
    DeviceName,
    EncoderPolicy,
    FrameValues,
    IntegerPolicy,
    Kind,
    MemoryVariant,
    NormalisationName,
    ProductPolicy,
)

if TYPE_CHECKING:
    import pandas as pd

    from snn_energy.datasets.rescaled import Normalisation

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


@dataclass(frozen=True)
class NormalisationOptions:
    """How images are normalised, as in the training of the network."""

    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Of every channel, subtracted from values of 0..1; with --std."),
    ] = None
    std: Annotated[
        str | None,
        typer.Option("--std", metavar="R,G,B", help="Of every channel, which (x - mean) is divided by; with --mean."),
    ] = None
    normalize: Annotated[
        NormalisationName | None, typer.Option("--normalize", help="The published mean and std of a data set instead.")
    ] = None

    def normalisation(self) -> Normalisation | None:
        """What the options say. Raises DataError; typer.BadParameter if they exclude one another."""
        from snn_energy.datasets.rescaled import make_normalisation

        given = [option for option, value in (("--mean", self.mean), ("--std", self.std)) if value is not None]
        if given and self.normalize is not None:
            raise typer.BadParameter(f"{' and '.join(given)} or --normalize {self.normalize}, not both")
        return make_normalisation(self.mean, self.std, self.normalize)
