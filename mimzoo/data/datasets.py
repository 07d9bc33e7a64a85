"""Which scans a folder holds: a Decathlon `dataset.json`, images/ + labels/, or any tree of NIfTI files."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mimzoo.errors import DataError, suggest

SPLITS = ("training", "validation", "unlabelled")
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Case:
    """One scan, with its label map where there is one."""

    id: str
    image: Path
    label: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """The cases of a folder by split, and the names of its label values (empty when the folder does not tell)."""

    name: str
    folder: Path
    training: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    unlabelled: tuple[Case, ...] = ()
    labels: dict[int, str] = field(default_factory=dict)

    def cases(self, split: str) -> tuple[Case, ...]:
        """Return the cases of a split; DataError when the split is unknown or has none."""
        if split not in SPLITS:
            raise DataError(f"{self.folder}: unknown split {split!r}; {suggest(split, SPLITS)}")
        found: tuple[Case, ...] = getattr(self, split)
        if not found:
            held = ", ".join(f"{len(getattr(self, name))} {name}" for name in SPLITS)
            raise DataError(f"{self.folder}: there are no {split} cases (it has {held}); list some in dataset.json")
        return found


def read_dataset(folder: Path | str, seed: int = 0) -> Dataset:
    """Return the data set in a folder; every file it names exists.

    A `dataset.json` decides where there is one. Without it, images/ and labels/ with equal names are labelled cases
    (and unlabelled/ holds further scans); in any other tree each NIfTI file is an unlabelled case. Labelled cases
    without a stated split are split 80 to 20 into training and validation by the hash of `seed` and case id, so that
    the split depends on neither the order of the files nor the machine.
    Raises DataError: no such folder, no scan in it, broken JSON, a missing file, an unpaired or doubled case.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; give the folder that holds dataset.json or the scans")
    if (folder / "dataset.json").exists():
        dataset = _from_json(folder, seed)
    elif (folder / "images").is_dir() and (folder / "labels").is_dir():
        dataset = _from_pairs(folder, seed)
    else:
        dataset = _from_tree(folder)
    _check_cases(dataset)
    return dataset


