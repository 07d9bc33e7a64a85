"""Files that are either whole or absent, and how much memory there is for what they hold."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends and vanishes when it fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the one call that is atomic on every platform
    finally:
        temporary.unlink(missing_ok=True)


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
