"""Event recordings: N-MNIST files in, frames with a time axis out. Only NumPy, no torch, no downloads.

A recording of a dynamic vision sensor is a list of events (column x, row y, polarity, time). A network that runs in
time steps reads frames: the events of every pixel within each step, (T, 2, height, width), channel 0 the events of
polarity 0 (darker), channel 1 those of polarity 1 (brighter). The frames are sums of events, so the first layer that
reads them needs only accumulates, no multiplications.

N-MNIST: G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor, *Converting Static Image Datasets to Spiking Neuromorphic
Datasets Using Saccades*, Frontiers in Neuroscience 9:437, 2015, whose file format ``read_nmnist`` reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snn_energy.core.errors import DataError
from snn_energy.core.vocabulary import FrameValues as FrameValues
from snn_energy.datasets.images import Indices, Split
from snn_energy.datasets.names import EVENT_DATASETS, parse_data

Binning = Literal["time", "count"]

SENSOR = (34, 34)  # height, width
EVENT_BYTES = 5  # of one event: x 8 bits, y 8, polarity 1, time 23
WRAP_ROW = 240  # not a pixel's row: marks a clock overflow, after which timestamps are WRAP_US too small
WRAP_US = 1 << 13
CLASSES = 10
_NAME = re.compile(r"nmnist_(\d+)\.bin")
_SPLIT_FOLDERS = {"test": "Test", "train": "Train"}
LAYOUT = "PATH/Train/DIGIT/*.bin and PATH/Test/DIGIT/*.bin as distributed, or files PATH/nmnist_DIGIT.bin"


@dataclass(frozen=True)
class Events:
    """One recording: four (N,) int64 arrays in the order of time. x, y: pixels; polarity: 0 or 1; t: microseconds."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    polarity: NDArray[np.int64]
    t: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t)


