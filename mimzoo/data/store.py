"""The prepared store: scans as a network sees them, compressed in chunks, so that a crop reads little of a scan.

One folder for each data set, input block and label table. In it a case has its arrays, and a small JSON record that is
renamed into place last: a case without a record is not there, whatever else a killed process left behind.

Voxels are kept as float16, which halves the space and the reading. Rounding is at most 2**-11 (0.05 %) of a value: 0.1
HU at the top of a window 400 HU wide, 0.002 deviations at a z-score of 4 to 8, well below the noise of CT and MR.
Nothing overflows: windows and percentiles end at 1, and no z-score among n voxels exceeds sqrt(n), which is below the
largest float16 (65504) up to 4e9 voxels.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mimzoo.data import arrays
from mimzoo.data.datasets import SPLITS, Case, Dataset
from mimzoo.data.reading import pick_channels, read_case, read_truth, scan_files
from mimzoo.data.records import Record, Source, file_stem, is_whole, read_record, record_path, referenced, source_of
from mimzoo.errors import DataError, MimzooError, ShapeError, suggest
from mimzoo.files import replacing
from mimzoo.grids import Floats
from mimzoo.nifti import as_small
from mimzoo.recipes import Input
from mimzoo.volume import Grid, Volume, prepare_labels, prepare_slabs

# Part of the key: raise it when prepared voxels or the files below change, so that older stores are not read.
FORMAT = 3
# Voxels of each class whose coordinates are kept to centre crops on: enough to vary, little to read.
SAMPLE = 1000
# How many cases an error names.
LISTED = 10

Progress = Callable[[int, int, str], None]
Halves = NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A prepared scan on disk: its grid (RAS+, at the input's spacing), and the least value of each channel."""

    id: str
    grid: Grid
    minimum: tuple[float, ...]
    image: Path
    labels: Path | None
    sample: Path | None

    @property
    def foreground(self) -> dict[int, NDArray[np.uint16]]:
        """Return up to 1000 voxel coordinates (n, 3) of each class in the labels; none without labels."""
        if self.sample is None:
            return {}
        rows = arrays.load_table(self.sample)
        return {int(value): rows[rows[:, 0] == value, 1:] for value in np.unique(rows[:, 0])}

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        """Return the whole case as `read_crop` does."""
        return self.read_crop((0, 0, 0), self.grid.shape)

    def read_crop(
        self, start: Sequence[int], size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        """Return voxels (C, *size) and labels (*size) or None, decompressing only the blocks that the crop touches.

        Raises ShapeError for a crop that leaves the case, DataError when the prepared files are damaged or gone.
        """
        if any(a < 0 or n < 1 or a + n > have for a, n, have in zip(start, size, self.grid.shape, strict=True)):
            raise ShapeError(f"{self.id}: crop {tuple(size)} from {tuple(start)} leaves the shape {self.grid.shape}")
        window = tuple(slice(int(a), int(a) + int(n)) for a, n in zip(start, size, strict=True))
        shape = self.grid.shape
        labels = None if self.labels is None else arrays.read_part(self.labels, shape, window).copy()
        voxels = arrays.read_part(self.image, (len(self.minimum), *shape), (slice(None), *window))
        # torch converts four times as fast as numpy
        return torch.from_numpy(voxels).float().numpy(), labels


@dataclass(frozen=True)
class Store:
    """The prepared cases of a data set by split, and the folder they lie in."""

    folder: Path
    splits: Mapping[str, tuple[StoredCase, ...]]

    def cases(self, split: str) -> tuple[StoredCase, ...]:
        """Return the cases of a split, in the data set's order; DataError for a split that was not prepared."""
        if split not in self.splits:
            raise DataError(f"{self.folder}: the split {split!r} was not prepared; {suggest(split, self.splits)}")
        return self.splits[split]


@dataclass(frozen=True)
class _Plan:
    folder: Path
    dataset: Dataset
    input: Input
    labels: Mapping[int, str] | None


def prepare_dataset(
    dataset: Dataset,
    input: Input,
    labels: Mapping[int, str] | None,
    root: Path,
    progress: Progress | None = None,
    splits: Sequence[str] = SPLITS,
    workers: int = 2,
) -> Store:
    """Return the store of a data set below `root`; what is prepared already and unchanged is not done again.

    `labels` maps each allowed label value to its name; None leaves label maps unread (pretraining). `progress` is
    called with (done, total, case id) after each case. Several processes may prepare one data set at once.
    Raises DataError that lists the cases that cannot be used with their reasons, once the others are prepared, or says
    why the store cannot be written or which channel the data set lacks.
    """
    plan = _Plan(store_folder(root, dataset, input, labels), dataset, input, labels)
    pick_channels(dataset, input)
    chosen = {split: tuple(getattr(dataset, split)) for split in splits}
    cases = [case for split in splits for case in chosen[split]]
    try:
        with arrays.sharing(plan.folder, referenced):
            records, failures = _prepare_cases(cases, plan, progress, workers)
    except OSError as error:
        raise DataError(
            f"{plan.folder}: the prepared scans cannot be written ({error.strerror or error}); "
            f"free some space or choose another folder, then run the same command again to go on"
        ) from error
    if failures:
        raise DataError(f"{dataset.folder}: {len(failures)} of {len(cases)} cases cannot be used:{_listed(failures)}")
    return Store(plan.folder, {s: tuple(_stored(plan.folder, records[c.id]) for c in chosen[s]) for s in splits})


def _listed(failures: Mapping[str, str]) -> str:
    """Return the first cases with their reasons, a line each, and how many more there are."""
    lines = [f"\n  {case}: {reason}" for case, reason in sorted(failures.items())]
    more = len(lines) - LISTED
    return "".join(lines[:LISTED]) + (f"\n  and {more} more" if more > 0 else "")


def store_folder(root: Path, dataset: Dataset, input: Input, labels: Mapping[int, str] | None) -> Path:
    """Return the folder of the prepared cases: the data set's name and a hash of all that decides their voxels.

    The data set's own folder counts too, for plain folders are often called alike and number their cases alike.
    """
    table = None if labels is None else {str(value): labels[value] for value in sorted(labels)}
    values = {str(value): dataset.values[value] for value in sorted(dataset.values)}
    parts = [FORMAT, input.key(), table, str(dataset.folder.resolve()), dataset.channels, values]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_]+", "-", dataset.name).strip("-")[:60] or "data"
    return Path(root).expanduser() / f"{name}-{key[:12]}"


