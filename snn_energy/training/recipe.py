"""A training recipe: everything that determines the weights, read from YAML, checked before the first step.

Does not import torch. An error names the file, the line, the key and the fix.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from snn_energy.core.bundled import yaml_folder
from snn_energy.core.errors import DataError, ModelError, RecipeError, nearest
from snn_energy.core.groups import MASK_GROUPS, MaskGroup
from snn_energy.datasets.names import parse_data
from snn_energy.models.names import CNNS, default_time_steps, family_of, has_dtss_layers, is_spiking

Parsed = TypeVar("Parsed", bound=BaseModel)


class _ContradictionError(ValueError):
    """Keys that are valid by themselves but contradict each other; ``key`` (dotted) is the one reported."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The network: a registry name and the options of ``create_model``. Sizes in pixels and time steps.

    A CNN (``models.names.CNNS``) has its own defaults of neuron, leak, v_th and pooling, and no heads, patch_size
    and mlp_ratio; width, v_th, pooling and batch_norm are only for CNNs.
    """

    name: str
    image_size: int = Field(ge=1, le=2**15)
    in_channels: int = Field(ge=1, le=2**15)
    num_classes: int = Field(ge=2, le=2**20)
    time_steps: int | None = Field(default=None, ge=1, le=2**12)
    heads: int | None = Field(default=None, ge=1)
    patch_size: int | None = Field(default=None, ge=1)
    mlp_ratio: int | None = Field(default=4, ge=1, le=2**10)
    neuron: Literal["paper", "spikformer", "hoyer"] = "paper"
    leak: float = Field(default=0.5, ge=0, le=1)
    width: float | None = Field(default=None, gt=0, le=16)
    v_th: float | None = Field(default=None, gt=0)
    pooling: Literal["avg", "max"] | None = None
    batch_norm: bool | None = None
    initial_steps: int | None = Field(default=None, ge=1)
    min_steps: int = Field(default=0, ge=0)
    surrogate_gamma: float = Field(default=1.0, gt=0)

    @property
    def family(self) -> str:
        """vit, spikformer or dts-spikformer; a CNN is its own family."""
        return family_of(self.name)

    @model_validator(mode="before")
    @classmethod
    def _fill_cnn_defaults(cls, given: Any) -> Any:
        """Fill in the defaults of a CNN: neuron, leak, v_th, pooling, and no mlp_ratio, because it has no MLP."""
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in CNNS:
            return given
        cnn_defaults = {key: getattr(CNNS[name], key) for key in ("neuron", "leak", "v_th", "pooling")}
        return {"mlp_ratio": None, **cnn_defaults, **given}

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelSection:
        try:
            default_steps = default_time_steps(self.name)
        except ModelError as error:
            raise _ContradictionError("name", str(error)) from error
        steps = self.time_steps or default_steps
        is_cnn, spiking = self.name in CNNS, is_spiking(self.name)
        inapplicable_keys = (
            ("heads", "patch_size", "mlp_ratio") if is_cnn else ("width", "v_th", "pooling", "batch_norm")
        )
        for key in inapplicable_keys:
            if getattr(self, key) is not None:
                kind = "transformer" if is_cnn else "CNN"
                raise _ContradictionError(key, f"only a {kind} has it, and {self.name} is not one; leave it out")
        if not spiking and steps != 1:
            raise _ContradictionError("time_steps", f"a non-spiking {self.name} has one time step, not {steps}")
        if not has_dtss_layers(self.name):
            for key in ("initial_steps", "min_steps"):
                if getattr(self, key):
                    raise _ContradictionError(key, f"only a dts-spikformer has DTSS layers, {self.name} has none")
        if not spiking and self.neuron != "paper":
            raise _ContradictionError("neuron", f"{self.name} has no spiking neurons; leave it out")
        for key in ("initial_steps", "min_steps"):
            if (getattr(self, key) or 0) > steps:
                raise _ContradictionError(key, f"{getattr(self, key)} is more than time_steps {steps}")
        return self


class OptimiserSection(_Section):
    """AdamW with a linear warm-up and a cosine to zero; TP has its own learning rate and no weight decay.

    clip_norm: largest norm of the gradient of all weights together; None: no clipping.
    """

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=0, ge=0)
    tp_learning_rate: float = Field(default=0.01, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)


class MaskLossSection(_Section):
    """lambda_m and the groups of layers whose active time steps it penalises."""

    weight: float = Field(gt=0)
    groups: list[MaskGroup] = Field(default=list(MASK_GROUPS), min_length=1)

    @model_validator(mode="after")
    def _no_group_twice(self) -> MaskLossSection:
        if len(set(self.groups)) < len(self.groups):
            raise _ContradictionError("groups", f"a group is named twice in {self.groups}")
        return self


class TetSection(_Section):
    """Temporal efficient training: cross entropy at every time step, (1 - weight) * CE_t + weight * MSE to a target.

    Deng et al., Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting, ICLR 2022; the
    defaults are those of the authors' code.
    """

    weight: float = Field(default=1e-3, ge=0, le=1)
    target: float = 1.0


class HoyerSection(_Section):
    """Weight of the Hoyer regulariser (sum |z|)^2 / sum z^2 of every spiking layer with neuron ``hoyer``.

    Datta et al., Hoyer regularizer is all you need for ultra low-latency spiking neural networks, 2022.
    """

    weight: float = Field(gt=0)


class Recipe(_Section):
    """One training run. ``name`` identifies it in messages and in the checkpoint.

    data: ``digits`` or ``NAME:PATH`` (see ``snn_energy.datasets.open``); may be left out if the run is given it.
    start_from: a checkpoint whose tensors of the same name and shape are the start, such as the non-spiking twin.
    hold_out: number of training images, spread over the split, that are not trained on and select the best checkpoint;
    0: the test split selects it, as its metadata state. test_every: epochs between two evaluations.
    epochs: passes over the training images; the last one may be a part of a pass (2.5).
    precision: dtype of the forward pass (weights, LIF scores and losses stay float32); a CPU without bfloat16
    instructions uses float32, with a warning. fused: BatchNorm and neurons of a Spikformer as one compiled operation
    (``models/spikformer_fused.py``); without a compiler the plain operations, with a warning.

    Augmentation, in this order: crop_scale, a random part of the image by area, for images in files; shift_pixels,
    the largest random shift, in pixels of the model's input; flip, left and right, for half the images;
    cutout_pixels, the side of a square set to 0; mixup, the alpha of Beta(alpha, alpha).
    """

    name: str
    model: ModelSection
    data: str | None = None
    start_from: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=1, ge=1, le=1024)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    fused: bool = False
    epochs: float = Field(gt=0, le=10**6)
    batch_size: int = Field(ge=2, le=2**31)
    hold_out: int = Field(default=0, ge=0)
    shift_pixels: int = Field(default=0, ge=0)
    flip: bool = False
    cutout_pixels: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.0, ge=0)
    crop_scale: list[float] | None = Field(default=None, min_length=2, max_length=2)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    optimiser: OptimiserSection
    mask_loss: MaskLossSection | None = None
    tet_loss: TetSection | None = None
    hoyer_loss: HoyerSection | None = None
    test_every: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        if self.mask_loss is not None and not has_dtss_layers(self.model.name):
            raise _ContradictionError(
                "mask_loss",
                f"{self.model.name} has no DTSS layers whose steps could be charged; "
                "leave it out or name a dts-spikformer",
            )
        if self.mask_loss is not None and (self.model.name in CNNS) != ("other" in self.mask_loss.groups):
            raise _ContradictionError(
                "mask_loss.groups",
                f"the layers of {self.model.name} are all in the group other; name it"
                if self.model.name in CNNS
                else f"no layer of {self.model.name} is in the group other; leave it out",
            )
        if self.optimiser.warmup_epochs >= self.epochs:
            raise _ContradictionError(
                "optimiser.warmup_epochs", f"{self.optimiser.warmup_epochs:g} must be below epochs {self.epochs:g}"
            )
        for key in ("shift_pixels", "cutout_pixels"):
            if getattr(self, key) >= self.model.image_size:
                raise _ContradictionError(
                    key, f"{getattr(self, key)} must be less than model.image_size {self.model.image_size}"
                )
        if self.fused and (self.model.family not in ("spikformer", "dts-spikformer") or self.model.neuron != "paper"):
            raise _ContradictionError(
                "fused", f"only a spikformer or dts-spikformer with neuron paper has it, not {self.model.name}"
            )
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise _ContradictionError("crop_scale", f"must be two shares, 0 < low <= high <= 1, not {self.crop_scale}")
        if self.data is not None:
            self._check_data(self.data)
        if self.tet_loss is not None and not is_spiking(self.model.name):
            raise _ContradictionError("tet_loss", f"{self.model.name} has one time step; leave it out")
        if self.hoyer_loss is not None and self.model.neuron != "hoyer":
            raise _ContradictionError(
                "hoyer_loss", f"needs model.neuron: hoyer, not {self.model.neuron}, whose layers have no such term"
            )
        return self

    def _check_data(self, data: str) -> None:
        try:
            name, _ = parse_data(data)
        except DataError as error:
            raise _ContradictionError("data", str(error)) from error
        if self.crop_scale is not None and name != "folder":
            raise _ContradictionError(
                "crop_scale", f"needs images in files (folder:PATH), not {name}; use shift_pixels"
            )

    def with_changes(self, **changes: Any) -> Recipe:
        """A recipe with top-level keys replaced, validated again. Raises RecipeError."""
        try:
            return Recipe.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise RecipeError(validation_message(error, self.name, Recipe)) from error

    def to_yaml(self) -> str:
        """The recipe as YAML text, every default written out; ``load_recipe`` reads it back."""
        text = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump(self.model_dump(exclude_none=True, mode="json"), text)
        return text.getvalue()


def list_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return bundled("recipe")


def bundled(kind: str) -> list[str]:
    """Names of the bundled files of a kind: ``recipe`` or ``grid``."""
    return sorted(path.stem for path in yaml_folder(kind).glob("*.yaml"))


def recipe_summaries() -> list[dict[str, str]]:
    """One row per bundled recipe: name, network, T, epochs, mask loss, and its purpose (first line of its file)."""
    rows = []
    for name in list_recipes():
        text, file_name = read_yaml(name, "recipe")
        recipe = parse_recipe(text, file_name)
        model, mask_loss = recipe.model, recipe.mask_loss
        steps = str(model.time_steps or default_time_steps(model.name))
        rows.append(
            {
                "recipe": name,
                "network": model.name,
                "T": steps if model.initial_steps is None else f"{model.initial_steps} of {steps}",
                "epochs": f"{recipe.epochs:g}",
                "mask loss": "" if mask_loss is None else f"{mask_loss.weight:g} {' '.join(mask_loss.groups)}",
                "for": text.splitlines()[0].removeprefix("#").strip(),
            }
        )
    return rows


def load_recipe(source: str | Path) -> Recipe:
    """A bundled recipe by name (``digits-dts``) or a YAML file by path. Raises RecipeError."""
    return parse_recipe(*read_yaml(source, "recipe"))


def read_yaml(source: str | Path, kind: str) -> tuple[str, str]:
    """(text, name in errors) of a bundled YAML file (``training/<kind>s/``) or one given by path. RecipeError."""
    known = bundled(kind)
    if str(source) in known:
        return (yaml_folder(kind) / f"{source}.yaml").read_text(encoding="utf-8"), f"{source}.yaml"
    path = Path(source)
    if not path.is_file():
        raise RecipeError(
            f"{source}: neither a file nor a bundled {kind}{nearest(str(source), known)} (bundled: {', '.join(known)})"
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a readable text file ({error})") from error


def parse_recipe(text: str, file_name: str) -> Recipe:
    """YAML text -> Recipe. file_name: its name in errors. Raises RecipeError with file and line."""
    return parse_yaml(text, file_name, Recipe, "recipe")


def parse_yaml(text: str, file_name: str, schema: type[Parsed], kind: str) -> Parsed:
    """YAML text -> a checked section. Raises RecipeError with file, line and key."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{file_name}{line}: not valid YAML: {_first_line(error.problem)}") from error
    except YAMLError as error:
        raise RecipeError(f"{file_name}: not valid YAML: {_first_line(str(error))}") from error
    except RecursionError as error:
        raise RecipeError(f"{file_name}: nested too deep for a {kind}") from error
    if not isinstance(tree, CommentedMap):
        raise RecipeError(f"{file_name}: a {kind} is a mapping of keys ({', '.join(schema.model_fields)})")
    try:
        return schema.model_validate(_plain(tree, file_name))
    except ValidationError as error:
        raise RecipeError(validation_message(error, file_name, schema, tree)) from error


