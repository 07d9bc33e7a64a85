"""Who does which scan, where several processes work on one folder: locks that end with the process that holds them."""

import time
from hashlib import sha256
from pathlib import Path

from mimzoo.errors import DataError

FILE = ".lock"
WAIT_SECONDS = 0.2


class Claims:
    """What this process works on, among all that work on a folder; a process that dies holds nothing any more.

    A name is one byte of a file, at a place that follows from the name, and the lock on that byte is the kernel's. Two
    threads of one process are not kept apart. Where there are no such locks (on Windows) everything can be had, and
    one process alone should work on a folder.
    Raises DataError where the folder allows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.file = self.path.open("ab")

    def close(self) -> None:
        """Give everything back."""
        self.file.close()

    def take(self, name: str) -> bool:
        """Return whether a name is now this process's; False where it is another's."""
        return self._lock(name, held=True)

    def wait(self, name: str) -> None:
        """Take a name, as soon as no other process holds it."""
        while not self.take(name):
            time.sleep(WAIT_SECONDS)

    def release(self, name: str) -> None:
        """Give a name back."""
        self._lock(name, held=False)

    def _lock(self, name: str, held: bool) -> bool:
        try:
            import fcntl
        except ImportError:
            return True
        place = int.from_bytes(sha256(name.encode()).digest()[:7])
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB if held else fcntl.LOCK_UN, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be locked ({error.strerror}); choose a folder on another disk"
            ) from error
        return True
