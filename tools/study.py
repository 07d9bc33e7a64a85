"""Run what the grids of docs/study ask for, and write docs/study.md from the records of all runs.

    python tools/study.py --data DIR [NAME ...]   runs what is missing of the grids (all, if none is named), then writes
    python tools/study.py                         writes the page from the records
    python tools/study.py --list [NAME ...]       says which runs are there and which are missing
    python tools/study.py --check                 fails when the page differs from what the records give

DIR holds the data sets by name. Each training is a command of its own, `mimzoo pretrain` or `mimzoo finetune`, in a run
directory below --work, and goes on where it was stopped. Some training cases are set apart to select weights on; the
data set's own validation cases are scored once, when a fine-tuning has ended. What is told of a run is a small file
in docs/study/records, and a run whose record is there is not run again.
"""

import argparse
import csv
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from study_grid import FOLDER, Grid, Training, read_grid, trainings
from study_page import differences, write_page

from mimzoo.cards import read_card
from mimzoo.data.datasets import read_dataset
from mimzoo.data.splits import few_labels
from mimzoo.errors import DataError, MimzooError
from mimzoo.evaluate import evaluate
from mimzoo.files import replacing
from mimzoo.models import load
from mimzoo.pretrain import prepare_scans, validation_crops
from mimzoo.sessions import read_sessions

# Decides which training cases are set apart, and nothing else.
SELECTION_SEED = 20_220_411
USAGE = "usage.json"
CHECKPOINTS = "checkpoints"
# Written last of a run.
WEIGHTS = "model.safetensors"
DIGITS = 6


def grid_paths(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the files of the named grids, or of all, in the order of their names."""
    known = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"there is no grid {unknown[0]!r} in {folder}; there are {', '.join(known)}")
    return [known[name] for name in names or known]


# --- data -------------------------------------------------------------------------------------------------------------


def set_apart(source: Path, selection: int, folder: Path) -> None:
    """Make a data set in `folder` of the training and the unlabelled scans of another one, files linked.

    `selection` of the training cases are its validation cases; those of the source are not in it.
    """
    dataset, content = read_dataset(source), json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    chosen = {case.id for case in few_labels(dataset, selection, SELECTION_SEED).training}
    entries = list(zip(content["training"], dataset.training, strict=True))
    content["training"] = [entry for entry, case in entries if case.id not in chosen]
    content["validation"] = [entry for entry, case in entries if case.id in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != "dataset.json" and not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path.resolve())
    with replacing(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# --- running ----------------------------------------------------------------------------------------------------------


@contextmanager
def alone(work: Path) -> Any:
    """Hold the lock on a working folder, which the trainings of a study that was killed hold on to as well."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another study works in {work}; wait for it, or choose another folder by --work") from None
        yield file


def run_missing(grids: Sequence[Grid], data: Path, work: Path, jobs: int, records: Path) -> list[str]:
    """Return what went wrong, after every training of the grids that has no record was run, `jobs` at a time."""
    missing = {one.name: one for grid in grids for one in wanting(grid, work, records)}
    for each in {each.folder: each for each in missing.values()}.values():
        set_apart(data / each.data, each.selection, work / each.folder)
    running: dict[str, Future[str | None]] = {}
    # One at a time is scored: threads of one process share what scoring shows and holds.
    scoring = Lock()
    with alone(work) as lock, ThreadPoolExecutor(jobs) as pool:

        def work_on(place: int, training: Training) -> str | None:
            before = running.get(training.start.name) if isinstance(training.start, Training) else None
            if before is not None and before.result():
                return f"{training.name}: not run, for what it begins from failed"
            print(f"{time.strftime('%H:%M:%S')} {place} of {len(missing)}: {training.name}", flush=True)
            try:
                train(training, work, lock)
                with scoring:
                    if not record_path(training, records).is_file():
                        write_record(training, data, work, records)
            except MimzooError as error:
                return f"{training.name}: {error}"
            return None

        for place, training in enumerate(missing.values(), 1):
            running[training.name] = pool.submit(work_on, place, training)
        try:
            return [told for each in running.values() if (told := each.result())]
        except KeyboardInterrupt:
            # Trainings in progress were interrupted as well, and have saved their states; the others do not begin.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def wanting(grid: Grid, work: Path, records: Path) -> list[Training]:
    """Return the trainings of a grid without a record, and those before them whose weights are gone."""
    chosen: list[Training] = []
    for one in reversed(trainings(grid)):
        begins = any(later.start == one for later in chosen)
        weights = work / "runs" / one.name / WEIGHTS
        if not record_path(one, records).is_file() or (begins and not weights.is_file()):
            chosen.append(one)
    return chosen[::-1]


def record_path(training: Training, records: Path) -> Path:
    """Return where the record of a training lies."""
    return records / f"{training.name}.json"