def read_nmnist(path: str | Path) -> Events:
    """One N-MNIST recording (.bin): 40 bits per event, high byte first: x 8, y 8, polarity 1, time 23 in microseconds.

    A record of row 240 is no event: it marks a clock overflow, which adds 8,192 us to all later times.
    Raises DataError for a file that is missing, empty or truncated, for events outside the 34x34 pixels, and for times
    that run backwards (also if the 23 bits overflow without such a mark).
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read ({why}); give an N-MNIST recording (.bin)") from error
    if len(content) % EVENT_BYTES:
        raise DataError(
            f"{path}: {len(content)} bytes are not whole events of {EVENT_BYTES} bytes: truncated, or no N-MNIST "
            "recording; copy it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, EVENT_BYTES).astype(np.int64)
    times = (rows[:, 2] & 127) << 16 | rows[:, 3] << 8 | rows[:, 4]
    wraps = rows[:, 1] == WRAP_ROW
    times, rows = (times + WRAP_US * np.cumsum(wraps))[~wraps], rows[~wraps]
    events = Events(rows[:, 0], rows[:, 1], rows[:, 2] >> 7, times)
    if not len(events):
        raise DataError(f"{path}: the recording holds no events; remove it or copy it again")
    _require_in_order(path, events)
    _require_on_sensor(path, events, SENSOR)
    return events


def _require_on_sensor(name: str | Path, events: Events, sensor: tuple[int, int]) -> None:
    """Raise DataError for the first event outside (height, width)."""
    outside = (events.x < 0) | (events.x >= sensor[1]) | (events.y < 0) | (events.y >= sensor[0])
    if outside.any():
        first = int(outside.argmax())
        raise DataError(
            f"{name}: {int(outside.sum())} of {len(events)} events lie outside the {sensor[0]}x{sensor[1]} sensor, the "
            f"first at x={events.x[first]}, y={events.y[first]} (event {first}); another sensor's, or a damaged file"
        )


def _require_in_order(name: str | Path, events: Events) -> None:
    """Raise DataError for the first event that is earlier than the one before it."""
    backwards = np.diff(events.t) < 0
    if backwards.any():
        first = int(backwards.argmax())
        raise DataError(
            f"{name}: time runs backwards at event {first + 1}, from {events.t[first]} to {events.t[first + 1]} us: "
            "the clock of 23 bits ran over, or the file is damaged; cut the recording there or copy it again"
        )


def to_frames(
    events: Events,
    sensor: tuple[int, int] = SENSOR,
    *,
    time_steps: int,
    by: Binning = "time",
    step_us: int | None = None,
    values: FrameValues = "count",
    cut: bool = False,
    name: str | Path = "events",
) -> NDArray[np.float32]:
    """Frames (T, 2, height, width) float32 of one recording.

    by "time": T steps of equal length over the recording's duration. by "count": T steps with one T-th of the events
    each. step_us: instead, steps of this many microseconds from the first event on; a recording longer than T steps
    is an error, unless ``cut`` drops its end. values "count": the number of events of a pixel in the step; "binary": 1
    if it had any. sensor: (height, width). name: the recording's name in errors. Raises DataError.
    """
    height, width = sensor
    if time_steps < 1:
        raise DataError(f"time_steps must be at least 1, not {time_steps}")
    if by not in ("time", "count") or values not in ("count", "binary"):
        raise DataError(f"by must be 'time' or 'count', not '{by}'; values 'count' or 'binary', not '{values}'")
    if step_us is not None and step_us < 1:
        raise DataError(f"step_us={step_us} (--step-us) must be at least 1 us")
    if step_us is not None and by != "time":
        raise DataError(f"step_us={step_us} requires by='time', not '{by}'")
    if cut and step_us is None:
        raise DataError("cut (--cut) leaves out what comes after the last step, so it needs step_us (--step-us)")
    if not len(events):
        raise DataError(f"{name}: the recording holds no events; remove it or copy it again")
    _require_in_order(name, events)
    _require_on_sensor(name, events, sensor)
    elapsed_us = events.t - events.t[0]
    if by == "count":
        step = np.arange(len(events)) * time_steps // len(events)
    elif step_us is None:
        step = elapsed_us * time_steps // (elapsed_us[-1] + 1)
    else:
        step = elapsed_us // step_us
    in_range = step < time_steps
    if not in_range.all() and not cut:
        raise DataError(
            f"{name}: lasts {elapsed_us[-1] / 1000:g} ms, longer than {time_steps} steps of {step_us} us; "
            f"{int((~in_range).sum())} of {len(events)} events lie after them: use time_steps={step[-1] + 1}, "
            "or drop them (cut)"
        )
    shape = (time_steps, 2, height, width)
    flat_index = np.ravel_multi_index(
        (step[in_range], events.polarity[in_range], events.y[in_range], events.x[in_range]), shape
    )
    counts = np.bincount(flat_index, minlength=time_steps * 2 * height * width).reshape(shape)
    return np.minimum(counts, 1).astype(np.float32) if values == "binary" else counts.astype(np.float32)


@dataclass(frozen=True)
class EventSet:
    """One split of labelled recordings on disk; frames are made batch by batch."""

    name: str
    split: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    time_steps: int
    by: Binning
    step_us: int | None
    values: FrameValues
    cut: bool
    origin: str
    sensor: tuple[int, int] = SENSOR

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def input_kind(self) -> Literal["binary", "integer"]:
        """The kind of the frames, an argument of ``profile``: sums of events, or 0 and 1."""
        return "binary" if self.values == "binary" else "integer"

    @property
    def note(self) -> str:
        """Origin, and how the frames were made."""
        steps = f"{self.time_steps} steps"
        if self.step_us is not None:
            steps += f" of {self.step_us} us{', later events dropped' if self.cut else ''}"
        else:
            steps += " of equal time" if self.by == "time" else " of equally many events"
        what = "events per pixel and step" if self.values == "count" else "1 where a pixel had an event in the step"
        return f"{self.origin}, {steps}, {what}"

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        """(B,) indices -> (T, B, 2, height, width) float32. Raises DataError."""
        frames = np.zeros((self.time_steps, len(indices), 2, *self.sensor), np.float32)
        for at, index in enumerate(indices):
            path = self.paths[index]
            frames[:, at] = to_frames(
                read_nmnist(path),
                self.sensor,
                time_steps=self.time_steps,
                by=self.by,
                step_us=self.step_us,
                values=self.values,
                cut=self.cut,
                name=path,
            )
        return frames

    def first(self, samples: int) -> EventSet:
        """The first ``samples`` recordings."""
        origin = f"first {samples} of {len(self)}; {self.origin}"
        return replace(self, paths=self.paths[:samples], labels=self.labels[:samples], origin=origin)

    def fingerprint(self) -> bytes:
        """SHA-256 of labels, and of the files' names and bytes. Raises DataError."""
        found = hashlib.sha256(self.labels.tobytes())
        try:
            for path in self.paths:
                found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{self.name}: a recording cannot be read ({error})") from error
        return found.digest()