def _plain(node: Any, file_name: str) -> Any:
    """YAML nodes with their comments -> plain dicts, lists and scalars. Raises RecipeError for tags, dates and sets."""
    if isinstance(node, CommentedMap):
        return {key: _plain(value, file_name) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value, file_name) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    tag = getattr(getattr(node, "tag", None), "value", None)
    found = f"the tag {tag}" if tag else f"a {type(node).__name__.lower()}"
    raise RecipeError(
        f"{file_name}: {found} is not supported; use only numbers, texts, true, false, lists and mappings"
    )


def validation_message(
    error: ValidationError, file_name: str, schema: type[BaseModel], tree: CommentedMap | None = None
) -> str:
    """The first error as one line, with the number of the others; unknown (misspelt) keys come first.

    The line of the file is included if its ``tree`` is given.
    """
    errors = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    first, others = errors[0], len(errors) - 1
    location: tuple[int | str, ...] = first["loc"]
    contradiction = first.get("ctx", {}).get("error")
    if isinstance(contradiction, _ContradictionError):
        location = (*location, *contradiction.key.split("."))
    key = ".".join(map(str, location))
    if first["type"] == "extra_forbidden":
        text = f"unknown key '{key}'{nearest(str(location[-1]), _sibling_keys(location, schema))}"
    elif first["type"] == "missing":
        text = f"the key '{key}' is missing"
    elif first["type"] == "literal_error":
        known = str(first["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        text = f"{key}: '{first['input']}' is not one of {', '.join(known)}{nearest(str(first['input']), known)}"
    elif first["type"] == "value_error":
        text = ".".join(map(str, [*first["loc"], contradiction]))
    else:
        text = f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"
    more = f" (and {others} more)" if others else ""
    where = file_name if tree is None else f"{file_name}, line {_line_of(tree, location)}"
    return f"{where}: {text}{more}"


def _sibling_keys(location: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    """The valid keys of the section that contains an unknown key."""
    for part in location[:-1]:
        if isinstance(part, str):
            schema = next(_sections(schema.model_fields[part].annotation), schema)
    return list(schema.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation such as ``X | None`` or ``list[X]`` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _line_of(tree: CommentedMap, location: tuple[int | str, ...]) -> int:
    """1-based line of a key, or of the deepest existing key around it if it is missing."""
    line, node = 1, tree
    for part in location:
        if not isinstance(node, CommentedMap | CommentedSeq) or not _has(node, part):
            break
        find: Callable[[Any], tuple[int, int]] = node.lc.key if isinstance(node, CommentedMap) else node.lc.item
        line, node = find(part)[0] + 1, node[part]
    return line


def _has(node: CommentedMap | CommentedSeq, part: int | str) -> bool:
    return part in node if isinstance(node, CommentedMap) else isinstance(part, int) and part < len(node)


def _first_line(text: str | None) -> str:
    return (text or "unreadable").strip().splitlines()[0]