def train(training: Training, work: Path, lock: Any) -> None:
    """Run a training to its end, from where it was stopped; DataError with its last words when it fails."""
    folder = work / "runs" / training.name
    if (folder / WEIGHTS).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / "README.md").is_file()
    words = [*training.command()[1:], *(["--resume"] if begun else [])]
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "mimzoo", *words],
            cwd=work, stdout=log, stderr=log, pass_fds=[lock.fileno()],
        )  # fmt: skip
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    add_usage(folder, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
    if child.returncode:
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise DataError(f"failed: {''.join(last) or child.returncode}; see {folder / 'log.txt'}")


def add_usage(folder: Path, cpu_seconds: float, peak_bytes: int) -> None:
    """Note what one process of a run took; a killed study leaves fewer such notes than the run has sessions."""
    path = folder / USAGE
    known = json.loads(path.read_text()) if path.is_file() else []
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([*known, {"cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes}]))


# --- records ----------------------------------------------------------------------------------------------------------


def write_record(training: Training, data: Path, work: Path, records: Path) -> None:
    """Score a fine-tuning on the cases that it has not seen, and write what is told of a run into its record."""
    folder = work / "runs" / training.name
    told = {**describe(training), **measured(folder)}
    if training.verb == "pretrain":
        told["between_scans"] = round(between_scans(folder, work / training.folder), 4)
    else:
        split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
        found, _ = evaluate(folder, data / training.data, out=folder / "final")
        told["split"] = {part: split[part] for part in ("training", "validation")}
        told["protocol"] = found.protocol
        told["cases"] = {name: scores_of(case) for name, case in found.cases.items()}
    records.mkdir(parents=True, exist_ok=True)
    with replacing(record_path(training, records)) as temporary:
        temporary.write_text(render(told), encoding="utf-8")
    # A recorded run is never resumed, and its states are many times as large as its weights.
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def between_scans(folder: Path, data: Path) -> float:
    """Return which share of the variance of an encoder's coarsest map lies between the crops that select the weights.

    It is 1 where all cells of a crop are alike, so that they tell nothing of where in it something is.
    """
    card = read_card(folder)
    crops = validation_crops(prepare_scans(card, data, None), card)
    encoder = load(folder)
    with torch.inference_mode():
        # (C, X, Y, Z) of each crop -> (crops, C, cells)
        maps = torch.stack([encoder(crops[number]["volume"][None])[-1][0].flatten(1) for number in range(len(crops))])
    return float(maps.mean(2).var(0, correction=0).sum() / maps.var((0, 2), correction=0).sum())


def describe(training: Training) -> dict[str, Any]:
    """Return what was run: the command, the whole recipe, where it began and on which data."""
    start = training.start.name if isinstance(training.start, Training) else training.start
    return {
        "command": training.command(),
        "recipe": training.recipe(),
        "start": start,
        "data": training.data,
        "selection": training.selection,
    }


def measured(folder: Path) -> dict[str, Any]:
    """Return the curves of a run, what it took, and on what it ran."""
    with (folder / "history.csv").open(newline="") as file:
        rows = [(int(row["step"]), row["split"], row["name"], float(row["value"])) for row in csv.DictReader(file)]
    curves: dict[str, list[list[float]]] = {}
    for step, split, name, value in rows:
        if split == "validation" or (name == "loss" and step % 50 == 0):
            curves.setdefault(f"{split} {name}", []).append([step, round(value, DIGITS)])
    sessions, usage = read_sessions(folder), json.loads((folder / USAGE).read_text())
    # Of a process whose study was killed nobody knows what it took.
    whole = len(sessions) == len(usage)
    return {
        "curves": curves,
        "steps": max(row[0] for row in rows),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in usage), 1) if whole else None,
        "wall_seconds": round(sum(session.seconds for session in sessions), 1),
        "peak_bytes": max(each["peak_bytes"] for each in usage),
        "machine": sessions[-1].machine.model_dump(mode="json"),
        "versions": sessions[-1].versions,
    }


def scores_of(case: Any) -> dict[str, Any]:
    """Return the scores of a case by class, those that were computed; None for a class that is not there."""
    return {
        name: None if scores is None else {key: round(v, DIGITS) for key, v in asdict(scores).items() if v is not None}
        for name, scores in case.items()
    }


def render(told: dict[str, Any]) -> str:
    """Return a record as JSON with one line for each of its keys, and for each case."""
    lines = []
    for key, value in told.items():
        if key in ("cases", "curves"):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


# --- command line -----------------------------------------------------------------------------------------------------


def list_runs(grids: dict[str, Grid], records: Path) -> None:
    for name, grid in grids.items():
        wanted = trainings(grid)
        there = [one for one in wanted if record_path(one, records).is_file()]
        print(f"{name}: {len(there)} of {len(wanted)} runs are there")
        for one in wanted:
            if one not in there:
                print(f"  {one.name}: {shlex.join(one.command())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a grid of docs/study")
    parser.add_argument("--data", type=Path, help="the folder of the data sets; without it nothing is run")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where run directories go")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--list", action="store_true", help="say which runs are there")
    parser.add_argument("--check", action="store_true", help="fail when the page differs from the records")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="grids and records; the page lies beside it")
    asked = parser.parse_args()
    # One thread for each training: two at once on two cores get further than one on both.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        grids = {path.stem: read_grid(path) for path in grid_paths(asked.names, asked.folder)}
        records, failures = asked.folder / "records", []
        if asked.list:
            return list_runs(grids, records)
        if asked.check:
            failures = differences(asked.folder)
        else:
            if asked.data is not None:
                work = asked.work.resolve()
                failures = run_missing(list(grids.values()), asked.data.resolve(), work, asked.jobs, records)
            write_page(asked.folder)
    except MimzooError as error:
        failures = [str(error)]
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from here") from None
    for failure in failures:
        print(failure, file=sys.stderr)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