def load_events(
    spec: str,
    split: Split,
    time_steps: int,
    *,
    by: Binning = "time",
    step_us: int | None = None,
    values: FrameValues = "count",
    cut: bool = False,
    samples: int | None = None,
) -> EventSet:
    """The first ``samples`` recordings of one split (None: all) of ``nmnist:PATH``; options as for ``to_frames``.

    PATH is the folder as distributed (Train/DIGIT/*.bin and Test/DIGIT/*.bin; recordings in the order of their names,
    which is that of MNIST, so that the first ones contain all digits), or a folder of files nmnist_DIGIT.bin, all of
    which are then in both splits, as the note says. Files are opened when a batch is requested. Raises DataError.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', not '{split}'")
    name, path = parse_data(spec)
    if name not in EVENT_DATASETS or path is None:
        raise DataError(f"{spec}: holds images, not events (events: {', '.join(f'{n}:PATH' for n in EVENT_DATASETS)})")
    found, origin = _recordings(path, split)
    if samples is not None and samples < 1:
        raise DataError(f"samples must be at least 1, not {samples}")
    if samples is not None and samples > len(found):
        raise DataError(f"{path}: {samples} samples requested, but the {split} split has {len(found)}")
    whole = EventSet(
        name=name,
        split=split,
        paths=tuple(file for file, _ in found),
        labels=np.array([label for _, label in found], np.int64),
        time_steps=time_steps,
        by=by,
        step_us=step_us,
        values=values,
        cut=cut,
        origin=origin,
    )
    return whole if samples is None else whole.first(samples)


def _recordings(path: Path, split: Split) -> tuple[list[tuple[Path, int]], str]:
    """(file, digit) of every recording of a split, and their origin. Raises DataError."""
    entries = _entry_names(path)
    folder = path / _SPLIT_FOLDERS[split]
    if any(name in entries for name in _SPLIT_FOLDERS.values()):
        if folder.name not in entries:
            raise DataError(f"{folder}: no such folder; the layout must be {LAYOUT}")
        digits = [(digit, folder / digit) for digit in _entry_names(folder) if digit.isdecimal()]
        found = [(place / name, int(digit)) for digit, place in digits for name in _entry_names(place) if _is_bin(name)]
        found.sort(key=lambda item: (item[0].name, item[1]))
        origin = f"{folder.name} split"
    else:
        matches = [(name, match) for name in entries if (match := _NAME.fullmatch(name))]
        folder, found = path, [(path / name, int(match[1])) for name, match in matches]
        origin = "no Train and Test folders, so both splits hold every recording"
    if not found:
        raise DataError(f"{folder}: no recordings; the layout must be {LAYOUT}")
    invalid = next((file for file, label in found if label >= CLASSES), None)
    if invalid is not None:
        raise DataError(f"{invalid}: its digit must be 0..{CLASSES - 1}; the layout must be {LAYOUT}")
    return found, origin


def _is_bin(name: str) -> bool:
    return name.endswith(".bin") and not name.startswith(".")


def _entry_names(folder: Path) -> list[str]:
    """The names of a folder's entries, sorted. Raises DataError."""
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{folder}: cannot be listed ({why}); it must be a folder of recordings: {LAYOUT}") from error
