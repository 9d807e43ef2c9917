"""Stores the parts of a run: saves regularly, stops at a signal, resumes where it stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from snn_energy.core.errors import CountsError
from snn_energy.core.files import exclusive_lock, make_folder
from snn_energy.counts.counts import Counts
from snn_energy.profiler.results.part import PartialCounts, Run
from snn_energy.profiler.results.part_files import PART_NAME, part_files_in, read_part, write_part

if TYPE_CHECKING:
    from snn_energy.running.processes import Processes

PART_BYTES = 8 * 2**20  # of counts in memory; then a part is closed
SAVE_EVERY_S = 20.0


class Interrupted(KeyboardInterrupt):
    """A run stopped at a signal after storing its counts; ``str`` says how to resume, ``code``: exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Parts:
    """Stores the parts of a run: a single part in memory, several parts in files.

    folder: None: a temporary one, created when it is needed. run: identifies the run, so that parts of two runs are
    never merged. todo: (first sample, sample after the last) of the batches that this process must count, in the
    loader's order; None: all batches of the loader. total: samples of the whole run. counted: samples that earlier runs
    have counted. group: the processes that share the run. signal: the one that requested to stop, 0 if none did.
    """

    folder: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    todo: Sequence[Run] | None = None
    total: int | None = None
    counted: int = 0
    group: Processes | None = None
    save_every_s: float = float("inf")
    signal: int = 0
    _kept: list[PartialCounts] = field(default_factory=list)
    _temporary: tempfile.TemporaryDirectory[str] | None = None

    def keep(self, part: PartialCounts, *, is_last: bool) -> None:
        """Store a part. Raises OutputError."""
        if is_last and not self._is_shared and not self.files():
            self._kept.append(part)
            return
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="snn-energy-")
            self.folder = Path(self._temporary.name)
        write_part(make_folder(self.folder), part, self.run)

    @property
    def _is_shared(self) -> bool:
        return self.group is not None and self.group.size > 1

    def finish(self, merge: Callable[[], Counts]) -> Counts:
        """The counts of the run once all processes are done: the first one merges, the others receive the rows."""
        if self.group is None or self.group.size == 1:
            return merge()
        self.group.wait()
        whole = merge() if self.group.is_first else None
        header, rows = self.group.broadcast(None if whole is None else (whole.header, whole.rows))
        return Counts(header, rows) if whole is None else whole

    def files(self) -> list[Path]:
        """The parts that are files."""
        return [] if self.folder is None else part_files_in(self.folder)

    def __iter__(self) -> Iterator[PartialCounts]:
        """All parts in the order of their samples, one at a time in memory. Raises CountsError."""
        if self._kept:
            yield from self._kept
            return
        for path in self.files():
            yield read_part(path, self.run)

    def place_of(self, batches: int, samples: int) -> int:
        """The sample after the first ``batches`` batches of this process, which hold ``samples`` samples."""
        return samples if self.todo is None else self.todo[batches - 1][1]

    def ends_run(self, batches: int) -> bool:
        """True if the next batch of this process does not start where its first ``batches`` batches end."""
        if self.todo is None or batches >= len(self.todo):
            return False
        return self.todo[batches][0] != self.todo[batches - 1][1]

    def interrupted(self, number: int) -> Interrupted:
        """The exception to raise after signal ``number``, once everything that was counted is stored."""
        return Interrupted(self.progress(), 128 + number)

    def progress(self) -> str:
        """How many samples are stored in files, and how to go on."""
        done = sum(stop - start for start, stop in covered(self.files()))
        of = "" if self.total is None else f" of {self.total}"
        return f"{done}{of} samples are counted and kept in {self.folder}; the same command goes on from there"

    def note_on(self, error: Exception, batches: int, samples: int) -> None:
        """Note on an error behind so many batches and samples where it was raised, and what is stored in files."""
        if batches == 0:
            return  # what is wrong with the first batch is seldom about the batch
        error.add_note(f"in batch {batches + 1}, after {self.counted + samples} samples")
        if self.todo is not None:
            error.add_note(self.progress())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM stop the run after the current batch, a second Ctrl-C immediately."""
        if self.todo is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def request_stop(number: int, frame: FrameType | None) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Delete the temporary folder, if there is one."""
        if self._temporary is not None:
            self._temporary.cleanup()


@contextmanager
def open_parts(
    folder: str | Path,
    run: Mapping[str, Any],
    total: int,
    batch_size: int,
    group: Processes | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Iterator[Parts]:
    """The parts of one run in a folder: what earlier runs have counted, and the remaining batches of this process.

    The folder is created, and locked while it is in use. Raises OutputError, and CountsError for parts of another run
    and damaged ones.
    """
    folder_path, is_first = Path(folder), group is None or group.is_first
    run = json.loads(json.dumps(dict(run)))
    with contextlib.ExitStack() as stack:
        found: list[Run] = []
        if is_first:
            stack.enter_context(exclusive_lock(make_folder(folder_path)))
            paths = part_files_in(folder_path)
            found = covered(paths)
            for path in paths:
                read_part(path, run)
        if group is not None:
            found = group.broadcast(found)
        rank, size = (0, 1) if group is None else (group.rank, group.size)
        todo = share(missing(found, total, batch_size), rank, size)
        done = sum(stop - start for start, stop in found)
        try:
            yield Parts(folder_path, run, todo, total, done, group, save_every_s)
        finally:
            if is_first:
                with contextlib.suppress(OSError):
                    folder_path.rmdir()  # fails unless it is empty


def covered(paths: Sequence[Path]) -> list[Run]:
    """The sample ranges of part files, in order, from their names. Raises CountsError if two parts overlap."""
    runs = []
    for path in paths:
        match = PART_NAME.fullmatch(path.name)
        if match is not None:
            runs.append((int(match[1]), int(match[2])))
    for path, (_, stop), (start, _) in zip(paths, runs, runs[1:], strict=False):
        if start < stop:
            raise CountsError(f"{path.parent}: two parts hold sample {start}; two runs wrote there: delete the folder")
    return runs


def missing(found: Sequence[Run], total: int, batch_size: int) -> list[Run]:
    """The batches of ``total`` samples that ``found`` lacks, cut at multiples of ``batch_size``."""
    batches, at = [], 0
    for start, stop in [*found, (total, total)]:
        while at < start:
            end = min(start, at - at % batch_size + batch_size)
            batches.append((at, end))
            at = end
        at = max(at, stop)
    return batches


def share(batches: Sequence[Run], rank: int, size: int) -> list[Run]:
    """The consecutive batches of one process; the numbers of two processes differ by at most one."""
    return list(batches[len(batches) * rank // size : len(batches) * (rank + 1) // size])
