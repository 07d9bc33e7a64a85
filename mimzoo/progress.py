"""What a run shows and leaves behind while it trains: progress on the terminal, figures in `history.csv`."""

import csv
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mimzoo.files import replacing


class History:
    """The figures of a run in `history.csv`, one row each: step, split, name, value."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = _rows_up_to(path, step)
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([("step", "split", "name", "value"), *rows])

    def add(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Append figures of a step."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, split, name, repr(float(value))) for name, value in figures.items())


def _rows_up_to(path: Path, step: int) -> list[list[str]]:
    if not path.is_file() or step == 0:
        return []
    with path.open(newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if len(row) == 4 and int(row[0]) <= step]


@dataclass
class Stop:
    """Whether a signal asked the run to stop."""

    asked: bool = False


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Yield a flag that SIGINT and SIGTERM raise, so that the step in progress is finished and saved."""
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        stop.asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Shown:
    """The progress of a run on the terminal; a line for each validation stays, in a log file too."""

    def __init__(self, bar: Progress, title: str, steps: int, first: int, batch: int) -> None:
        self.bar, self.first, self.batch = bar, first, batch
        self.task = bar.add_task(title, total=steps, completed=first, note="")
        self.begun = time.monotonic()

    def advance(self, step: int, loss: float) -> None:
        """Show a step with its loss."""
        crops = (step - self.first) * self.batch / max(1e-9, time.monotonic() - self.begun)
        self.bar.update(self.task, completed=step, note=f"loss {loss:.4f} {crops:.1f} crops/s")

    def say(self, step: int, figures: dict[str, float], best: bool) -> None:
        """Leave a line with the figures of a validation."""
        values = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        minutes = (time.monotonic() - self.begun) / 60
        self.bar.console.print(f"step {step}: validation {values}{' (best)' * best}, after {minutes:.1f} min")


@contextmanager
def progress_bar(title: str, steps: int, first: int, batch: int, *, quiet: bool) -> Iterator[Shown]:
    """Yield what shows a run's progress from step `first` to `steps`, or nothing when `quiet`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    hidden = Console(quiet=True) if quiet else None
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=hidden) as bar:
        yield Shown(bar, title, steps, first, batch)
