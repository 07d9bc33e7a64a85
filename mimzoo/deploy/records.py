"""What was done with each scan, in a file beside the masks: believed only where the masks are those it tells of."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError

from mimzoo.files import replacing, sha256_of
from mimzoo.recipes import Block

FOLDER = "records"


def shown(path: Path | str) -> str:
    """Return a path as it is printed and stored: bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Content(Block):
    """The content of a file, as it was when it was written."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the content of a file; OSError where it cannot be read."""
        return cls(bytes=path.stat().st_size, sha256=sha256_of(path))


class Source(Block):
    """A file of a scan, and what tells whether it has changed since."""

    path: str
    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what a file is now; OSError where there is none."""
        found = path.stat()
        return cls(path=real_path(path), bytes=found.st_size, modified_ns=found.st_mtime_ns)

    @classmethod
    def named(cls, path: Path) -> Self:
        """Return what a file is now, or, of one that is not there, its path alone."""
        return cls.of(path) if path.is_file() else cls(path=real_path(path), bytes=0, modified_ns=0)


class Maker(Block):
    """What makes masks: the model, and the settings that change them."""

    card: str
    model_sha256: str
    settings: dict[str, JsonValue]


class Measured(Block):
    """What a mask holds of one label: `mean` and `std` of each channel in the scan's own units, None of no voxel."""

    mask: str
    label: str
    value: int
    voxels: int
    ml: float
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]


class Record(Block):
    """What was done with a scan, and why it failed where it did; `masks` by the names of their files.

    It is there before the masks get these names. `left` is what earlier ones wrote of the scan, and may still be there.
    """

    format: Literal[1] = 1
    scan: str
    files: tuple[Source, ...]
    maker: Maker
    run_by: str
    failure: str | None = None
    warnings: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    masks: dict[str, Content] = Field(default_factory=dict)
    left: dict[str, Content] = Field(default_factory=dict)
    labels: tuple[Measured, ...] = ()

    def holds(self, folder: Path) -> bool:
        """Return whether the masks in a folder are whole, and those that were written."""
        try:
            return self.failure is None and all(Content.of(folder / name) == at for name, at in self.masks.items())
        except OSError:
            return False

    def is_of(self, files: Sequence[Path]) -> bool:
        """Return whether this is of the scan with these files, whatever they held then."""
        return [file.path for file in self.files] == list(map(real_path, files))

    def names(self) -> dict[str, Content]:
        """Return what was written of the scan last under each name."""
        return {**self.left, **self.masks}

    def wrote(self, mask: Path) -> bool:
        """Return whether a file is a mask of the scan as it was written, and can be read."""
        try:
            return Content.of(mask) in (self.masks.get(mask.name), self.left.get(mask.name))
        except OSError:
            return False


def real_path(path: Path) -> str:
    """Return the path of a file, which need not be there, without links, as it is stored."""
    return shown(os.path.realpath(path))


def record_path(folder: Path, scan: str) -> Path:
    """Return the file of a scan's record in the folder of the masks."""
    return folder / FOLDER / f"{scan}.json"


def read_record(path: Path) -> Record | None:
    """Return the record in a file; None where there is none, or none that can be read."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_records(folder: Path) -> Iterator[Record]:
    """Yield the records in the folder of the masks, by the names of their scans."""
    for path in sorted((folder / FOLDER).glob("*.json")):
        record = read_record(path)
        if record is not None:
            yield record


def write_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    with replacing(record_path(folder, record.scan)) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what killed processes left beside these files: what was to take their places."""
    for path in paths:
        for left in path.parent.glob(f".{_literal(path.name)}.*.part"):
            left.unlink(missing_ok=True)


def set_aside(mask: Path) -> Path:
    """Return where a mask is kept from now on: beside its place, under a name that is free and ends like no scan's."""
    kept = next(path for n in count(1) if not os.path.lexists(path := mask.with_name(f"{mask.name}.kept-{n}")))
    return mask.rename(kept)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
