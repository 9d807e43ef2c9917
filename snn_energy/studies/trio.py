"""Networks at equal accuracy from one command under a time budget: ``snn-energy trio``.

A trio recipe names stages, each a training recipe: a Spikformer at one time step, the spiking networks at T steps that
start from its weights, the non-spiking twin. The budget is divided by the stages' shares and by the time of a step on
this machine, measured before each stage. The plan of a stage is fixed when it begins and stored in ``trio.json``, so a
run that is killed at any moment and started again ends with the same bits as an uninterrupted one.

In the folder: ``stages/`` with every stage's 32-bit checkpoints, log and recipe, ``MODEL.safetensors`` in 16 bits for
each network that is a result, and ``trio.json``: planned time, time spent and accuracies.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from snn_energy._version import __version__
from snn_energy.checkpoints.checkpoint import read_metadata, sha256_of
from snn_energy.core.errors import OutputError, RecipeError
from snn_energy.core.files import exclusive_lock, make_folder, write_text
from snn_energy.running.processes import device_type
from snn_energy.studies.ablation_grid import recipe_with
from snn_energy.training.evaluation import to_float16
from snn_energy.training.recipe import Recipe, bundled, load_recipe, parse_yaml, read_yaml, validation_message
from snn_energy.training.run_files import partial_path
from snn_energy.training.speed import work_clock
from snn_energy.training.train import StepTimes, data_fingerprint, measure_steps, train, without_paths

log = logging.getLogger("snn_energy")
STATE_FILE = "trio.json"
SAVE_EVERY_S = 60.0
LARGEST_WARMUP = 0.1  # of a stage's epochs
MOST_EPOCHS = 10**6  # as a recipe may have
MOST_SECONDS = 10**9


class Stage(BaseModel):
    """One training run of a trio. share: of the seconds; changes: dotted keys of the base; result: kept in 16 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")  # part of file names
    share: float = Field(gt=0)
    start_from: str | None = None
    result: bool = True
    changes: dict[str, Any] = {}


class Trio(BaseModel):
    """Stages in the order in which they are trained. base: a bundled recipe or a path; its epochs are not used."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str
    base: str
    stages: list[Stage] = Field(min_length=1)


class StageState(BaseModel):
    """The entry of a stage in ``trio.json``, as far as this code reads it."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    spent_s: float = Field(ge=0)
    measuring_s: float = Field(ge=0)
    epochs: float = Field(default=1.0, gt=0, le=MOST_EPOCHS)
    accuracy: float = Field(default=0.0, ge=0, le=1)
    accuracy_16_bit: float = Field(default=0.0, ge=0, le=1)
    model: str = ""
    t_avg: float | None = None
    checkpoint: str = ""
    sha256: str = ""

    @model_validator(mode="after")
    def _complete(self) -> StageState:
        given = self.model_fields_set
        if "accuracy" in given and not given >= {"epochs", "model", "t_avg"}:
            raise ValueError("accuracy without epochs, model and t_avg")
        if "accuracy_16_bit" in given and not given >= {"accuracy", "checkpoint", "sha256"}:
            raise ValueError("accuracy_16_bit without accuracy, checkpoint and sha256")
        return self


@dataclass(frozen=True)
class TrioResult:
    """The folder of the results, and the entries of the stages in ``trio.json``."""

    folder: Path
    stages: dict[str, dict[str, Any]]
    spent_s: float

    def to_frame(self) -> pd.DataFrame:
        """One row per stage: model, T_avg, epochs, seconds, accuracies (%), checkpoint."""
        rows = [
            {
                "stage": stage,
                "model": entry["model"],
                "T_avg": entry["t_avg"],
                "epochs": entry["epochs"],
                "seconds": entry["spent_s"],
                "accuracy (%)": 100 * entry["accuracy"],
                "in 16 bits (%)": 100 * entry["accuracy_16_bit"] if "accuracy_16_bit" in entry else None,
                "checkpoint": entry.get("checkpoint"),
            }
            for stage, entry in self.stages.items()
        ]
        return pd.DataFrame(rows)


def list_trios() -> list[str]:
    """Names of the bundled trio recipes."""
    return bundled("trio")


