"""Files that are either whole or absent, and how much memory there is for what they hold."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
# Which control groups this process is in, and where they are mounted.
OWN_GROUPS = Path("/proc/self/cgroup")
CGROUP = Path("/sys/fs/cgroup")
# Of both versions of control groups: the limit, what is used, and what of memory.stat the kernel gives back when asked.
LIMITS = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
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
    """Return the bytes of memory free for use; None where that cannot be told.

    That is what the machine has, and what each control group (a container's, a job's) that this process is in still
    allows. Pages of files that were read or written count as free in both: the kernel takes them back when it must.
    """
    amounts: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        amounts.append(int(MEMINFO.read_text().split("MemAvailable:")[1].split()[0]) * 1024)
    for folder, names in product(_groups(), LIMITS):
        # "max" (no limit) is no number and is passed over
        with suppress(OSError, ValueError):
            amounts.append(_allowed(folder, *names))
    return min(amounts, default=None)


def _groups() -> list[Path]:
    """Return the folders of the control groups that may limit this process's memory, up to the root of each kind.

    A container may see the path that its group has on the host, of which nothing but the root is there.
    """
    # by what /proc calls them: groups of the second version, and those of the first that limit memory
    roots = {"": CGROUP, "memory": CGROUP / "memory"}
    found = set(roots.values())
    with suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kind, path = line.split(":", 2)
            if kind in roots:
                own = roots[kind] / path.strip("/")
                found.update(place for place in (own, *own.parents) if place.is_relative_to(roots[kind]))
    return sorted(found)


def _allowed(folder: Path, limit: str, used: str, cached: Sequence[str]) -> int:
    """Return the bytes that a control group still allows; OSError or ValueError where it has no limit."""
    left = int((folder / limit).read_text()) - int((folder / used).read_text())
    lines = (folder / "memory.stat").read_text().splitlines()
    return left + sum(int(amount) for name, amount in map(str.split, lines) if name in cached)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