def few_labels(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """Return the data set with `count` of its training cases; under one seed smaller choices lie inside larger ones.

    Raises DataError when there are not that many.
    """
    if not 1 <= count <= len(dataset.training):
        raise DataError(
            f"{dataset.folder}: cannot take {count} labelled training cases; give 1 to {len(dataset.training)}"
        )
    return replace(dataset, training=tuple(_shuffled(dataset.training, f"few {seed}")[:count]))


def _shuffled(cases: Iterable[Case], salt: str) -> list[Case]:
    """Return the cases in the order of their salted hashes: the same on every machine, whatever came before."""
    return sorted(cases, key=lambda case: hashlib.sha256(f"{salt} {case.id}".encode()).hexdigest())


def _split(cases: Sequence[Case], seed: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return (training, validation), both in the order given; one case alone is for training."""
    count = max(1, round(VALIDATION_SHARE * len(cases))) if len(cases) > 1 else 0
    chosen = {case.id for case in _shuffled(cases, f"split {seed}")[:count]}
    return tuple(c for c in cases if c.id not in chosen), tuple(c for c in cases if c.id in chosen)


# --- dataset.json -----------------------------------------------------------------------------------------------------


def _from_json(folder: Path, seed: int) -> Dataset:
    path = folder / "dataset.json"
    table = _read_json(path)
    training, validation, unlabelled = (tuple(_entries(path, table, split)) for split in SPLITS)
    if "validation" not in table:
        training, validation = _split(training, seed)
    name = str(table.get("name") or folder.resolve().name)
    return Dataset(name, folder, training, validation, unlabelled, _labels(path, table.get("labels") or {}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); mend or download it again") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}: must be a JSON object with training, validation or unlabelled, got {_kind(table)}")
    return table


def _kind(value: object) -> str:
    return {list: "a list", dict: "an object", str: "a string", bool: "a boolean"}.get(type(value), "a number or null")


def _entries(path: Path, table: dict[str, Any], split: str) -> Iterator[Case]:
    entries = table.get(split, [])
    if not isinstance(entries, list):
        raise DataError(f"{path}: {split} must be a list of cases, got {_kind(entries)}")
    for place, entry in enumerate(entries):
        yield _entry(path, split, f"{split}[{place}]", {"image": entry} if isinstance(entry, str) else entry)


def _entry(path: Path, split: str, place: str, entry: Any) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise DataError(f"{path}: {place} must be a path, or an object with image and label as paths")
    image = _inside(path, place, entry["image"])
    name = entry.get("id") or case_id(image.name)
    if not isinstance(name, str):
        raise DataError(f"{path}: {place} has the id {name!r}; an id is a string")
    if split == "unlabelled":
        return Case(name, image)
    if not isinstance(entry.get("label"), str):
        raise DataError(f"{path}: {split} case {name!r} has no label; give one, or list the case under unlabelled")
    return Case(name, image, _inside(path, place, entry["label"]))


def _inside(path: Path, place: str, text: str) -> Path:
    """Return the path beside the JSON file; one that leaves the folder is refused, for JSON files are shared."""
    relative = Path(text)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path}: {place} names {text!r}, which leaves the folder; use a path below {path.parent}")
    return path.parent / relative


def _labels(path: Path, table: Any) -> dict[int, str]:
    """Return value -> name without the background."""
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise DataError(f'{path}: labels must map values to names, as in {{"0": "background", "1": "Liver"}}')
    unfit = [key for key in table if not (re.fullmatch("[0-9]{1,3}", key) and int(key) <= 254)]
    if unfit:
        raise DataError(f"{path}: labels has the key {unfit[0]!r}; keys are label values from 0 to 254")
    labels = {int(key): name for key, name in table.items()}
    if len(labels) < len(table):
        raise DataError(f"{path}: labels names a value twice; write each value once, without leading zeros")
    return {value: labels[value] for value in sorted(labels) if value}


# --- plain folders ----------------------------------------------------------------------------------------------------


def case_id(name: str) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    return name.removesuffix(".gz").removesuffix(".nii")


def _scans(folder: Path) -> list[Path]:
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


def _named(folder: Path) -> dict[str, Path]:
    """Return id -> scan, where an id is the path below the folder: patient folders often hold equal names."""
    named: dict[str, Path] = {}
    for path in _scans(folder):
        name = case_id("-".join(path.relative_to(folder).parts))
        if name in named:
            raise DataError(f"{folder}: {named[name].name} and {path.name} both give the case {name!r}; rename one")
        named[name] = path
    return named


def _from_pairs(folder: Path, seed: int) -> Dataset:
    images, labels = _named(folder / "images"), _named(folder / "labels")
    for name in sorted(images.keys() ^ labels.keys()):
        lone, lacking = ("image", "label") if name in images else ("label", "image")
        raise DataError(
            f"{folder}: case {name!r} has an entry in {lone}s/ but none in {lacking}s/; names below both must be "
            f"equal, and scans without a label belong in unlabelled/"
        )
    training, validation = _split([Case(name, images[name], labels[name]) for name in images], seed)
    more = _named(folder / "unlabelled") if (folder / "unlabelled").is_dir() else {}
    unlabelled = tuple(Case(name, path) for name, path in more.items())
    return Dataset(folder.resolve().name, folder, training, validation, unlabelled)


def _from_tree(folder: Path) -> Dataset:
    named = _named(folder)
    for path in named.values():
        beside = [part for part in path.relative_to(folder).parts[:-1] if part.lower().startswith("label")]
        if beside:
            raise DataError(
                f"{folder}: {beside[0]}/ would be taken for scans; add a dataset.json, or name the folders "
                f"images/ and labels/"
            )
    return Dataset(folder.resolve().name, folder, unlabelled=tuple(Case(name, path) for name, path in named.items()))


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_cases(dataset: Dataset) -> None:
    cases = [case for split in SPLITS for case in getattr(dataset, split)]
    if not cases:
        raise DataError(f"{dataset.folder}: holds no scans; expected dataset.json with cases, or .nii / .nii.gz files")
    seen: dict[str, Case] = {}
    for case in cases:
        if not case.id.isprintable() or "/" in case.id or case.id[:1] in ("", "."):
            raise DataError(
                f"{dataset.folder}: {case.id!r} cannot be a case id, which is a file name without / and leading dot"
            )
        if case.id in seen:
            raise DataError(
                f"{dataset.folder}: the case {case.id!r} is there twice ({seen[case.id].image} and {case.image}); "
                f"list each scan once, or tell two apart by an id in dataset.json"
            )
        seen[case.id] = case
        _check_files(dataset.folder, case)


def _check_files(folder: Path, case: Case) -> None:
    for role, path in (("image", case.image), ("label", case.label)):
        if path is not None and not path.is_file():
            raise DataError(f"{folder}: the {role} of case {case.id!r} is missing: {path}; restore or unlist it")
