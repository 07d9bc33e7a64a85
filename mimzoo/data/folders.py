"""Folders without a dataset.json: images/ with labels/ or a table of targets, or any tree of NIfTI files."""

import os
from pathlib import Path

from mimzoo.data.cases import Case, Dataset, case_id
from mimzoo.data.splits import split_off
from mimzoo.data.tables import fill, mismatches, read_table
from mimzoo.errors import DataError

TABLE = "subjects.csv"


def read_folder(folder: Path, seed: int) -> tuple[Dataset, list[str]]:
    """Return the data set of a folder without dataset.json, and which of its cases lack an image, a label or a row.

    Raises DataError for a folder or table that cannot be read, for two scans of one name, and for labels among scans.
    """
    if (folder / "images").is_dir() and ((folder / "labels").is_dir() or (folder / TABLE).exists()):
        return _from_images(folder, seed)
    return _from_tree(folder), []


def _from_images(folder: Path, seed: int) -> tuple[Dataset, list[str]]:
    """Return labelled cases below images/, by labels/ or a table or both, and unlabelled ones below unlabelled/."""
    images, more = (_named(folder / part) if (folder / part).is_dir() else {} for part in ("images", "unlabelled"))
    labels, problems = _paired(folder, images) if (folder / "labels").is_dir() else ({}, [])
    labelled = tuple(Case(name, (path,), labels.get(name)) for name, path in images.items())
    unlabelled = tuple(Case(name, (path,)) for name, path in more.items())
    if (folder / TABLE).exists():
        table = read_table(folder / TABLE)
        problems += mismatches(table, labelled, unlabelled)
        labelled, unlabelled = fill(table, labelled), fill(table, unlabelled)
    training, validation = split_off(labelled, seed)
    return Dataset(folder.resolve().name, folder, training, validation, unlabelled), problems


def _paired(folder: Path, images: dict[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Return the label maps below labels/, and a sentence for each that has no image, or the reverse."""
    labels = _named(folder / "labels")
    return labels, [
        f"{folder}: case {name!r} has an entry in {'images' if name in images else 'labels'}/ but none in "
        f"{'labels' if name in images else 'images'}/; names below both must be equal, and scans without a label "
        f"belong in unlabelled/"
        for name in sorted(images.keys() ^ labels.keys())
    ]


def _from_tree(folder: Path) -> Dataset:
    named = _named(folder)
    for path in named.values():
        beside = [part for part in path.relative_to(folder).parts[:-1] if part.lower().startswith("label")]
        if beside:
            raise DataError(
                f"{folder}: {beside[0]}/ would be taken for scans; add a dataset.json, or name the folders "
                f"images/ and labels/"
            )
    return Dataset(folder.resolve().name, folder, unlabelled=tuple(Case(name, (path,)) for name, path in named.items()))


def _named(folder: Path) -> dict[str, Path]:
    """Return id -> scan, where an id is the path below the folder: patient folders often hold equal names."""
    named: dict[str, Path] = {}
    for path in list_scans(folder):
        name = case_id("-".join(path.relative_to(folder).parts))
        if name in named:
            raise DataError(f"{folder}: {named[name].name} and {path.name} both give the case {name!r}; rename one")
        named[name] = path
    return named


def list_scans(folder: Path) -> list[Path]:
    """Return the NIfTI files below a folder, sorted; hidden files (macOS leaves `._scan.nii.gz`) are passed over."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        found += [Path(parent, name) for name in names if name.endswith((".nii", ".nii.gz")) and name[0] != "."]
    return sorted(found)


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
