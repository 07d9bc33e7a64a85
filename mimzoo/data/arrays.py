"""The files of a prepared store: compressed arrays that can be read in part, small tables, and who may tidy up."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import blosc2
import numpy as np
from numpy.typing import NDArray

from mimzoo.errors import DataError

SUFFIX = {"image": ".b2nd", "labels": ".b2nd", "foreground": ".npy"}
# A chunk of 64^3 in blocks of 16^3, each of which is decompressed by itself: of the sizes tried, the quickest to write
# and among the quickest to read crops of 40 to 96 voxels from. Zstd beyond level 1 gains 1 to 2 % for 3 times the work.
CHUNK = 64
BLOCK = 16
LEVEL = 1


def compress(array: NDArray[Any]) -> bytes:
    """Return an array (..., X, Y, Z) as the bytes of a b2nd file: Zstandard over byte-shuffled blocks.

    Made in memory rather than by blosc2 on disk, so that a full disk is an ordinary OSError of the one who writes.
    """
    leading = [1] * (array.ndim - 3)
    chunks = (*leading, *(min(CHUNK, n) for n in array.shape[-3:]))
    blocks = (*leading, *(min(BLOCK, n) for n in array.shape[-3:]))
    params = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=LEVEL, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    packed = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=params)
    content: bytes = packed.to_cframe()
    return content


def read_part(path: Path, shape: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[Any]:
    """Return a part of the array of the given shape in a b2nd file; DataError when the file is damaged or gone.

    Opened anew each time (0.2 ms), so that nothing is shared with the processes of a loader.
    """
    try:
        packed = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
        fits = isinstance(packed, blosc2.NDArray) and packed.shape == shape
        found: NDArray[Any] | None = packed[part] if fits else None
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(path) from error
    if found is None:
        raise _damaged(path)
    return found


def table(rows: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a npy file."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()


def load_table(path: Path) -> NDArray[Any]:
    """Return the array of a npy file; DataError when the file is damaged or gone."""
    try:
        rows: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path) from error
    return rows


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}: the prepared scan is damaged or gone; delete {path.parent} and run the command again")


@contextmanager
def sharing(folder: Path, kept: Callable[[Iterable[Path]], set[str]]) -> Iterator[None]:
    """Make the folder and hold a shared lock on it; whoever finds itself alone first removes what is not `kept`.

    Leftovers are those of killed processes, and the arrays of scans that have changed since. The kernel drops the lock
    of a process that dies. Where there are no locks (some network file systems) nothing is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        if _lock(file, alone=True):
            _tidy(folder, kept)
        _lock(file, alone=False)
        yield


def _lock(file: BinaryIO, alone: bool) -> bool:
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except (ImportError, OSError):
        return False
    return True


def _tidy(folder: Path, kept: Callable[[Iterable[Path]], set[str]]) -> None:
    paths = [path for path in folder.iterdir() if path.is_file()]
    names = kept(paths) | {".lock"}
    for path in paths:
        if path.name not in names and path.suffix in (".part", ".json", *SUFFIX.values()):
            path.unlink(missing_ok=True)
