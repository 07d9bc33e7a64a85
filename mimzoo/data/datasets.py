"""Which scans a folder holds: a `dataset.json`, images/ with labels/ or a table, or any tree of NIfTI files."""

from collections.abc import Iterator
from pathlib import Path

from mimzoo.data.cases import SPLITS, Case, Dataset
from mimzoo.data.folders import read_folder
from mimzoo.data.manifest import read_manifest
from mimzoo.data.splits import parted
from mimzoo.errors import DataError

__all__ = ["SPLITS", "Case", "Dataset", "list_dataset", "read_dataset"]


def read_dataset(folder: Path | str, seed: int = 0) -> Dataset:
    """Return the data set in a folder; every file it names exists.

    A `dataset.json` decides where there is one. Without it, images/ and labels/ with equal names are labelled cases, as
    is images/ with a table `subjects.csv` (and unlabelled/ holds further scans); in any other tree each NIfTI file is
    an unlabelled case. Labelled cases without a stated split are split 80 to 20 into training and validation by the
    hash of `seed` and subject, so that the split depends on neither the order of the files nor the machine, and never
    parts the scans of a subject. A subject may be both labelled and unlabelled: pretraining sees no label.
    Raises DataError: no such folder, no scan in it, broken JSON or CSV, a missing file, an unpaired or doubled case, a
    case without a row or a row without a case, a subject in both training and validation.
    """
    dataset, problems = list_dataset(folder, seed)
    if problems:
        raise DataError(problems[0])
    return dataset


def list_dataset(folder: Path | str, seed: int = 0) -> tuple[Dataset, list[str]]:
    """Return the data set in a folder, whether its files exist or not, and all that `read_dataset` would refuse in it.

    Raises DataError where nothing can be listed: no such folder, no scan in it, broken JSON or CSV.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; give the folder that holds dataset.json or the scans")
    path = folder / "dataset.json"
    dataset, problems = read_manifest(path, seed) if path.exists() else read_folder(folder, seed)
    cases = [case for split in SPLITS for case in getattr(dataset, split)]
    if not cases:
        raise DataError(f"{folder}: holds no scans; expected dataset.json with cases, or .nii / .nii.gz files")
    problems += [f"{folder}: {problem}" for problem in parted(dataset.training, dataset.validation)]
    return dataset, [*(f"{folder}: {problem}" for problem in _unfit(cases)), *problems]


def _unfit(cases: list[Case]) -> Iterator[str]:
    """Yield what is wrong with ids and files."""
    seen: dict[str, Case] = {}
    for case in cases:
        if not case.id.isprintable() or "/" in case.id or case.id[:1] in ("", "."):
            yield f"{case.id!r} cannot be a case id, which is a file name without / and leading dot"
        if case.id in seen:
            yield (
                f"the case {case.id!r} is there twice ({seen[case.id].image} and {case.image}); list each scan "
                f"once, or tell two apart by an id in dataset.json"
            )
        seen[case.id] = case
        yield from _missing(case)


def _missing(case: Case) -> Iterator[str]:
    for role, paths in (("image", case.images), ("label", (case.label,))):
        for path in paths:
            if path is not None and not path.is_file():
                yield f"the {role} of case {case.id!r} is missing: {path}; restore or unlist it"
