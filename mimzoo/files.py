"""Files that are either whole or absent, and how much memory there is for what they hold."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends and vanishes when it fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the one call that is atomic on every platform
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder: the temporary files of `replacing`."""
    for path in folder.glob(".*.part"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, outlasts a power cut; where folders allow none, not."""
    with suppress(PermissionError), naming(path):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError, which knows it only of a file that could not be opened."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def free_memory() -> int | None:
    """Return the bytes of memory free for use, the container's limit counted in; None where that cannot be told."""
    amounts: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        amounts.append(int(MEMINFO.read_text().split("MemAvailable:")[1].split()[0]) * 1024)
    # "max" (no limit) is no number and is passed over
    with suppress(OSError, ValueError):
        limit = int((CGROUP / "memory.max").read_text())
        amounts.append(limit - int((CGROUP / "memory.current").read_text()))
    return min(amounts, default=None)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
