"""Files by their names: which case and which channel each is, and whether every case has what it needs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimzoo.data.folders import list_scans
from mimzoo.data.layouts.table import Entry
from mimzoo.errors import DataError

LABEL = "label"
LISTED = 5

Files = dict[str, Path]


@dataclass(frozen=True)
class Naming:
    """How a benchmark names its NIfTI files.

    `pattern` matches the end of a path from a folder on, without .nii or .nii.gz and whatever its case; `case` makes
    the case id of its groups. `roles` tells what each text of its group `role`, in lower case, stands for: a channel or
    the label ("" where there is no such group). `example` is such a path, for errors.
    """

    pattern: str
    roles: Mapping[str, str]
    example: str
    case: str = "{id}"


def gather(folder: Path, naming: Naming) -> dict[str, Files]:
    """Return case id -> role -> file relative to the folder, cases in the order of their numbers.

    Files at any depth are looked at, hidden ones (macOS leaves `._scan.nii.gz`) and other names passed over.
    Raises DataError when no file is named so, and when two files are the same thing of one case.
    """
    matcher = re.compile(rf"(?:.*/)?{naming.pattern}\.nii(?:\.gz)?", re.IGNORECASE)
    cases: dict[str, Files] = {}
    for path in (found.relative_to(folder) for found in list_scans(folder)):
        match = matcher.fullmatch(path.as_posix())
        if match is None:
            continue
        groups = match.groupdict("")
        files = cases.setdefault(naming.case.format(**groups).replace("/", "-"), {})
        role = naming.roles[groups.get("role", "").lower()]
        if role in files:
            raise DataError(
                f"{folder}: {files[role]} and {path} are both the {role} of one case; leave one, or convert each "
                f"folder by itself"
            )
        files[role] = path
    if not cases:
        raise DataError(
            f"{folder}: does not look like this layout, for no file such as {naming.example} is in it; give the "
            f"folder that holds the unpacked download"
        )
    return dict(sorted(cases.items(), key=lambda item: numbered(item[0])))


def numbered(text: str) -> list[str | int]:
    """Return a key that sorts numbers within texts by size: volume-9 before volume-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def complete(
    folder: Path, cases: Mapping[str, Files], channels: Sequence[str], subject_of: Callable[[str], str] = str
) -> tuple[Entry, ...]:
    """Return the cases with their channels in this order; those without a label are unlabelled.

    Raises DataError for a label without any image, and for a case that lacks a channel.
    """
    incomplete = [name for name, files in cases.items() if not files.keys() >= set(channels)]
    if incomplete:
        missing = _missing(incomplete[0], cases[incomplete[0]], channels)
        raise DataError(
            f"{folder}: {missing}{_others(incomplete)}; restore what is missing or move the case out of the folder"
        )
    return tuple(
        Entry(name, subject_of(name), tuple(files[channel] for channel in channels), files.get(LABEL))
        for name, files in cases.items()
    )


def _missing(name: str, files: Files, channels: Sequence[str]) -> str:
    if set(files) == {LABEL}:
        return f"the label {files[LABEL]} has no image"
    return f"case {name!r} has no {', '.join(channel for channel in channels if channel not in files)}"


def _others(names: Sequence[str]) -> str:
    """Return in brackets how many more than the first there are, and the first few of them."""
    more = names[1:]
    shown = ", ".join(more[:LISTED]) + (", ..." if len(more) > LISTED else "")
    return f" ({len(more)} more cases are incomplete: {shown})" if more else ""