def load_trio(source: str | Path) -> tuple[Trio, dict[str, Recipe]]:
    """A bundled trio by name or a YAML file, and the recipe of every stage. Raises RecipeError."""
    text, file_name = read_yaml(source, "trio")
    trio = parse_yaml(text, file_name, Trio, "trio")
    base = load_recipe(trio.base)
    recipes: dict[str, Recipe] = {}
    for stage in trio.stages:
        where = f"{file_name}: stage '{stage.name}'"
        if stage.name.lower() in (name.lower() for name in recipes):
            raise RecipeError(f"{where}: appears twice; give each its own name")
        if stage.start_from is not None and stage.start_from not in recipes:
            raise RecipeError(f"{where}: start_from '{stage.start_from}' is not an earlier stage")
        reserved = next((key for key in ("epochs", "seed", "name", "data", "start_from") if key in stage.changes), None)
        if reserved is not None:
            raise RecipeError(f"{where}: changes: '{reserved}' is set by the trio or its command; leave it out")
        recipes[stage.name] = recipe_with(base, f"{trio.name}-{stage.name}", stage.changes, where)
    results = [recipes[stage.name].model.name for stage in trio.stages if stage.result]
    if len(set(results)) < len(results):
        raise RecipeError(
            f"{file_name}: two results are of one model ({', '.join(results)}); write 'result: false' at one of them"
        )
    return trio, recipes


def train_trio(
    source: str | Path,
    folder: str | Path,
    *,
    data: str | None,
    seconds: float,
    seed: int | None = None,
    device: str = "cpu",
    progress: bool = False,
    on_message: Callable[[str], None] = lambda text: None,
) -> TrioResult:
    """Train a trio into a folder within ``seconds``; resumes where an earlier call stopped.

    data: ``NAME:PATH`` (see ``datasets``) instead of the base's. seconds: for all stages together, measuring and
    evaluations included, by ``speed.work_clock``: wall time on a GPU, on a CPU the processor time divided by the number
    of threads, so that other jobs and pauses are not counted. A new value when resuming applies to the stages that have
    not begun. on_message: called with lines of progress. Raises RecipeError for a budget that is too short or a folder
    of another run, DataError, CheckpointError, OutputError.
    """
    if not (isinstance(seconds, int | float) and 0 < seconds <= MOST_SECONDS):  # not so for NaN
        raise RecipeError(f"--seconds must lie above 0 and be at most {MOST_SECONDS:g}, not {seconds:g}")
    if not str(folder):
        raise OutputError("-o is empty; give the path of a folder")
    trio, recipes = load_trio(source)
    changes = {key: value for key, value in {"data": data, "seed": seed}.items() if value is not None}
    recipes = {name: recipe.with_changes(**changes) for name, recipe in recipes.items()}
    if any(recipe.data is None for recipe in recipes.values()):
        raise RecipeError(f"{trio.name}: specifies no data; give --data NAME:PATH")
    place = make_folder(folder)
    with exclusive_lock(place):
        run = _TrioRun(trio, recipes, place, device, seconds, progress, on_message)
        return run.all_stages()


