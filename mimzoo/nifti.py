"""NIfTI files as arrays: every claim of a header is checked before it is believed, and files are written whole."""

import gzip
import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Extensions
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling, native_code

from mimzoo.errors import ScanError
from mimzoo.files import free_memory, replacing
from mimzoo.grids import Array, Forms, Grid, Matrix

Header = Any  # nibabel ships no types
Held = Callable[[np.dtype[Any]], np.dtype[Any]]

SUFFIXES = (".nii", ".nii.gz")
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
MAGIC = (b"n+1", b"n+2")
# Deflate spends at least 2 bits on 258 bytes, so a file never unpacks to more than this many times its size.
GZIP_LIMIT = 1032
# How far from flat the three axes must stand: the volume of the box of their unit vectors.
FLATTEST = 1e-3
UNITS = {1: "metres", 3: "micrometres"}
# The last code of a space that the standard knows, and that which unknown ones are taken for: aligned to something.
LAST_SPACE, ALIGNED = 5, 2
# What of a header says where its voxels lie; of pixdim the first four numbers do.
PLACING = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
# Bytes of voxels read at a time: planes enough to fill cache lines along Z, little beside a scan.
PIECE = 4 << 20
COMMENT = 6
DAMAGE = (OSError, EOFError, zlib.error, ValueError, OverflowError, TypeError, HeaderDataError)


