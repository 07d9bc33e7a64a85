"""What a run shows and leaves behind while it trains: progress on the terminal, figures in `history.csv`."""

import csv
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from mimzoo.files import naming, replacing, sync
from mimzoo.processes import count, is_main


class History:
    """The figures of a run in `history.csv`, one row each: step, split, name, value; the main process writes them."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if is_main():
            begin_rows(path, ("step", "split", "name", "value"), step)

    def add(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Append figures of a step."""
        if is_main():
            add_rows(self.path, ((step, split, name, repr(float(value))) for name, value in figures.items()))

    def sync(self) -> None:
        """Wait until all figures outlast a power cut, as the state that is saved after them does."""
        if is_main():
            sync(self.path)


def begin_rows(path: Path, columns: Sequence[str], step: int) -> None:
    """Begin a CSV file whose first column is the step, or take what lies beyond `step` out of the one there."""
    rows = [row for row in read_rows(path, columns) if step > 0 and int(row[0]) <= step]
    with naming(path), replacing(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def read_rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Return the whole rows of such a file without its heading; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == len(columns) and row[0].isdigit()]


def add_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Append rows to a CSV file."""
    with naming(path), path.open("a", newline="") as file:
        csv.writer(file).writerows(rows)


@dataclass
class Stop:
    """Whether a signal asked the run to stop."""

    asked: bool = False


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Yield a flag that SIGINT and SIGTERM raise, so that the step in progress is finished and saved.

    The second of them is a KeyboardInterrupt, for those who do not want to wait for that.
    """
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        # To several processes their launcher passes on the signal that they got already.
        if stop.asked and count() == 1:
            raise KeyboardInterrupt
        stop.asked = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"mimzoo: stopping after this step; once more stops at once\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_stop_requests(worker: int) -> None:
    """Leave SIGINT and SIGTERM, which a terminal or a scheduler sends to all, to the process that began this one.

    Its own SIGTERM, with which it ends those that load its crops, is obeyed. Where signals do not tell who sent them
    (not on Linux), any SIGTERM is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        continue
    os._exit(0)


class Shown:
    """The progress of a run on the terminal; a line for each validation stays, in a log file too."""

    def __init__(self, bar: Progress, title: str, steps: int, first: int, batch: int) -> None:
        self.bar, self.first, self.batch = bar, first, batch
        self.task = bar.add_task(title, total=steps, completed=first, note="")
        self.begun = time.monotonic()

    def advance(self, step: int, loss: float, rate: float) -> None:
        """Show a step with its loss and learning rate."""
        crops = (step - self.first) * self.batch / max(1e-9, time.monotonic() - self.begun)
        self.bar.update(self.task, completed=step, note=f"loss {loss:.4f} lr {rate:.1e} {crops:.1f} crops/s")

    def say(self, step: int, figures: dict[str, float], best: bool) -> None:
        """Leave a line with the figures of a validation."""
        values = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        minutes = (time.monotonic() - self.begun) / 60
        self.bar.console.print(f"step {step}: validation {values}{' (best)' * best}, after {minutes:.1f} min")


@contextmanager
def progress_bar(title: str, steps: int, first: int, batch: int, *, quiet: bool) -> Iterator[Shown]:
    """Yield what shows a run's progress from step `first` to `steps`, or nothing when `quiet`."""
    # On a narrow terminal the title gives way, not the figures.
    title_column = TextColumn("{task.description}", table_column=Column(overflow="ellipsis"))
    columns = (title_column, BarColumn(10), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    hidden = Console(quiet=True) if quiet else None
    with Progress(*columns, TimeRemainingColumn(), console=hidden) as bar:
        yield Shown(bar, title, steps, first, batch)
