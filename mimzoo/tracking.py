"""Whom a run tells its figures besides its own folder: trackers by name, through accelerate."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from matplotlib.image import imread

from mimzoo.errors import MimzooError, UnknownNameError, suggest
from mimzoo.files import replacing
from mimzoo.progress import History

NONE = "none"
DEFAULT = "tensorboard"
PROJECT = "mimzoo"
FILE = "trackers.json"
# What a tracker's class is begun with: of the run's folder, the last step that was told, and its name of that run.
BEGINNINGS: dict[str, Callable[[Path, int, str | None], dict[str, Any]]] = {
    # Of a run that goes on from an earlier state, what came after that state is told anew.
    "tensorboard": lambda folder, step, run: {
        "run_name": "tensorboard",
        "logging_dir": folder,
        "purge_step": step + 1,
    },
    "trackio": lambda folder, step, run: {
        "run_name": PROJECT,
        "name": folder.name,
        "resume": "allow" if step else "never",
    },
    "wandb": lambda folder, step, run: {
        "run_name": PROJECT,
        "name": folder.name,
        "dir": folder,
        "id": run,
        "resume": "allow",
    },
    "mlflow": lambda folder, step, run: {"experiment_name": PROJECT, "run_name": folder.name, "run_id": run},
}
# How trackers that give runs names of their own call the one that is told.
CALLED: dict[str, Callable[[Any], str]] = {
    "wandb": lambda run: str(run.id),
    "mlflow": lambda run: str(run.info.run_id),
}
# What every tracker takes in the name of a figure; names of classes may hold anything.
UNSUITED = re.compile(r"[^\w ./-]")


def chosen_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the trackers that are meant by names: by none, TensorBoard where it is installed; by "none", nobody.

    Raises UnknownNameError for a name that nobody has, or whose tracker is not installed.
    """
    installed = {str(name) for name in get_available_trackers()}
    if not names:
        return (DEFAULT,) if DEFAULT in installed else ()
    if set(names) == {NONE}:
        return ()
    for name in names:
        if name not in BEGINNINGS:
            advice = "leave it out beside others" if name == NONE else suggest(name, [*BEGINNINGS, NONE])
            raise UnknownNameError(f"no tracker is called {name!r}; {advice}")
        if name not in installed:
            raise UnknownNameError(f"the tracker {name} is not installed; pip install {name}, or choose --tracker none")
    return tuple(dict.fromkeys(names))


class Records:
    """The figures of a run: in its history, and told to its trackers."""

    def __init__(self, history: History, trackers: Sequence[GeneralTracker], step: int, batch: int) -> None:
        self.history, self.trackers, self.batch = history, trackers, batch
        self.step, self.clock = step, time.monotonic()

    def add(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Record figures of a step; trackers are told the crops per second since the last record as well."""
        self.history.add(step, split, figures)
        if split == "training":
            crops = (step - self.step) * self.batch
            # How fast it went is no result, and would differ where two runs are the same.
            figures = {**figures, "crops_per_second": crops / max(1e-9, time.monotonic() - self.clock)}
        told = {f"{split}/{UNSUITED.sub('_', name)}": float(value) for name, value in figures.items()}
        for tracker in self.trackers:
            tracker.log(told, step=step)
        self.step, self.clock = step, time.monotonic()

    def show(self, step: int, name: str, pictures: Sequence[Path]) -> None:
        """Show PNG files of one size beside each other to the trackers that take pictures."""
        taking = [tracker for tracker in self.trackers if hasattr(tracker, "log_images")]
        if not taking:
            return
        # several (H, W, RGB) side by side -> (1, H, W, RGB)
        pixels = np.hstack([imread(path)[..., :3] for path in pictures])[None]
        for tracker in taking:
            form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: (pixels * 255).round().astype(np.uint8)}, step=step, **form)


@contextmanager
def tracking(
    history: History, names: Sequence[str], folder: Path, step: int, batch: int, settings: Mapping[str, Any]
) -> Iterator[Records]:
    """Yield what records the figures of a run from `step` on, `batch` crops each, in its history and with trackers.

    A run that begins tells its `settings` once. Raises MimzooError for a tracker that does not start.
    """
    with ExitStack() as begun:
        trackers = []
        for name in names:
            trackers.append(_begin(name, folder, step, settings))
            begun.callback(trackers[-1].finish)
        yield Records(history, trackers, step, batch)


def _begin(name: str, folder: Path, step: int, settings: Mapping[str, Any]) -> GeneralTracker:
    path = folder / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        tracker = LOGGER_TYPE_TO_CLASS[name](**BEGINNINGS[name](folder, step, known.get(name) if step else None))
        tracker.start()
        # TensorBoard keeps what it was told; for others settings replace those that were told before.
        if step == 0 or name != "tensorboard":
            tracker.store_init_configuration(dict(settings))
    # Each tracker has errors of its own: no account, no server, no disk.
    except Exception as error:
        raise MimzooError(
            f"the tracker {name} does not start ({error}); set it up, or choose --tracker none"
        ) from error
    if name in CALLED:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({**known, name: CALLED[name](tracker.tracker)}) + "\n", encoding="utf-8")
    return tracker