class _TrioRun:
    """One call: the state of the folder, and the steps that advance it."""

    def __init__(
        self,
        trio: Trio,
        recipes: dict[str, Recipe],
        folder: Path,
        device: str,
        seconds: float,
        progress: bool,
        on_message: Callable[[str], None],
    ) -> None:
        self.trio, self.recipes, self.folder = trio, recipes, folder
        self.device, self.seconds, self.progress, self.on_message = device, seconds, progress, on_message
        self.measured: dict[str, StepTimes] = {}
        self.state = self._read_state()
        self._check_data()
        for half_written in [
            *folder.glob(".*.safetensors*"),
            *(make_folder(folder / "stages")).glob(".*.safetensors*"),
        ]:
            half_written.unlink()  # left by a killed call; this call holds the lock

    def all_stages(self) -> TrioResult:
        """Train what is not trained yet, then write the 16-bit results."""
        for index, stage in enumerate(self.trio.stages):
            entry = self.state["stages"].setdefault(stage.name, {"spent_s": 0.0, "measuring_s": 0.0})
            if "epochs" not in entry:
                self._plan(index)
            if "accuracy" not in entry:
                self._train(stage)
        for stage in self.trio.stages:
            if stage.result and not self._has_result(stage):
                self._write_float16(stage)
        return TrioResult(self.folder, self.state["stages"], self._spent())

    def _has_result(self, stage: Stage) -> bool:
        """Whether the 16-bit checkpoint exists, as it was written."""
        entry = self.state["stages"][stage.name]
        path = self.folder / f"{self.recipes[stage.name].model.name}.safetensors"
        return "accuracy_16_bit" in entry and path.is_file() and sha256_of(path) == entry["sha256"]

    def _path(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.safetensors"

    def _spent(self) -> float:
        return float(sum(entry["spent_s"] + entry["measuring_s"] for entry in self.state["stages"].values()))

    def _plan(self, index: int) -> None:
        """Fix the epochs of a stage from the time left, its share of the remaining stages, and a measured step.

        Before the first stage all are measured, so that a budget too short for one step of each fails immediately.
        """
        stages = self.trio.stages[index:]
        measured = {stage.name: self._step_times(stage) for stage in (stages if index == 0 else stages[:1])}
        self.measured |= measured
        remaining = self.seconds - self._spent()
        if index == 0:
            needed = sum(
                _final_evaluations_s(times, stage) + times.step_s
                for stage, times in zip(stages, measured.values(), strict=True)
            )
            if remaining < needed:
                self.state["stages"].clear()
                raise RecipeError(
                    f"{self.trio.name}: --seconds {self.seconds:g} is too short for one step of each of its "
                    f"{len(stages)} stages and its accuracies ({needed + self.seconds - remaining:.0f} s at this "
                    "machine's speed); give more"
                )
        stage, times = stages[0], measured[stages[0].name]
        if remaining < _final_evaluations_s(times, stage) + times.step_s:
            log.warning(
                "%s: --seconds %g are spent (%.0f s) before stage '%s', which gets one step; for more, remove the "
                "folder and give more seconds", self.trio.name, self.seconds, self._spent(), stage.name,
            )  # fmt: skip
        stage_s = remaining * stage.share / sum(other.share for other in stages) - _final_evaluations_s(times, stage)
        steps = max(1, int(stage_s / times.step_s))
        epochs = steps / times.epoch_steps
        evaluations = epochs // self.recipes[stage.name].test_every
        steps = max(
            1, min(int((stage_s - evaluations * times.evaluation_s) / times.step_s), MOST_EPOCHS * times.epoch_steps)
        )
        entry = self.state["stages"][stage.name]
        entry |= {
            "epochs": steps / times.epoch_steps,
            "steps": steps,
            "planned_s": max(stage_s, 0.0),
            "step_s": times.step_s,
        }
        self._write_state()
        self.on_message(
            f"{stage.name}: {steps} steps ({entry['epochs']:.2f} epochs) in {max(stage_s, 0):.0f} s, "
            f"{1e3 * times.step_s / self.recipes[stage.name].batch_size:.1f} ms an image"
        )

    def _step_times(self, stage: Stage) -> StepTimes:
        """The times of a stage's steps; measured once per call."""
        if stage.name in self.measured:
            return self.measured[stage.name]
        run_clock = work_clock(torch.device(device_type(self.device)), self.recipes[stage.name].threads)
        started = run_clock()
        start = self._path(stage.start_from) if stage.start_from is not None else None
        times = measure_steps(
            self.recipes[stage.name], self.device, start_from=start if start is not None and start.exists() else None
        )
        entry = self.state["stages"].setdefault(stage.name, {"spent_s": 0.0, "measuring_s": 0.0})
        entry["measuring_s"] += run_clock() - started
        return times

    def _train(self, stage: Stage) -> None:
        entry, output = self.state["stages"][stage.name], self._path(stage.name)
        epochs = entry["epochs"]
        base = self.recipes[stage.name]
        warmup = min(base.optimiser.warmup_epochs, LARGEST_WARMUP * epochs)
        recipe = base.with_changes(epochs=epochs, optimiser=base.optimiser.model_dump() | {"warmup_epochs": warmup})

        def record_saved(seconds: float) -> None:
            entry["spent_s"] = seconds
            self._write_state()

        resume = partial_path(output).exists()
        if output.exists() and read_metadata(output).get("recipe") != without_paths(recipe).to_yaml():
            raise RecipeError(f"{output}: is of another recipe than stage '{stage.name}' as planned; remove it")
        if resume or not output.exists():  # else it was killed after training, before it was recorded below
            result = train(
                recipe,
                output,
                start_from=None if stage.start_from is None else self._path(stage.start_from),
                device=self.device,
                resume=resume,
                write_log=True,
                progress=self.progress,
                save_every_s=SAVE_EVERY_S,
                on_save=record_saved,
            )
            entry["spent_s"] = result.seconds
        metadata = read_metadata(output)
        known = ("model", "held_out_accuracy", "t_avg", "active_steps", "precision", "fused")
        entry |= {"accuracy": metadata["test_accuracy"], **{key: metadata[key] for key in known}}
        self._write_state()
        self.on_message(f"{stage.name}: accuracy {metadata['test_accuracy']:.2%}, {entry['spent_s']:.0f} s")

    def _write_float16(self, stage: Stage) -> None:
        recipe, entry = self.recipes[stage.name], self.state["stages"][stage.name]
        output = self.folder / f"{recipe.model.name}.safetensors"
        run_clock = work_clock(torch.device("cpu"), recipe.threads)  # accuracy is measured on the CPU
        started = run_clock()
        before, after = to_float16(self._path(stage.name), str(recipe.data), output)
        entry |= {
            "spent_s": entry["spent_s"] + run_clock() - started,
            "accuracy_32_bit": before,
            "accuracy_16_bit": after,
            "checkpoint": output.name,
            "sha256": sha256_of(output),
            "bytes": output.stat().st_size,
        }
        self._write_state()
        self.on_message(f"{stage.name}: {output.name}, accuracy {before:.2%} in 32 bits, {after:.2%} in 16 bits")

    def _fingerprint(self) -> str:
        """SHA-256 of the trio with its recipes, independent of the folder of its data."""
        recipes = {name: recipe.model_copy(update={"data": None}).model_dump() for name, recipe in self.recipes.items()}
        text = json.dumps([self.trio.model_dump(), recipes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _read_state(self) -> dict[str, Any]:
        """The state that an earlier call left, or a new one. Raises RecipeError for a folder of another run."""
        path, fresh = (
            self.folder / STATE_FILE,
            {"trio": self.trio.name, "fingerprint": self._fingerprint(), "stages": {}},
        )
        if not path.exists():
            existing = next((f for f in sorted(self.folder.rglob("*.safetensors*"))), None)
            if existing is not None:
                raise OutputError(
                    f"{existing}: exists, but no {STATE_FILE} that states which run it belongs to; "
                    "choose another folder"
                )
            return fresh
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            trio, fingerprint, stages = str(state["trio"]), str(state["fingerprint"]), state["stages"]
            known = {"data_sha256": str(state["data_sha256"])}
            for name, entry in stages.items():
                where = f"stages.{name}"
                if name not in self.recipes and fingerprint == fresh["fingerprint"]:
                    raise KeyError(f"{where}: no stage of this trio")
                StageState.model_validate(entry)
        except ValidationError as error:
            raise RecipeError(
                validation_message(error, f"{path}: {where}", StageState) + "; choose another folder"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecipeError(f"{path}: not what a trio's run writes ({error}); choose another folder") from error
        if fingerprint != fresh["fingerprint"]:
            raise RecipeError(
                f"{path}: belongs to a run of '{trio}' with other recipes or another seed than '{self.trio.name}' now; "
                "choose another folder, or give what it was started with"
            )
        return {**fresh, **known, "stages": stages}

    def _check_data(self) -> None:
        """Raise RecipeError if the images are not those that the folder's earlier stages were trained on."""
        found = data_fingerprint(self.recipes[self.trio.stages[0].name])
        if self.state.setdefault("data_sha256", found) != found:
            raise RecipeError(
                f"{self.folder / STATE_FILE}: {self.trio.name}: the data hold other images or labels than those of its "
                "earlier stages; give the same data or choose another folder"
            )

    def _write_state(self) -> None:
        machine = {
            "seconds": self.seconds,
            "spent_s": self._spent(),
            "device": device_type(self.device),
            "torch_version": torch.__version__,
            "snn_energy_version": __version__,
        }
        write_text(self.folder / STATE_FILE, json.dumps({**self.state, **machine}, indent=1) + "\n")


def _final_evaluations_s(times: StepTimes, stage: Stage) -> float:
    """Seconds that a stage needs in addition to its steps: its last evaluation, and the two of the 16-bit result."""
    return times.evaluation_s * (3 if stage.result else 1)
