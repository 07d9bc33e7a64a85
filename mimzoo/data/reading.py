"""A case's scan and labels as a model's input wants them: its channels by name, its labels by value."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mimzoo.data.cases import Case, Dataset
from mimzoo.errors import DataError, suggest
from mimzoo.nifti import Held, as_float32
from mimzoo.recipes import Input
from mimzoo.volume import LabelMap, Volume, check_pair, read_labels, read_scan


def pick_channels(dataset: Dataset, input: Input) -> tuple[int, ...]:
    """Return which of the data set's channels a model sees, in its order: those of the names in its input.

    Where the folder names no channels they are taken as they come; a single channel is taken whatever it is called.
    Raises DataError for a channel that the data set lacks.
    """
    wanted, known = input.channels, dataset.channels
    if not known or len(wanted) == len(known) == 1:
        return tuple(range(len(wanted)))
    places = {name: place for place, name in enumerate(known)}
    for name in wanted:
        if name not in places:
            raise DataError(
                f"{dataset.folder}: the model sees the channel {name!r}, but the data set has {', '.join(known)}; "
                f"where only the names differ, set input.channels to those; {suggest(name, known)}"
            )
    return tuple(places[name] for name in wanted)


def scan_files(case: Case, dataset: Dataset, input: Input) -> tuple[Path, ...]:
    """Return the files that hold the channels of `input`: one file, or one for each channel in its order.

    Raises DataError as `pick_channels` does, and for a case that has not one file for each channel of its data set.
    """
    picked = pick_channels(dataset, input)
    if len(case.images) == 1:
        return case.images
    known = dataset.channels or input.channels
    if len(case.images) != len(known):
        raise DataError(
            f"case {case.id!r} has {len(case.images)} files where the channels are {', '.join(known)}; list one file "
            f"for each, and name them all under channel_names in dataset.json"
        )
    return tuple(case.images[place] for place in picked)


def read_case(case: Case, dataset: Dataset, input: Input, held: Held = as_float32) -> Volume:
    """Return a case's scan (C, X, Y, Z) with the channels of `input`, in their order, on the grid of the first.

    A single file's voxels are held as `held` says.
    Raises DataError for channels that are not there, ScanError as `read_scan` does.
    """
    picked, files = pick_channels(dataset, input), scan_files(case, dataset, input)
    if len(case.images) > 1:
        return read_scan(files, len(files))
    stored = len(dataset.channels) or len(picked)
    scan = read_scan(files, stored, held)
    if picked == tuple(range(stored)):
        return scan
    return replace(scan, voxels=scan.voxels[list(picked)])


def read_truth(case: Case, scan: Volume, labels: Mapping[int, str], values: Mapping[int, int]) -> LabelMap:
    """Return a case's label map, which lies on its scan; `values` are those of the data set.

    Raises DataError for a case without a label file, ScanError as `read_labels` and `check_pair` do.
    """
    if case.label is None:
        raise DataError(f"case {case.id!r} has no label file; list it under unlabelled, or give it one")
    truth = read_labels(case.label, labels, values)
    check_pair(scan, truth)
    return truth
