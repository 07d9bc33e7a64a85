"""The files of a prepared store: compressed arrays that can be read in part, small tables, and who may tidy up."""

import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any, BinaryIO

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mimzoo.errors import DataError

SUFFIX = {"image": ".b2nd", "labels": ".b2nd", "foreground": ".npy"}
# Blocks of 32^3 are decompressed by themselves: of the sizes tried, among the quickest to read crops of 40 to 128
# voxels from. Chunks are thin along X, for writing holds the planes of one. Zstd beyond level 1 gains 2 % for 3 times
# the work; LZ4HC halves the time of reading, but takes 15 to 40 % more space, and more than half of the raw bytes for
# some MR.
CHUNK = (32, 64, 64)
BLOCK = (32, 32, 32)
LEVEL = 1
# Where a b2nd file keeps the checksum of each of its chunks; of the bits flipped in one, Zstandard notices 3 in 100.
SUMS = "crc32"
State = tuple[int, int, int]
# By path, the state of the file and the chunks that were found sound in it.
_sound: dict[str, tuple[State, set[int]]] = {}
# Crops of small scans are read many times: those that fit into so much memory are held uncompressed by each process,
# and of the others only what is asked for is read. None makes room for another, which would be read in vain as a whole.
HELD_BYTES = 128 * 2**20
_held: dict[str, tuple[State, NDArray[Any]]] = {}


def compress(array: NDArray[Any]) -> bytes:
    """Return an array (..., X, Y, Z) as the bytes of a b2nd file: Zstandard over byte-shuffled blocks, checksums."""
    ends = (*range(CHUNK[0], array.shape[-3], CHUNK[0]), array.shape[-3])
    parts = (slice(start, end) for start, end in pairwise((0, *ends)))
    return seal(pack(array.shape, array.dtype, ((part, array[..., part, :, :]) for part in parts)))


def pack(shape: tuple[int, ...], dtype: DTypeLike, slabs: Iterable[tuple[slice, NDArray[Any]]]) -> Any:
    """Return a compressed array (..., X, Y, Z) for `seal`, of which a chunk's planes are held uncompressed at a time.

    `slabs` are slices along X in their order, one of which ends wherever a chunk does, and what lies there.
    """
    leading = [1] * (len(shape) - 3)
    packed = blosc2.zeros(
        shape,
        np.dtype(dtype),
        chunks=(*leading, *map(min, CHUNK, shape[-3:])),
        blocks=(*leading, *map(min, BLOCK, shape[-3:])),
        cparams=_parameters(np.dtype(dtype)),
        # The chunks of a frame are those of the file, checksums included.
        contiguous=True,
    )
    held, begun = np.empty((*shape[:-3], min(CHUNK[0], shape[-3]), *shape[-2:]), dtype), 0
    for part, slab in slabs:
        held[..., part.start - begun : part.stop - begun, :, :] = slab
        if part.stop in (begun + CHUNK[0], shape[-3]):
            packed[..., begun : part.stop, :, :] = np.ascontiguousarray(held[..., : part.stop - begun, :, :])
            begun = part.stop
    return packed


def _parameters(dtype: np.dtype[Any]) -> Any:
    # Shuffling single bytes changes nothing, and takes half the time of reading them.
    shuffle = blosc2.Filter.SHUFFLE if dtype.itemsize > 1 else blosc2.Filter.NOFILTER
    return blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=LEVEL, filters=[shuffle], nthreads=1)


def seal(packed: Any) -> bytes:
    """Return what `pack` returns as the bytes of a b2nd file, checksums included.

    Made in memory rather than by blosc2 on disk, so that a full disk is an ordinary OSError of the one who writes.
    """
    sums = [_sum_of_chunk(packed, number) for number in range(packed.schunk.nchunks)]
    packed.schunk.vlmeta[SUMS] = np.array(sums, "<u4").tobytes()
    content: bytes = packed.to_cframe()
    return content


def read_part(path: Path, shape: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[Any]:
    """Return a part of the array of the given shape in a b2nd file, which is not to be changed.

    Raises DataError when the file is damaged or gone.
    """
    found: NDArray[Any] | None = None
    try:
        source = _source(path)
        if source.shape == shape and (isinstance(source, np.ndarray) or _is_sound(path, source, part)):
            found = source[part]
    # What blosc2 raises on a damaged header is anything from KeyError to SyntaxError.
    except (OSError, RuntimeError, ValueError, LookupError, ArithmeticError, SyntaxError, TypeError) as error:
        raise _damaged(path) from error
    if found is None:
        raise _damaged(path)
    return found


def _source(path: Path) -> Any:
    """Return the whole array, where this process holds it or has room to from now on; else the open file.

    A file is opened anew each time (0.2 ms), so that nothing is shared with the processes of a loader.
    """
    # Taken before the file is opened, so that one that is replaced meanwhile is read again.
    held, state = _held.get(str(path)), _state_of(path)
    if held is not None and held[0] == state:
        return held[1]
    packed = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
    if not isinstance(packed, blosc2.NDArray):
        raise TypeError(f"{path} holds no array")
    _held.pop(str(path), None)
    room = HELD_BYTES - sum(array.nbytes for _, array in _held.values())
    everything = (slice(None),) * packed.ndim
    if packed.nbytes > room or not _is_sound(path, packed, everything):
        return packed
    whole: NDArray[Any] = packed[everything]
    _held[str(path)] = (state, whole)
    return whole


def _state_of(path: Path) -> State:
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _is_sound(path: Path, packed: Any, part: tuple[slice, ...]) -> bool:
    """Return whether the chunks that a part touches have their checksums.

    A chunk is read through once, and again when anything of the file has changed.
    """
    state = _state_of(path)
    known = _sound.get(str(path))
    if known is None or known[0] != state:
        known = _sound[str(path)] = (state, set())
    unread = set(_chunks_of(packed.shape, packed.chunks, part)) - known[1]
    if unread:
        sums = np.frombuffer(packed.schunk.vlmeta[SUMS], "<u4")
        if any(_sum_of_chunk(packed, number) != sums[number] for number in unread):
            return False
        known[1].update(unread)
    return True


def _sum_of_chunk(packed: Any, number: int) -> int:
    """Return the checksum of a chunk as it is compressed, and of what tells how to read it."""
    layout = repr((packed.shape, packed.chunks, packed.blocks, packed.dtype.str)).encode()
    return zlib.crc32(packed.schunk.get_chunk(number), zlib.crc32(layout))


def _chunks_of(shape: tuple[int, ...], chunk: tuple[int, ...], part: tuple[slice, ...]) -> list[int]:
    """Return the numbers of the chunks that hold voxels of a part."""
    counts = [-(-n // size) for n, size in zip(shape, chunk, strict=True)]
    spans = [range(*each.indices(n)) for each, n in zip(part, shape, strict=True)]
    touched = product(*(range(span[0] // size, span[-1] // size + 1) for span, size in zip(spans, chunk, strict=True)))
    return [int(np.ravel_multi_index(place, counts)) for place in touched]


def table(rows: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a npy file, its checksum behind them."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue() + _sum_of(file.getvalue())


def load_table(path: Path) -> NDArray[Any]:
    """Return the array of a npy file; DataError when the file is damaged or gone."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path) from error
    rows, noted = content[:-4], content[-4:]
    if noted != _sum_of(rows):
        raise _damaged(path)
    found: NDArray[Any] = np.load(io.BytesIO(rows), allow_pickle=False)
    return found


def _sum_of(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


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
