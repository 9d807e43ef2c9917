"""Parts in files: each is written atomically, and checked when it is read."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from snn_energy.core.errors import CountsError, OutputError
from snn_energy.core.files import write_atomically
from snn_energy.core.kinds import ValueSet
from snn_energy.counts.columns import to_smallest_dtype
from snn_energy.profiler.results.part import CountArray, Operation, PartialCounts

FORMAT = 3
PART_NAME = re.compile(r"\.?(\d{9,})-(\d{9,})\.npz")


def parts_path(output: str | Path) -> Path:
    """The folder of the parts of a counts file: ``dtss.json.parts``."""
    path = Path(output)
    return path.with_name(path.name + ".parts")


def part_path(folder: Path, part: PartialCounts) -> Path:
    """The path of a part, named by its samples so that names sort as samples do."""
    return folder / f"{part.start:09d}-{part.stop:09d}.npz"


def write_part(folder: Path, part: PartialCounts, run: Mapping[str, Any]) -> Path:
    """Write a part atomically; ``run`` identifies the run. Raises OutputError."""
    metadata = {
        "format": FORMAT,
        "run": dict(run),
        **{name: getattr(part, name) for name in ("start", "samples", "correct", "worked")},
        "rules": dict(part.rules),
        "header": dict(part.header),
        "troubles": dict(part.not_counted),
        "outputs": sorted(part.outputs),
        "values": [
            [*key, v.unit, sorted(v.levels), v.reason, v.exact, v.bits] for key, v in sorted(part.values.items())
        ],
        "limits": [[*key, limit] for key, limit in sorted(part.limits.items())],
        "loader": sorted(part.loader),
        "computed": [[*key, shown] for key, shown in sorted(part.computed.items())],
    }
    texts = {"told": json.dumps(metadata), "operations": json.dumps([asdict(item) for item in part.operations])}
    members = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **members, **{name: to_smallest_dtype(a) for name, a in part.arrays.items()})  # type: ignore[arg-type]

    path = part_path(folder, part)
    write_atomically(path, write)
    return path


def read_part(path: Path, run: Mapping[str, Any] | None = None) -> PartialCounts:
    """Read a part. Raises CountsError for a damaged one, and for one of another run if ``run`` is given."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
        metadata = json.loads(members.pop("told").tobytes())
        if run is not None and metadata["format"] == FORMAT:
            _require_same_run(path, metadata["run"], run)
        part = _as_counts(metadata, json.loads(members.pop("operations").tobytes()), members)
        rows = {name: sum(len(o.steps) for o in part.operations if name in o.counted) for name in members}
        if any(a.shape != (rows[n], part.samples) or a.dtype.kind != "u" for n, a in members.items()):
            raise ValueError("counts of another shape")
        if part_path(path.parent, part) != path:
            raise ValueError("it was renamed")
    except CountsError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as bad:
        raise CountsError(
            f"{path}: a damaged part of a run ({bad}); delete it and run the same command again: only its samples are "
            "counted anew"
        ) from None
    return part


def _as_counts(
    metadata: Mapping[str, Any], operations: Sequence[Mapping[str, Any]], arrays: Mapping[str, CountArray]
) -> PartialCounts:
    if metadata["format"] != FORMAT:
        raise ValueError(f"format {metadata['format']!r}")
    lists = ("steps", "inputs", "active", "counted")
    return PartialCounts(
        start=metadata["start"],
        samples=metadata["samples"],
        rules=metadata["rules"],
        header=metadata["header"],
        correct=metadata["correct"],
        operations=tuple(Operation(**{**o, **{name: tuple(o[name]) for name in lists}}) for o in operations),
        outputs=frozenset(metadata["outputs"]),
        values={
            (a, b): ValueSet(unit, frozenset(k), reason, *rest) for a, b, unit, k, reason, *rest in metadata["values"]
        },
        limits={(layer, side): limit for layer, side, limit in metadata["limits"]},
        loader=frozenset((layer, side) for layer, side in metadata["loader"]),
        computed={(layer, side): shown for layer, side, shown in metadata["computed"]},
        worked=tuple(metadata["worked"]),
        not_counted=metadata["troubles"],
        arrays=arrays,
    )


def _require_same_run(path: Path, found: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    odd = [key for key in sorted({*found, *run}) if found.get(key) != run.get(key)]
    if odd:
        raise CountsError(
            f"{path.parent}: holds parts of another run (another {', '.join(odd)}); finish that run with its own "
            "command, or delete the folder"
        )


def remove_parts(folder: str | Path) -> None:
    """Delete the parts of a finished run, and partial files of a killed one; other files are kept."""
    for path in part_files_in(Path(folder), half_written=True):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def part_files_in(folder: Path, *, half_written: bool = False) -> list[Path]:
    """The parts in a folder, in the order of their samples. Raises OutputError."""
    try:
        found = sorted(path for path in folder.iterdir() if PART_NAME.match(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read as the folder of a run's parts ({error.strerror})") from error
    return [path for path in found if half_written or (PART_NAME.fullmatch(path.name) and path.name[0] != ".")]
