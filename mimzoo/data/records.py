"""What a prepared store knows of each case: one small JSON file, whose presence commits the case."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from mimzoo.errors import ScanError
from mimzoo.recipes import Block

Row = tuple[float, float, float, float]


class Source(Block):
    """A file as it was when it was prepared; any difference means that it must be prepared again."""

    path: str
    bytes: int
    mtime_ns: int


class Record(Block):
    """What is known of a prepared case; `files` maps its roles (image, labels, foreground) to (name, bytes)."""

    id: str
    sources: tuple[Source, ...]
    shape: tuple[int, int, int]
    space: int
    affine: tuple[Row, Row, Row, Row]
    minimum: tuple[float, ...]
    files: dict[str, tuple[str, int]]


def source_of(path: Path) -> Source:
    """Return the state of a file; ScanError when it cannot be read."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror})") from error
    return Source(path=str(path.resolve()), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


def file_stem(name: str) -> str:
    """Return the case id as a file name, shortened where file systems would refuse it."""
    return name if len(name.encode()) <= 120 else f"{name[:25]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def record_path(folder: Path, name: str) -> Path:
    """Return where the record of a case lies."""
    return folder / f"{file_stem(name)}.json"


def read_record(folder: Path, name: str) -> Record | None:
    """Return the record of a case, or None when it is not there, not whole, or another case's."""
    return _parse(record_path(folder, name), name)


def _parse(path: Path, name: str | None = None) -> Record | None:
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return record if name in (None, record.id) else None


def is_whole(folder: Path, record: Record) -> bool:
    """Return whether the arrays have the lengths noted: a power cut can leave renamed files empty."""
    found = [(folder / name, size) for name, size in record.files.values()]
    return all(path.is_file() and path.stat().st_size == size for path, size in found)


def referenced(paths: Iterable[Path]) -> set[str]:
    """Return the names of records among the paths, and of the arrays they speak of."""
    records = {path.name: _parse(path) for path in paths if path.suffix == ".json"}
    arrays_of = [name for record in records.values() if record for name, _ in record.files.values()]
    return {name for name, record in records.items() if record} | set(arrays_of)