def as_they_come(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type itself."""
    return dtype


def as_float32(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float32, whatever the type."""
    return np.dtype(np.float32)


def as_small(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return whole numbers of up to 16 bits as they come, which are the same in float32, and float32 for all others."""
    return dtype if dtype.kind in "iu" and dtype.itemsize <= 2 else np.dtype(np.float32)


def stem_of(path: Path) -> str:
    """Return a file's name without .nii or .nii.gz."""
    ending = next((s for s in reversed(SUFFIXES) if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(ending)]


def read_voxels(path: Path, channels: int, held: Held = as_they_come) -> tuple[Array, Grid]:
    """Return the voxels (channels, X, Y, Z), scl_slope applied, and their grid.

    `held` returns the type to hold them in, of the type that they come in once they are scaled.
    The affine is the sform where its code is above 0, else the qform, else the spacing alone. Codes that the standard
    does not know count too, as they do in its own library, and their space as aligned.
    Raises ScanError that says what is wrong with the file.
    """
    try:
        with _open(path) as stream:
            header = _header(path, stream)
            shape = _shape(path, header, channels)
            wanted = _held_as(path, header, held)
            _check_size(path, stream, header, wanted)
            grid = _grid(path, header, shape)
            return _voxels(path, stream, header, np.empty((channels, *shape), wanted)), grid
    except DAMAGE as error:
        raise ScanError(f"{path}: the file cannot be read ({_reason(error)}); it may be damaged") from error


def read_form(path: Path, channels: int, held: Held = as_they_come) -> tuple[Grid, np.dtype[Any]]:
    """Return the grid of a file and the type that `read_voxels` would hold its voxels in; only the header is read.

    Errors as `read_voxels`'.
    """
    try:
        with _open(path) as stream:
            header = _header(path, stream)
            return _grid(path, header, _shape(path, header, channels)), _held_as(path, header, held)
    except DAMAGE as error:
        raise ScanError(f"{path}: the file cannot be read ({_reason(error)}); it may be damaged") from error


def read_comments(path: Path) -> list[str]:
    """Return the texts of the comment extensions of a readable NIfTI file; damaged ones are left out."""
    found: list[str] = []
    with _open(path) as stream, suppress(*DAMAGE):
        header = _header(path, stream)
        # The header is followed by four bytes, the first of which says whether extensions come next.
        stream.seek(int(header["sizeof_hdr"]))
        if stream.read(4)[:1] == b"\x01":
            size = int(header["vox_offset"]) - stream.tell()
            extensions = Nifti1Extensions.from_fileobj(stream, size, header.endianness != native_code)
            found += [e.get_content().decode() for e in extensions if e.get_code() == COMMENT]
    return found


def write_voxels(path: Path, voxels: Array, grid: Grid, comment: str | None = None) -> None:
    """Write voxels (X, Y, Z) with the forms of the header that the grid was read from, as they stood there.

    Of any other grid the affine becomes the sform, and the qform where that can hold it (no shear).
    The same voxels give the same bytes. Raises ScanError when the path cannot be written or is no NIfTI name.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ScanError(f"{path}: the name of a NIfTI file ends in .nii or .nii.gz")
    image = nib.Nifti1Image(voxels, grid.affine if grid.forms is None else None, _new_header(voxels, grid))
    # Only now: nibabel mends the header that it is given.
    if grid.forms is not None:
        _copy_forms(grid.forms, image.header)
    if comment is not None:
        image.header.extensions.append(Nifti1Extension("comment", comment.encode()))
    try:
        with replacing(path) as temporary:
            _save(image, temporary, path.name.lower().endswith(".gz"))
    except OSError as error:
        raise ScanError(f"{path}: cannot be written ({_reason(error)})") from error


def _save(image: Any, path: Path, packed: bool) -> None:
    with path.open("wb") as plain:
        if not packed:
            image.to_stream(plain)
            return
        with gzip.GzipFile("", "wb", 6, plain, mtime=0) as stream:
            image.to_stream(stream)


def _new_header(voxels: Array, grid: Grid) -> Header:
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_zooms(grid.spacing_mm)
    header.set_xyzt_units("mm")
    if grid.forms is None and grid.space:
        header.set_sform(grid.affine, grid.space)
        # A sheared affine has no qform; with the code 0 readers take the sform.
        try:
            header.set_qform(grid.affine, grid.space, strip_shears=False)
        except HeaderDataError:
            header["qform_code"] = 0
    return header


def _copy_forms(forms: Forms, header: Header) -> None:
    """Put forms into a header, whose numbers may be shorter than those of a NIfTI-2 file."""
    for name in PLACING[1:]:
        kind, value = header[name].dtype, forms.fields[name]
        limits = np.iinfo(kind) if kind.kind == "i" else np.finfo(kind)
        header[name] = np.clip(value, limits.min, limits.max)
    with np.errstate(over="ignore"):
        spacing = forms.fields["pixdim"][1:4].astype(np.float32)
    # A spacing that cannot be does no harm beside an sform, but need not be handed on.
    if all(0 < s < np.inf for s in spacing.tolist()):
        header["pixdim"][1:4] = spacing
    header["pixdim"][0] = forms.fields["pixdim"][0]


def _open(path: Path) -> IO[bytes]:
    if not path.name.lower().endswith(SUFFIXES):
        raise ScanError(f"{path}: not a NIfTI file; its name must end in .nii or .nii.gz")
    if not path.is_file():
        raise ScanError(f"{path}: {'a folder, not a scan' if path.is_dir() else 'no such file'}")
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _header(path: Path, stream: IO[bytes]) -> Header:
    raw = stream.read(max(HEADERS))
    size = next((n for n in HEADERS if n.to_bytes(4, "little") == raw[:4] or n.to_bytes(4, "big") == raw[:4]), None)
    if size is None or len(raw) < size:
        raise ScanError(f"{path}: not a NIfTI file ({len(raw)} bytes read, none of them a whole header)")
    header = HEADERS[size](raw[:size], check=False)
    if bytes(header["magic"])[:3] not in MAGIC:
        raise ScanError(f"{path}: not a single-file NIfTI image; convert header/image pairs and Analyze files first")
    return header


def _shape(path: Path, header: Header, channels: int) -> tuple[int, int, int]:
    dims = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    if not 1 <= int(header["dim"][0]) <= 7 or min(dims) < 1:
        raise ScanError(f"{path}: the header claims the shape {dims}, which cannot be; the file is damaged")
    if len(dims) < 3 or 1 in dims[:3]:
        raise ScanError(f"{path}: a 2D image of shape {_times(dims)}; a scan needs three axes longer than one voxel")
    extra = [n for n in dims[3:] if n > 1]
    if len(extra) > 1 or (extra or [1]) != [channels]:
        raise ScanError(
            f"{path}: the shape {_times(dims)} has {_channels(prod(extra))} where {_channels(channels)} "
            f"{'is' if channels == 1 else 'are'} expected"
        )
    return dims[0], dims[1], dims[2]


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _times(dims: list[int]) -> str:
    return " x ".join(map(str, dims))


def _check_size(path: Path, stream: IO[bytes], header: Header, wanted: np.dtype[Any]) -> None:
    """Refuse, before anything is allocated, what cannot be in this file or in this memory."""
    if int(header["vox_offset"]) < int(header["sizeof_hdr"]):
        raise ScanError(f"{path}: the header's data offset of {header['vox_offset']:g} bytes lies inside the header")
    dtype = _dtype(path, header)
    voxels = _count(header)
    claimed, stored = int(header["vox_offset"]) + voxels * dtype.itemsize, path.stat().st_size
    if claimed > stored * (GZIP_LIMIT if isinstance(stream, gzip.GzipFile) else 1):
        raise ScanError(f"{path}: the header claims {claimed:,} bytes, which a file of {stored:,} bytes cannot hold")
    need = voxels * wanted.itemsize
    free = free_memory()
    if free is not None and need > free:
        raise ScanError(f"{path}: {voxels:,} voxels need {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def _count(header: Header) -> int:
    # plain integers: numpy's product would wrap around
    count = 1
    for n in header["dim"][1 : 1 + int(header["dim"][0])]:
        count *= int(n)
    return count


def _dtype(path: Path, header: Header) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V0")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ScanError(f"{path}: voxels of type {_type_name(header)}; only integers and real numbers are read")
    return dtype


def _held_as(path: Path, header: Header, held: Held) -> np.dtype[Any]:
    return held(_scaled(np.empty(0, _dtype(path, header)), header).dtype.newbyteorder("="))


def _type_name(header: Header) -> str:
    code = int(header["datatype"])
    with suppress(KeyError):
        return str(header._data_type_codes.label[code])
    return f"unknown code {code}"


def _grid(path: Path, header: Header, shape: tuple[int, int, int]) -> Grid:
    unit = UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        raise ScanError(f"{path}: the header counts in {unit}; write it in mm first")
    # The standard says to read a qfac other than -1 as 1.
    if header["pixdim"][0] != -1:
        header["pixdim"][0] = 1
    spacing = [float(s) for s in header["pixdim"][1:4]]
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes[0] <= 0 and not all(0 < s < np.inf for s in spacing):
        raise ScanError(f"{path}: the spacing in the header is {spacing} mm; it must be positive")
    affine = np.array(_affine(header, *codes), float)
    _check_affine(path, affine)
    space = next((code for code in codes if code > 0), 0)
    return Grid(shape, affine, space if space <= LAST_SPACE else ALIGNED, _forms(header, *codes))


def _affine(header: Header, sform_code: int, qform_code: int) -> Any:
    if sform_code > 0:
        return header.get_sform()
    return header.get_qform() if qform_code > 0 else header.get_base_affine()


def _forms(header: Header, sform_code: int, qform_code: int) -> Forms:
    qform: Matrix | None = None
    # Beside an sform a qform may be no rotation.
    with suppress(*DAMAGE):
        qform = header.get_qform() if qform_code > 0 else None
    if qform is not None and not np.isfinite(qform).all():
        qform = None
    fields = {name: np.array(header[name]) for name in PLACING}
    return Forms(fields, header.get_sform() if sform_code > 0 else None, qform)


def _check_affine(path: Path, affine: Matrix) -> None:
    # as the header of a mask holds it
    with np.errstate(over="ignore"):
        held = affine.astype(np.float32).astype(float)
    if not np.isfinite(held).all():
        raise ScanError(f"{path}: the affine in the header holds NaN or infinite numbers")
    columns = held[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if (lengths == 0).any():
        raise ScanError(f"{path}: the affine gives a spacing of {lengths.tolist()} mm; it must be positive")
    if abs(np.linalg.det(columns / lengths)) < FLATTEST:
        raise ScanError(f"{path}: the axes of the affine lie in one plane (its determinant is 0), so it is no 3D grid")


def _scaled(values: Array, header: Header) -> Array:
    slope, inter = header.get_slope_inter()
    scaled: Array = apply_read_scaling(values, slope or 1.0, inter or 0.0)
    return scaled


def _voxels(path: Path, stream: IO[bytes], header: Header, out: Array) -> Array:
    """Return `out` (C, X, Y, Z) with the voxels, of which a few planes at a time are held in other forms."""
    dtype, (channels, x, y, z) = _dtype(path, header), out.shape
    step = max(1, PIECE // (x * y * dtype.itemsize))
    stream.seek(int(header["vox_offset"]))
    for channel, start in product(range(channels), range(0, z, step)):
        planes = out[channel, :, :, start : start + step]
        raw = stream.read(planes.size * dtype.itemsize)
        if len(raw) < planes.size * dtype.itemsize:
            there = (channel * z + start) * x * y * dtype.itemsize + len(raw)
            whole = out.size * dtype.itemsize
            raise ScanError(f"{path}: the file ends early, {there:,} of {whole:,} bytes of voxels are there")
        # NIfTI stores X fastest: (n * Y * X,) -> (n, Y, X) -> (X, Y, n)
        planes[...] = _scaled(np.frombuffer(raw, dtype), header).reshape(-1, y, x).T
    # Reading on to the end makes gzip compare its checksum.
    while stream.read(io.DEFAULT_BUFFER_SIZE):
        pass
    return out


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
