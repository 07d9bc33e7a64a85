"""Many scans at once: their files, the masks that they get, and a table of what is told of each."""

import csv
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mimzoo.answers import Told
from mimzoo.deploy.choice import Choice
from mimzoo.deploy.engines import first_line
from mimzoo.deploy.models import Predictor, open_model
from mimzoo.deploy.overlapping import FAILURES
from mimzoo.deploy.records import shown
from mimzoo.errors import DataError, ExportError, MimzooError, ScanError
from mimzoo.files import replacing
from mimzoo.masks import region_paths
from mimzoo.nifti import stem_of

CaseProgress = Callable[[int, int, str], object]
# One scan: its file, or a file for each channel.
Files = tuple[Path, ...]
# Only a comma after a NIfTI ending parts two files: folders may have commas in their names.
BETWEEN = re.compile(r"(?<=\.nii),(?=.)|(?<=\.nii\.gz),(?=.)", re.IGNORECASE)


def predict_files(
    model: str | Path, scans: Sequence[str | Path], progress: CaseProgress | None = None, choice: Choice | None = None
) -> tuple[dict[str, Told], list[str]]:
    """Return what is told of each scan, by its name as given, and one sentence for each scan that failed.

    Scans of several files are written as for `segment_files`, and `progress` is called as there.
    Raises DataError for a scan that is given twice, ExportError for a model that draws masks.
    """
    tell = open_model(model, choice)
    if not isinstance(tell, Predictor):
        raise ExportError(f"{tell.path}: this model tells nothing of whole scans but draws masks; use `mimzoo segment`")
    found: dict[str, Told] = {}
    names = {split_files(scan): str(scan) for scan in scans}
    if len(names) < len(scans):
        raise DataError("a scan is given twice, and would have two rows in a table; give each scan once")

    def note(files: Files) -> None:
        with reading(files):
            tell.plan(files)
            scan = tell.read(files)
        found[names[files]] = tell(scan)

    return found, _attempt(note, list(names), progress)


def write_table(path: Path, found: dict[str, Told]) -> None:
    """Write a CSV with a row for each scan: its name, and what is told of it under the names of the outputs.

    Raises DataError when it cannot be written; then no file is left behind.
    """
    names = list(next(iter(found.values()), {}))
    make_folder(path.parent)
    try:
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["scan", *names])
            table.writerows([scan, *(f"{told[name]:.6g}" for name in names)] for scan, told in found.items())
    except OSError as error:
        raise DataError(f"{path}: the table cannot be written ({error.strerror})") from error


def split_files(scan: str | Path) -> Files:
    """Return the files of a scan: in a text those that commas part, `first.nii.gz,second.nii.gz`; a Path is one."""
    return (scan,) if isinstance(scan, Path) else tuple(map(Path, BETWEEN.split(scan)))


def _attempt(act: Callable[[Files], None], scans: Sequence[Files], progress: CaseProgress | None) -> list[str]:
    """Return one sentence for each scan on which `act` failed."""
    failures: list[str] = []
    for number, files in enumerate(scans, 1):
        try:
            act(files)
        except FAILURES as error:
            failures.append(sentence_of(error, files))
        if progress is not None:
            progress(number, len(scans), shown(files[0].name))
    return failures


@contextmanager
def reading(files: Files) -> Iterator[None]:
    """Read a scan in this block; whatever its files' content makes the readers raise becomes a ScanError.

    ScanError as well for a file whose path cannot be printed or stored: some of its bytes are no UTF-8.
    """
    odd = next((path for path in map(str, files) if shown(path) != path), None)
    if odd is not None:
        raise ScanError(f"{shown(odd)}: the path is no UTF-8 text, so no record can name it; rename it")
    try:
        yield
    except (ValueError, ArithmeticError, LookupError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ScanError(f"{files[0]}: the scan cannot be read ({reason}); it may be damaged") from error


def sentence_of(error: Exception, files: Files) -> str:
    """Return one sentence for an error that a scan failed on."""
    return str(error) if isinstance(error, MimzooError) else f"{files[0]}: {first_line(error) or 'out of memory'}"


def targets_of(scans: Sequence[Files], folder: Path, regions: Collection[str]) -> dict[Files, Path]:
    """Return the path of each scan's mask, or that after which the masks of its regions are called."""
    targets: dict[Files, Path] = {}
    owners: dict[Path, Path] = {}
    # links may go in circles, which Path.resolve() refuses
    inputs = {os.path.realpath(path) for files in scans for path in files}
    for files in scans:
        target = targets[files] = folder / f"{stem_of(files[0])}.nii.gz"
        for mask in region_paths(target, regions).values() if regions else [target]:
            if os.path.realpath(mask) in inputs:
                raise DataError(f"the mask {mask} would overwrite a scan; choose another folder for the masks")
            if mask in owners:
                both = f"{owners[mask]} and {files[0]}"
                raise DataError(f"{both} would both be written to {mask}; rename one, or put it into another folder")
            owners[mask] = files[0]
    return targets


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in; DataError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: nothing can be written there ({error.strerror})") from error
