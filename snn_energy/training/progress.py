"""Progress of a training run on stderr: a bar with rate and time left on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import logging
import math
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from snn_energy.training.recipe import Recipe

log = logging.getLogger("snn_energy")
LINE_EVERY_S = 60.0  # between two lines if stderr is not a terminal


class Reporter:
    """Reports batches and epochs; ``with`` restores the terminal on any exit."""

    def __init__(self, recipe: Recipe, images: int, *, enabled: bool, console: Console | None = None) -> None:
        self.recipe, self.images, self.enabled = recipe, images, enabled
        self.console = console or Console(stderr=True)
        self.dead: set[str] = set()
        self.finished_epochs, self.in_epoch, self.images_this_call = 0, 0, 0
        self.started = self.last_line = time.monotonic()
        self.status = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images, {task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
        )
        self.task = self.bar.add_task(recipe.name, total=round(recipe.epochs * images), text="")

    def __enter__(self) -> Reporter:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def resume(self, finished_epochs: int, in_epoch: int) -> None:
        """Set what an earlier call has finished: whole epochs, and images of the next one."""
        self.finished_epochs, self.in_epoch = finished_epochs, in_epoch

    def batch(self, count: int) -> None:
        """Report one finished batch of ``count`` images."""
        self.images_this_call += count
        self.in_epoch += count
        self.bar.update(self.task, completed=self._all(), text=f"{self._rate():.0f} images/s{self.status}")
        if time.monotonic() - self.last_line > LINE_EVERY_S:
            self._line(
                f"epoch {self.finished_epochs + 1}/{math.ceil(self.recipe.epochs)}, {self.in_epoch / self.images:.0%}",
                [],
            )

    def epoch(self, record: dict[str, float | int | None], dead: tuple[str, ...]) -> None:
        """Show one finished epoch, if enabled; always warn of layers that have just lost their last time step."""
        self.finished_epochs, self.in_epoch = int(record["epoch"] or 0), 0
        parts = [f"loss {record['loss']:.3f}"]
        if record["test_accuracy"] is not None:
            parts.append(f"test accuracy {record['test_accuracy']:.1%}")
        if record["t_avg"] is not None:
            parts.append(f"T_avg {record['t_avg']:.2f}")
        self.status = ", " + ", ".join(parts)
        self.bar.update(self.task, completed=self._all(), text=f"{self._rate():.0f} images/s{self.status}")
        waited = time.monotonic() - self.last_line > LINE_EVERY_S
        if record["test_accuracy"] is not None or self.images_this_call <= self.images or waited:
            self._line(f"epoch {self.finished_epochs}/{math.ceil(self.recipe.epochs)}", parts)
        newly_dead = [name for name in dead if name not in self.dead]
        if newly_dead:
            message = "%s: epoch %d: no active time step left (T_l = 0) in %s"
            log.warning(message, self.recipe.name, self.finished_epochs, ", ".join(newly_dead))
        self.dead = set(dead)

    def _all(self) -> int:
        """Images since the start of the run, including those before it was resumed."""
        return self.finished_epochs * self.images + self.in_epoch

    def _rate(self) -> float:
        """Images per second since this call began."""
        return self.images_this_call / max(time.monotonic() - self.started, 1e-9)

    def _line(self, where: str, parts: list[str]) -> None:
        if not self.enabled or self.console.is_terminal:
            return
        self.last_line, rate = time.monotonic(), self._rate()
        left = max(0.0, self.recipe.epochs * self.images - self._all()) / rate if rate else 0.0
        text = ", ".join([where, *parts, f"{rate:.0f} images/s", f"{left:.0f} s left"])
        self.console.print(f"{self.recipe.name}: {text}", highlight=False, soft_wrap=True, markup=False)