def _prepare_cases(
    cases: Sequence[Case], plan: _Plan, progress: Progress | None, workers: int
) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the records and the reasons of failure, both by case id."""
    records: dict[str, Record] = {}
    failures: dict[str, str] = {}
    # Threads suffice, for inflating, interpolating and compressing all release the interpreter's lock.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        # Each process begins elsewhere, so that several (one for each device, say) share the work.
        begin = SystemRandom().randrange(len(cases) or 1)
        futures = {pool.submit(_prepare_case, case, plan): case.id for case in [*cases[begin:], *cases[:begin]]}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                _collect(futures[future], future, records, failures)
                if progress is not None:
                    progress(done, len(cases), futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return records, failures


def _collect(name: str, future: "Future[Record]", records: dict[str, Record], failures: dict[str, str]) -> None:
    try:
        records[name] = future.result()
    except MimzooError as error:
        failures[name] = str(error)
    except MemoryError:
        failures[name] = "there is not enough memory to prepare this scan; prepare it where there is more"


def _prepare_case(case: Case, plan: _Plan) -> Record:
    images = scan_files(case, plan.dataset, plan.input)
    wanted = images if plan.labels is None or case.label is None else (*images, case.label)
    sources = tuple(source_of(path) for path in wanted)
    record = read_record(plan.folder, case.id)
    if record is not None and record.sources == sources and is_whole(plan.folder, record):
        return record
    return _commit(case, plan, sources)


def _commit(case: Case, plan: _Plan, sources: tuple[Source, ...]) -> Record:
    """Return the record of a case after writing its arrays: either all of its files appear, or none."""
    image, minimum, place, grid = _pack(case, plan)
    contents = {"image": arrays.seal(image)}
    if plan.labels is not None and case.label is not None:
        truth = read_truth(case, place, plan.labels, plan.dataset.values)
        labels = prepare_labels(truth, plan.input.spacing_mm).voxels
        contents |= {"labels": arrays.compress(labels), "foreground": arrays.table(_sample(labels, case.id))}
    # Names tell the state of the sources, so that preparing a changed scan never touches files of the former record.
    stamp = hashlib.sha256(repr(sources).encode()).hexdigest()[:8]
    names = {role: f"{file_stem(case.id)}-{stamp}.{role}{arrays.SUFFIX[role]}" for role in contents}
    record = Record(
        id=case.id,
        sources=sources,
        shape=grid.shape,
        space=grid.space,
        affine=tuple(tuple(row) for row in grid.affine.tolist()),  # type: ignore[arg-type]
        minimum=minimum,
        files={role: (names[role], len(content)) for role, content in contents.items()},
    )
    with ExitStack() as stack:
        # What is entered first is renamed last: the record commits the case.
        target = stack.enter_context(replacing(record_path(plan.folder, case.id)))
        for role, content in contents.items():
            stack.enter_context(replacing(plan.folder / names[role])).write_bytes(content)
        target.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return record


def _pack(case: Case, plan: _Plan) -> tuple[Any, tuple[float, ...], Volume, Grid]:
    """Return the packed image, the least value of each channel, the scan without its voxels, and the prepared grid.

    The scan is dropped before its labels are read, and only slabs of it are held in any other form.
    """
    scan = read_case(case, plan.dataset, plan.input, as_small)
    grid, slabs = prepare_slabs(scan, plan.input)
    minimum = np.full(len(scan.voxels), np.inf, np.float16)
    packed = arrays.pack((len(scan.voxels), *grid.shape), np.float16, _halves(slabs, minimum))
    return packed, tuple(minimum.astype(float).tolist()), replace(scan, voxels=np.empty((0, 0, 0, 0), np.float32)), grid


def _halves(slabs: Iterable[tuple[slice, Floats]], minimum: Halves) -> Iterator[tuple[slice, Halves]]:
    """Yield the slabs (C, slab, Y, Z) as float16, and keep the least value of each channel in `minimum`."""
    for part, slab in slabs:
        halves = slab.astype(np.float16)
        np.minimum(minimum, halves.min(axis=(1, 2, 3)), out=minimum)
        yield part, halves


def _sample(labels: NDArray[np.uint8], name: str) -> NDArray[np.uint16]:
    """Return rows (class, x, y, z) of up to SAMPLE voxels of each class, the same for the same case id."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    rows = [np.empty((0, 4), np.uint16)]
    for value in filter(None, np.unique(labels)):
        found = np.flatnonzero(labels == value)
        kept = np.sort(rng.choice(found, min(SAMPLE, len(found)), replace=False))
        rows.append(np.stack([np.full(len(kept), value), *np.unravel_index(kept, labels.shape)], 1).astype(np.uint16))
    return np.concatenate(rows)


def _stored(folder: Path, record: Record) -> StoredCase:
    files: dict[str, Any] = {role: folder / name for role, (name, _) in record.files.items()}
    grid = Grid(record.shape, np.array(record.affine), record.space)
    return StoredCase(record.id, grid, record.minimum, files["image"], files.get("labels"), files.get("foreground"))
