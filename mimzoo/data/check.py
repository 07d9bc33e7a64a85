"""Looking through a data set before it is used: what each case holds, and all that is wrong, at once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from mimzoo.data.cases import LABELLED, SPLITS, Case, Dataset
from mimzoo.data.datasets import list_dataset
from mimzoo.errors import ScanError
from mimzoo.grids import Grid, to_ras
from mimzoo.nifti import DAMAGE
from mimzoo.volume import LabelMap, Volume, check_pair, read_labels, read_scan

Progress = Callable[[int, int, str], None]

# A case is far from the others when its spacing or its shape along an axis is so many times the median, or its
# so-manieth part; fewer cases than this have no median worth the name.
FAR_SPACING = 2.0
FAR_SHAPE = 3.0
FEWEST = 3
AXES = ("left-right", "back-front", "feet-head")
CODES = ("LR", "PA", "IS")


@dataclass(frozen=True)
class Intensity:
    """The values of a channel: least, 1st percentile, median, 99th percentile, largest."""

    minimum: float
    low: float
    median: float
    high: float
    maximum: float


@dataclass(frozen=True)
class CaseReport:
    """What a case holds. Without a readable scan there is no grid (`shape` is None) and there are no intensities.

    `shape` and `spacing_mm` follow the file's axes, whose directions `orientation` names (such as "RAS"). `label_ml`
    maps the label values of a readable label map to their volumes, `label_voxels` to their voxels; both are None
    without one. `aligned` tells that it lies on the scan. `content` is a hash of the voxels in RAS+.
    """

    case: Case
    split: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: str = ""
    intensities: tuple[Intensity, ...] = ()
    content: str = ""
    label_voxels: Mapping[int, int] | None = None
    label_ml: Mapping[int, float] | None = None
    aligned: bool = False


@dataclass(frozen=True)
class Report:
    """A data set with what each of its cases holds, and its problems, one sentence each."""

    dataset: Dataset
    cases: tuple[CaseReport, ...] = ()
    problems: tuple[str, ...] = ()


def check_dataset(folder: Path | str, seed: int = 0, progress: Progress | None = None) -> Report:
    """Return what a data set holds and all that is wrong with it, one case in memory at a time.

    Problems are: all that `read_dataset` refuses, such as missing files or a subject in two parts; scans and label
    maps that cannot be read, are constant or hold NaN; channels that do not overlap; labels on another grid, empty,
    or of unknown values; labels that no case shows; a case with fewer or more channels than most; a spacing more than
    2 times off the median, or a shape more than 3 times; equal scans in two cases, which across training and
    validation are a leak.
    Raises DataError where nothing can be listed: no such folder, no scan in it, broken JSON or CSV.
    """
    dataset, listed = list_dataset(folder, seed)
    problems = [text.removeprefix(f"{dataset.folder}: ") for text in listed]
    cases = [(split, case) for split in SPLITS for case in getattr(dataset, split)]
    found: list[CaseReport] = []
    for done, (split, case) in enumerate(cases, 1):
        try:
            found.append(_look_at(dataset, split, case, problems))
        except MemoryError:
            found.append(CaseReport(case, split))
            problems.append(f"case {case.id!r} is larger than the memory that is free; check it where there is more")
        if progress is not None:
            progress(done, len(cases), case.id)
    problems += [*_unseen(dataset, found), *_uneven(found), *_far(found), *_doubled(found)]
    return Report(dataset, tuple(found), tuple(problems))


# --- one case ---------------------------------------------------------------------------------------------------------


def _look_at(dataset: Dataset, split: str, case: Case, problems: list[str]) -> CaseReport:
    scan, labels = _scan(dataset, case, problems), _labels(dataset, case, problems)
    report = CaseReport(case, split)
    if scan is not None:
        report = _with_scan(report, scan)
    if labels is not None:
        report = _with_labels(report, labels)
        problems += _unnamed(dataset, report)
    if scan is not None and labels is not None:
        try:
            check_pair(scan, labels)
            report = replace(report, aligned=True)
        except ScanError as error:
            problems.append(str(error))
    return report


def _scan(dataset: Dataset, case: Case, problems: list[str]) -> Volume | None:
    """Return the scan, or nothing where it cannot be read; a missing file has been told of before."""
    if not all(path.is_file() for path in case.images):
        return None
    try:
        return read_scan(case.images, _channels(dataset, case))
    except ScanError as error:
        problems += _faults(case) or [str(error)]
    return None


def _channels(dataset: Dataset, case: Case) -> int:
    """Return how many channels a case must have; where the folder does not tell, as many as it has."""
    if dataset.channels or len(case.images) > 1:
        return len(dataset.channels or case.images)
    with suppress(ImageFileError, *DAMAGE):
        lengths = [n for n in nib.load(case.image).shape[3:] if n > 1]
        return lengths[0] if len(lengths) == 1 else 1
    return 1


def _faults(case: Case) -> list[str]:
    """Return what is wrong with each file of a case that has several, taken alone."""
    faults: list[str] = []
    for path in case.images if len(case.images) > 1 else ():
        try:
            read_scan(path)
        except ScanError as error:
            faults.append(str(error))
    return faults


def _labels(dataset: Dataset, case: Case, problems: list[str]) -> LabelMap | None:
    if case.label is None or not case.label.is_file():
        return None
    try:
        return read_labels(case.label, values=dataset.values)
    except ScanError as error:
        problems.append(str(error))
    return None


def _with_scan(report: CaseReport, scan: Volume) -> CaseReport:
    percentiles = (np.percentile(channel, (0, 1, 50, 99, 100)).tolist() for channel in scan.voxels)
    return replace(
        report,
        shape=scan.grid.shape,
        spacing_mm=scan.grid.spacing_mm,
        orientation="".join(nib.aff2axcodes(scan.grid.affine)),
        intensities=tuple(Intensity(*values) for values in percentiles),
        content=_content(scan),
    )


def _content(scan: Volume) -> str:
    """Return a hash of the voxels in RAS+: neither the file's format nor the order of its axes counts."""
    voxels = to_ras(scan.voxels, scan.grid)[0]
    return hashlib.sha256(repr(voxels.shape).encode() + voxels.tobytes()).hexdigest()


