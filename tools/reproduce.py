"""Train a recorded run of the study anew, on the same cases, and say how far it is from the first.

    python tools/reproduce.py RUN --data DIR    RUN as in docs/study/records, DIR the folder of the data sets

What it begins from is trained anew as well. A fine-tuning is held to its Dice on the cases that it has not seen, a
pretraining to its loss on those that select. Exits with 1 where Dice differs by more than 0.01 and by more than two
standard deviations over the seeds of a grid, or a loss by more than a twentieth.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from study import alone, grid_paths, record_path, set_apart, train, write_record
from study_grid import FOLDER, Grid, Training, cells, read_grid, trainings
from study_page import Record, read_record

from mimzoo.errors import MimzooError, UnknownNameError, suggest

DICE_AT_MOST, LOSS_SHARE_AT_MOST = 0.01, 0.05


def find_training(name: str, grids: Sequence[Grid]) -> Training:
    """Return the training of a run; UnknownNameError with the nearest name when no grid asks for it."""
    known = {one.name: one for grid in grids for one in trainings(grid)}
    if name not in known:
        raise UnknownNameError(f"the study has no run {name!r}; {suggest(name, known)}")
    return known[name]


def run_again(training: Training, data: Path, work: Path) -> Record:
    """Return the record of a training that is run in `work`, or goes on there, with what it begins from."""
    set_apart(data / training.data, training.selection, work / training.folder)
    chain = [training]
    while isinstance(chain[0].start, Training):
        chain.insert(0, chain[0].start)
    with alone(work) as lock:
        for one in chain:
            train(one, work, lock)
        path = record_path(training, work / "records")
        if not path.is_file():
            write_record(training, data, work, path.parent)
    return read_record(path)


def figure_of(record: Record) -> float:
    """Return the Dice of a fine-tuning, or the least loss of a pretraining."""
    return record.mean("dice") if "cases" in record.told else record.best_loss


def allowed(training: Training, first: Record, grids: Sequence[Grid], records: Path) -> float:
    """Return by how much a figure may differ."""
    if training.verb == "pretrain":
        return LOSS_SHARE_AT_MOST * figure_of(first)
    seeds = {name: path for grid in grids for name, path in of_all_seeds(training, grid, records).items()}
    found = [figure_of(read_record(path)) for path in seeds.values()]
    # Three seeds may lie closer together than two machines do.
    return max(DICE_AT_MOST, 2 * statistics.stdev(found) if len(found) > 1 else 0)


def of_all_seeds(training: Training, grid: Grid, records: Path) -> dict[str, Path]:
    """Return the records by run of those that differ from a fine-tuning in the seed alone, itself included."""
    places = {(cell.row, cell.column) for cell in cells(grid) if cell.training.name == training.name}
    found = [cell.training for cell in cells(grid) if (cell.row, cell.column) in places]
    return {one.name: path for one in found if (path := record_path(one, records)).is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("runs/again"), help="where run directories go")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="grids and records")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        grids = [read_grid(path) for path in grid_paths([], asked.folder)]
        training = find_training(asked.run, grids)
        first = read_record(record_path(training, asked.folder / "records"))
        limit = allowed(training, first, grids, asked.folder / "records")
        again = run_again(training, asked.data.resolve(), asked.work.resolve())
    except MimzooError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from here") from None
    name = "Dice" if training.verb == "finetune" else "loss"
    before, after = figure_of(first), figure_of(again)
    print(f"{asked.run}: {name} {after:.4f}, recorded {before:.4f}; {limit:.4f} apart is allowed")
    raise SystemExit(0 if abs(after - before) <= limit else 1)


if __name__ == "__main__":
    main()
