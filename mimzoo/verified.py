"""Which files were found to have the content that a card names, so that large ones are hashed once and not always."""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from mimzoo.cards import mimzoo_home
from mimzoo.errors import WeightsError
from mimzoo.files import replacing

# File systems count time in steps; what changed within one is not told apart by its time. Theirs are 2 s at most.
SETTLED_NS = 2_000_000_000


def verify(path: Path, sha256: str) -> None:
    """Raise WeightsError unless a file is there and its content has that sha256.

    It is hashed, unless the very file (its place on disk, size, and the times at which its content and its entry last
    changed, which no program can set back) was hashed before and found right. Where that cannot be noted, or a file
    changed within the last seconds, it is hashed every time.
    """
    try:
        with path.open("rb") as file:
            found, note = os.fstat(file.fileno()), None
            if time.time_ns() - found.st_ctime_ns > SETTLED_NS:
                note = mimzoo_home() / "verified" / f"{sha256}-{found.st_dev}-{found.st_ino}"
            if note is not None and _read(note) == _state(found):
                return
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror or error}") from None
    if digest != sha256:
        raise WeightsError(
            f"{path} is not the file that its card names: sha256 {digest[:12]}..., expected {sha256[:12]}...; "
            "delete it and fetch it again"
        )
    if note is not None:
        _write(note, _state(found))


def _state(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _read(note: Path) -> str | None:
    try:
        return note.read_text()
    except OSError:
        return None


def _write(note: Path, state: str) -> None:
    # A store that cannot be written to costs time, nothing else.
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as temporary:
            temporary.write_text(state)