def _with_labels(report: CaseReport, labels: LabelMap) -> CaseReport:
    counts = np.bincount(labels.voxels.ravel(), minlength=256).tolist()
    voxels = {value: count for value, count in enumerate(counts) if value and count}
    voxel_ml = _voxel_ml(labels.grid)
    return replace(report, label_voxels=voxels, label_ml={value: count * voxel_ml for value, count in voxels.items()})


def _voxel_ml(grid: Grid) -> float:
    return abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000


def _unnamed(dataset: Dataset, report: CaseReport) -> Iterator[str]:
    """Yield what is wrong with the values of a label map."""
    found = report.label_voxels or {}
    unknown = [value for value in found if value not in dataset.labels] if dataset.labels else []
    if unknown:
        yield (
            f"the label map of case {report.case.id!r} holds the value(s) {', '.join(map(str, unknown))}, but only "
            f"{', '.join(map(str, [0, *dataset.labels]))} have names; name them in dataset.json or repair the file"
        )
    if not found:
        yield f"the label map of case {report.case.id!r} is empty: no voxel of it is labelled"


# --- all cases --------------------------------------------------------------------------------------------------------


def _unseen(dataset: Dataset, found: Iterable[CaseReport]) -> Iterator[str]:
    maps = [report.label_voxels for report in found if report.label_voxels is not None]
    for value, name in dataset.labels.items():
        if maps and not any(value in voxels for voxels in maps):
            yield f"label {value} ({name}) is in no case; leave it out of dataset.json or add cases that show it"


def _uneven(found: Sequence[CaseReport]) -> Iterator[str]:
    """Yield which cases have another number of channels than most."""
    counts = Counter(len(report.intensities) for report in found if report.shape is not None)
    most = max(counts, key=lambda count: (counts[count], -count), default=0)
    for report in found:
        if report.shape is not None and len(report.intensities) != most:
            yield f"case {report.case.id!r} has {len(report.intensities)} channel(s), but most cases have {most}"


def _far(found: Iterable[CaseReport]) -> Iterator[str]:
    """Yield which cases have a spacing or shape far from the median, axis by axis of the patient."""
    seen = [report for report in found if report.shape is not None]
    if len(seen) < FEWEST:
        return
    spacings = [_by_patient(report, report.spacing_mm) for report in seen]
    shapes = [_by_patient(report, report.shape or ()) for report in seen]
    for rows, far, unit in ((spacings, FAR_SPACING, "mm between voxels"), (shapes, FAR_SHAPE, "voxels")):
        medians = np.median(rows, axis=0).tolist()
        for report, row in zip(seen, rows, strict=True):
            for axis, value, median in zip(AXES, row, medians, strict=True):
                if max(value / median, median / value) > far:
                    yield (
                        f"case {report.case.id!r} has {value:.3g} {unit} {axis}, more than {far:g} times off the "
                        f"median of all cases, {median:.3g}; is it of the same kind as the others?"
                    )


def _by_patient(report: CaseReport, values: Sequence[float]) -> list[float]:
    """Return values of the file's axes in the order of the patient's: left-right, back-front, feet-head."""
    order = [next(n for n, code in enumerate(report.orientation) if code in codes) for codes in CODES]
    return [float(values[n]) for n in order]


def _doubled(found: Iterable[CaseReport]) -> Iterator[str]:
    """Yield which cases hold the very same voxels."""
    groups: dict[str, list[CaseReport]] = {}
    for report in found:
        if report.content:
            groups.setdefault(report.content, []).append(report)
    for group in groups.values():
        if len(group) > 1:
            names = " and ".join(f"{report.case.id!r} ({report.split})" for report in group)
            leak = {report.split for report in group} >= set(LABELLED)
            why = ", which leaks from training into validation" if leak else ""
            yield f"the cases {names} hold the same scan{why}; keep one of them"
