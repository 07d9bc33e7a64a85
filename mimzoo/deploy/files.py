"""Many scans at once: masks into a folder, or a table of what is told of each; one that fails stops no other."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mimzoo.answers import Told
from mimzoo.deploy.graph import first_line
from mimzoo.deploy.models import Predictor, open_model
from mimzoo.errors import DataError, ExportError, MimzooError
from mimzoo.files import replacing
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.nifti import stem_of

CaseProgress = Callable[[int, int, str], object]
# One scan: its file, or a file for each channel.
Files = tuple[Path, ...]


def segment_files(
    model: str | Path,
    scans: Sequence[str | Path],
    out_dir: str | Path,
    progress: CaseProgress | None = None,
    threads: int | None = None,
) -> tuple[list[Path], list[str]]:
    """Return the masks written, `out_dir`/<scan's stem>.nii.gz each, and one sentence for each scan that failed.

    A scan of several files is written `first.nii.gz,second.nii.gz`, in the order of the model's channels, and its mask
    is called after the first; regions have a file each, <stem>-<region>.nii.gz. A scan that fails does not stop the
    others. `progress(done, total, scan)` is called after each.
    Raises DataError, before anything is done, when two scans would have one mask or a mask would overwrite a scan, and
    ExportError for a model that draws no masks.
    """
    targets = _targets([split_files(scan) for scan in scans], Path(out_dir))
    segment = open_model(model, threads)
    if isinstance(segment, Predictor):
        raise ExportError(f"{segment.path}: this model draws no masks but tells of scans; use `mimzoo predict`")
    _make_folder(Path(out_dir))
    done: list[Path] = []

    def draw(files: Files) -> None:
        drawn = segment(files)
        if isinstance(drawn, RegionMap):
            done.extend(drawn.save(targets[files]))
        elif isinstance(drawn, LabelMap):
            drawn.save(targets[files])
            done.append(targets[files])

    failures = [failure for _, failure in _attempt(draw, list(targets), progress) if failure is not None]
    return done, failures


def predict_files(
    model: str | Path, scans: Sequence[str | Path], progress: CaseProgress | None = None, threads: int | None = None
) -> tuple[dict[str, Told], list[str]]:
    """Return what is told of each scan, by its name as given, and one sentence for each scan that failed.

    Scans of several files are written as for `segment_files`.
    Raises ExportError for a model that draws masks.
    """
    tell = Predictor(model, threads)
    found: dict[str, Told] = {}
    names = {split_files(scan): str(scan) for scan in scans}

    def note(files: Files) -> None:
        found[names[files]] = tell(files)

    failures = [failure for _, failure in _attempt(note, list(names), progress) if failure is not None]
    return found, failures


def write_table(path: Path, found: dict[str, Told]) -> None:
    """Write a CSV with a row for each scan: its name, and what is told of it under the names of the outputs."""
    names = list(next(iter(found.values()), {}))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["scan", *names])
        table.writerows([scan, *(f"{told[name]:.6g}" for name in names)] for scan, told in found.items())


def split_files(scan: str | Path) -> Files:
    """Return the files of a scan: one, or those between the commas where there is no file of that very name."""
    return (Path(scan),) if Path(scan).exists() else tuple(Path(part) for part in str(scan).split(","))


def _attempt(
    act: Callable[[Files], None], scans: Sequence[Files], progress: CaseProgress | None
) -> Iterator[tuple[Files, str | None]]:
    """Yield each scan with the sentence on why it failed, or None."""
    for number, files in enumerate(scans, 1):
        failure: str | None = None
        try:
            act(files)
        except MimzooError as error:
            failure = str(error)
        except (OSError, MemoryError) as error:
            failure = f"{files[0]}: {first_line(error) or 'out of memory'}"
        yield files, failure
        if progress is not None:
            progress(number, len(scans), files[0].name)


def _targets(scans: Sequence[Files], folder: Path) -> dict[Files, Path]:
    """Return the mask of each scan."""
    targets: dict[Files, Path] = {}
    owners: dict[Path, Files] = {}
    inputs = {path.resolve() for files in scans for path in files}
    for files in scans:
        target = folder / f"{stem_of(files[0])}.nii.gz"
        if target.resolve() in inputs:
            raise DataError(f"the mask {target} would overwrite a scan; choose another folder for the masks")
        other = owners.setdefault(target, files)
        if files in targets or other != files:
            both = f"{other[0]} and {files[0]}"
            raise DataError(f"{both} would both be written to {target}; rename one, or run them apart")
        targets[files] = target
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: masks cannot be written there ({error.strerror})") from error
