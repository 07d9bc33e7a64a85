"""What befalls a run while it trains: crops that cannot be read or come late, a loss that is no number, a full disk."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from torch import Tensor

from mimzoo.errors import DataError, MimzooError, WeightsError
from mimzoo.files import replacing
from mimzoo.processes import is_main, rank
from mimzoo.progress import add_rows, begin_rows, read_rows

if TYPE_CHECKING:
    from mimzoo.training import Batch, Job, State

# A run goes on without up to this share of its cases.
SPARED = 0.1
# How many cases an error names.
LISTED = 10
# The steps wait too much when they spend this share of their time so, over as many steps that take as many seconds.
WAITING, STEPS, SECONDS = 0.2, 50, 20.0
KEPT = "what was saved before is whole, and --resume goes on from it"


class Skipped:
    """The cases of which a crop could not be read: each is named once, on stderr and in `skipped.csv` of the run."""

    COLUMNS = ("step", "case", "reason")

    def __init__(self, folder: Path, cases: int, step: int) -> None:
        self.path, self.cases = folder / "skipped.csv", cases
        self.found: set[str] = set()
        if is_main() and self.path.is_file():
            begin_rows(self.path, self.COLUMNS, step)

    def note(self, step: int, reports: Iterable[str]) -> None:
        """Name the cases in the "skipped" of a batch; DataError when more than a tenth of all cannot be read."""
        reasons = {case: why for report in reports if report for case, why in json.loads(report).items()}
        for case in reasons.keys() - self.found:
            self._name(step, case, reasons[case])
        self.found |= reasons.keys()
        if reasons and len(self.found) > SPARED * self.cases:
            named = sorted(self.found)
            more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
            raise DataError(
                f"{len(named)} of {self.cases} cases can no longer be read, more than a run goes on without: "
                f"{', '.join(named[:LISTED])}{more}; of the last, {next(reversed(reasons.values()))}, with --resume"
            )

    def _name(self, step: int, case: str, reason: str) -> None:
        # Another process, or the run before it was stopped, may have met the case already.
        if any(case == named for _, named, _ in read_rows(self.path, self.COLUMNS)):
            return
        print(f"mimzoo: case {case} is replaced by others from step {step} on: {reason}", file=sys.stderr)
        if not self.path.is_file():
            begin_rows(self.path, self.COLUMNS, 0)
        add_rows(self.path, [(step, case, reason)])


class Pace:
    """How long the steps wait for their crops; too long is said once, with what to do."""

    def __init__(self, workers: int) -> None:
        self.workers, self.begun = workers, time.monotonic()
        self.waited, self.steps, self.said = 0.0, 0, not is_main()

    def note(self, waited: float) -> None:
        """Count a step that waited for so many seconds."""
        self.waited, self.steps = self.waited + waited, self.steps + 1
        past = time.monotonic() - self.begun
        if self.steps < STEPS or past < SECONDS:
            return
        if self.waited > WAITING * past and not self.said:
            print(f"mimzoo: {self.advice(self.waited / past)}", file=sys.stderr)
            self.said = True
        self.begun, self.waited, self.steps = time.monotonic(), 0.0, 0

    def advice(self, share: float) -> str:
        """Return by how much the steps wait, and what to do about it."""
        more = 2 * self.workers or 2
        if more <= (os.cpu_count() or 1):
            advice = f"let more processes load them with --workers {more} (now {self.workers})"
        else:
            advice = (
                "this machine has no cores for more --workers, so augment less or keep MIMZOO_HOME on a faster disk"
            )
        return f"the steps wait for crops {100 * share:.0f} % of the time; {advice}"


class Feed:
    """The batches of a run, one for each step or part of one, watched as they come."""

    def __init__(self, batches: Iterable["Batch"], job: "Job", state: "State") -> None:
        self.batches, self.state, self.pace = iter(batches), state, Pace(job.workers)
        self.skipped = Skipped(job.folder, len(getattr(job.data, "cases", ())), state.step)
        # Taken at once, for a loader begins its processes then, and that must be before this one has other threads.
        self.first = self._take()

    def __iter__(self) -> Iterator["Batch"]:
        return self

    def __next__(self) -> "Batch":
        begun = time.monotonic()
        batch, self.first = self.first or self._take(), None
        if batch is None:
            raise StopIteration
        self.pace.note(time.monotonic() - begun)
        self.skipped.note(self.state.step + 1, batch.get("skipped", ()))
        return batch

    def _take(self) -> "Batch | None":
        try:
            return next(self.batches, None)
        except MimzooError as error:
            # A process of the loader hands its errors on with their traceback, whose last line is the sentence.
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


@contextmanager
def feeding(batches: Iterable["Batch"], job: "Job", state: "State") -> Iterator[Feed]:
    """Yield the batches of a run, watched as they come.

    Whatever ends the run from outside is one sentence: DataError for crops that cannot be read, a loader's process that
    died, a file that cannot be written; WeightsError for a state that cannot be saved.
    """
    try:
        yield Feed(batches, job, state)
    except WeightsError as error:
        raise WeightsError(f"{error}; {KEPT}") from None
    except OSError as error:
        raise DataError(f"cannot write {error.filename or 'a file'}: {error.strerror or error}; {KEPT}") from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = " ".join(str(error).split())
        raise DataError(
            f"a process that loads crops died ({reason}); fewer --workers take less memory; {KEPT}"
        ) from error


def bad_batch(job: "Job", state: "State", batch: "Batch", what: str, value: float, learning_rate: float) -> DataError:
    """Return the error of a loss (or gradient) that is no number, once its crops are kept for looking at.

    `bad-batch.json` in the run's folder says where they lie, `bad-batch.safetensors` has their voxels and labels.
    """
    about = {
        "step": state.step + 1,
        what: str(value),
        "learning_rate": learning_rate,
        "seed": job.schedule.seed,
        "cases": list(batch["case"]),
        "starts": batch["start"].tolist() if "start" in batch else [],
        "crop": list(batch["volume"].shape[2:]),
    }
    path = job.folder / f"bad-batch{f'-{rank()}' if rank() else ''}.json"
    try:
        keep_batch(path, batch, about)
        kept = f"its crops are kept in {path}"
    except OSError as error:
        kept = f"its crops could not be kept in {path} ({error.strerror or error})"
    names = ", ".join(batch["case"])
    return DataError(
        f"the {what} is {value} at step {state.step + 1} on {names}; {kept}, the state before in checkpoints"
    )


def keep_batch(path: Path, batch: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write what is known of a batch to `path`, its tensors, whatever they hold, to a safetensors file beside it."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in batch.items() if isinstance(value, Tensor)}
    with replacing(path.with_suffix(".safetensors")) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
