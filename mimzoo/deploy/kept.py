"""What engines make of a graph takes time, so it is kept in the local store for the next process."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimzoo.cards import mimzoo_home
from mimzoo.files import replacing
from mimzoo.verified import SETTLED_NS

FOLDER = "compiled"
DIGEST = 32


def kept_path(model: Path, way: str, *details: object) -> Path | None:
    """Return where an engine keeps what it makes of a file in its own `way`; None for a file just written.

    The name holds the file's place on disk, and a hash of its size, of the times at which its content and its entry
    last changed, and of the details: it is another one as soon as any of these is.
    """
    found = model.stat()
    if time.time_ns() - found.st_ctime_ns <= SETTLED_NS:
        return None
    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, *details)
    digest = hashlib.sha256(repr(state).encode()).hexdigest()
    return mimzoo_home() / FOLDER / f"{found.st_dev}-{found.st_ino}-{way}-{digest[:16]}"


def keep(path: Path, content: bytes | memoryview) -> None:
    """Write what an engine made, with its sha256; what was kept before of the same file in the same way goes."""
    # A store that cannot be written to costs time, nothing else.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
        for older in path.parent.glob(f"{path.name.rpartition('-')[0]}-*"):
            if older != path:
                older.unlink(missing_ok=True)


def read_kept(path: Path) -> NDArray[np.uint8] | None:
    """Return the bytes that were kept; None where there are none, or where they were changed.

    Engines do not look: given half of what they made, they take the whole process down.
    """
    with suppress(OSError):
        found = np.fromfile(path, np.uint8)
        content, digest = found[:-DIGEST], found[-DIGEST:]
        if hashlib.sha256(content.data).digest() == digest.tobytes():
            return content
    return None
