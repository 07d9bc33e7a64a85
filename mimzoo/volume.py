"""From a scan in a file to what a network sees, and back: one path for training and deployment. No torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np

from mimzoo.errors import ScanError
from mimzoo.files import free_memory
from mimzoo.grids import (
    Floats,
    Grid,
    Masks,
    Matrix,
    Orientation,
    from_ras,
    pad_to,
    resample_labels,
    resample_linear,
    resample_slabs,
    spaced,
    to_ras,
)
from mimzoo.masks import LabelMap, RegionMap, read_labels, write_labels
from mimzoo.nifti import Held, as_float32, read_voxels
from mimzoo.recipes import Input, Intensity, Percentile, WindowHU, ZScore
from mimzoo.regrid import resample_onto, same_grid
from mimzoo.slabs import Slab, Slabbed

__all__ = [
    "Grid",
    "LabelMap",
    "Orientation",
    "Prepared",
    "RegionMap",
    "Streamed",
    "Volume",
    "check_pair",
    "from_ras",
    "normalise",
    "pad_to",
    "prepare",
    "prepare_labels",
    "prepare_slabs",
    "read_labels",
    "read_scan",
    "resample_labels",
    "resample_linear",
    "resample_onto",
    "same_grid",
    "spaced",
    "stream",
    "to_ras",
    "write_labels",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan: voxels (C, X, Y, Z) float32, their grid, and the name that errors call it by.

    Where it was read so, voxels are whole numbers as they are stored; `prepare_slabs` and `stream` take these too.
    """

    voxels: Floats
    grid: Grid
    name: str = "the scan"


def read_scan(path: Path | str | Sequence[Path | str], channels: int = 1, held: Held = as_float32) -> Volume:
    """Return the scan in its own grid and orientation, as (channels, X, Y, Z) float32.

    Several paths are one channel each; the first decides the grid, and the others are interpolated linearly on it
    where theirs is another. A single file's voxels are held as `held` says.
    Raises ScanError, with the path and the reason, for a file that is missing, damaged, not NIfTI or larger than
    memory, for a wrong number of channels, for voxels that are complex, not finite or all equal, for a header whose
    affine cannot be a grid, and for channels that do not overlap.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    if len(paths) == 1:
        return _read_file(paths[0], channels, held)
    if len(paths) != channels:
        given = ", ".join(map(str, paths))
        raise ScanError(
            f"{len(paths)} files ({given}) where {channels} channel(s) are expected; give one file for each"
        )
    first = _read_file(paths[0], 1, as_float32)
    voxels = np.empty((channels, *first.grid.shape), np.float32)
    voxels[0] = first.voxels[0]
    # What was read of one file is let go of before the next one is.
    first = replace(first, voxels=voxels)
    for number, path in enumerate(paths[1:], 1):
        voxels[number] = _read_onto(path, first.grid)
    return first


def _read_onto(path: Path, grid: Grid) -> Floats:
    """Return the voxels (X, Y, Z) of a file of one channel on another grid."""
    one = _read_file(path, 1, as_float32)
    onto: Floats = resample_onto(one.voxels, one.grid, grid, one.name)[0]
    return onto


def _read_file(path: Path, channels: int, held: Held) -> Volume:
    with np.errstate(over="ignore"):
        voxels, grid = read_voxels(path, channels, held)
    for number, (low, high) in enumerate((c.min(), c.max()) for c in voxels):
        if not np.isfinite([low, high]).all():
            raise ScanError(f"{path}: some voxels are NaN or infinite; repair the scan first")
        if low == high:
            raise ScanError(f"{path}: all voxels of channel {number} are {low:g}, so there is nothing to see")
    return Volume(voxels, grid, str(path))


def check_pair(scan: Volume, labels: LabelMap) -> None:
    """Check that labels lie on their scan: equal shapes, and corners less than a hundredth of a voxel apart.

    Raises ScanError that names both.
    """
    if scan.grid.shape != labels.grid.shape:
        raise ScanError(f"{scan.name} has shape {scan.grid.shape}, but its labels {labels.name} {labels.grid.shape}")
    if not same_grid(scan.grid, labels.grid):
        apart = scan.grid.distance_mm(labels.grid)
        raise ScanError(
            f"{scan.name} and its labels {labels.name} lie up to {apart:.3g} mm apart: their affines differ"
        )


def normalise(voxels: Floats, intensity: Intensity, name: str = "the scan") -> Floats:
    """Return voxels (C, X, Y, Z) float32 with the intensity mode applied to each channel by itself.

    Raises ScanError, with `name`, when a channel has no spread to normalise by.
    """
    return _normaliser(voxels, intensity, name)(voxels)


def _normaliser(voxels: Floats, intensity: Intensity, name: str) -> Callable[[Floats], Floats]:
    """Return a function that normalises any part (C, x, y, z) of the voxels as `normalise` does the whole."""
    changes = [_change(channel, intensity, name) for channel in voxels]

    def normalise_part(part: Floats) -> Floats:
        out = np.empty(part.shape, np.float32)
        for change, channel, normalised in zip(changes, part, out, strict=True):
            change(channel, normalised)
        return out

    return normalise_part


def _change(channel: Floats, intensity: Intensity, name: str) -> Callable[[Floats, Floats], None]:
    """Return a function of voxels and where to put them normalised, by what the whole channel holds."""
    if isinstance(intensity, ZScore):
        return partial(_zscore, nonzero=intensity.voxels == "nonzero", moments=_moments(channel, intensity, name))
    return partial(_window, limits=_limits(channel, intensity, name))


def _limits(channel: Floats, intensity: WindowHU | Percentile, name: str) -> tuple[float, float]:
    match intensity:
        case WindowHU():
            return intensity.window_hu
        case Percentile():
            low, high = np.percentile(channel.astype(np.float32, copy=False), intensity.percentiles).tolist()
            if low == high:
                raise ScanError(f"{name}: percentiles {intensity.percentiles} are both {low:g}; there is no contrast")
            return low, high
        case _:
            assert_never(intensity)


def _window(channel: Floats, out: Floats, limits: tuple[float, float]) -> None:
    low, high = limits
    np.clip(channel, low, high, out=out)
    out -= low
    out /= high - low


def _moments(channel: Floats, intensity: ZScore, name: str) -> tuple[np.float64, np.float64]:
    """Return mean and deviation."""

    def planes() -> Iterator[Matrix]:
        # float64, since float32 sums lose digits over millions of voxels; in planes, since that doubles a scan
        for plane in channel:
            yield (plane[plane != 0] if intensity.voxels == "nonzero" else plane).astype(float)

    count = max(sum(plane.size for plane in planes()), 1)
    mean = np.float64(sum(plane.sum() for plane in planes()) / count)
    deviation = np.sqrt(np.float64(sum(((plane - mean) ** 2).sum() for plane in planes()) / count))
    if not deviation > 0:
        raise ScanError(f"{name}: {intensity.voxels} voxels all have one value; there is no contrast")
    return mean, deviation


def _zscore(channel: Floats, out: Floats, moments: tuple[np.float64, np.float64], nonzero: bool) -> None:
    mean, deviation = moments
    where = channel != 0 if nonzero else np.True_
    out[...] = 0
    np.subtract(channel, mean, out=out, where=where)
    np.divide(out, deviation, out=out, where=where)


@dataclass(frozen=True, eq=False)
class Placed:
    """Where what a network sees of a scan lies, in RAS+, and the way back to the scan's own grid."""

    grid: Grid
    native: Grid
    source: Grid
    orientation: Orientation

    def restore(self, labels: Masks, names: Mapping[int, str] | None = None) -> LabelMap:
        """Return labels (X, Y, Z) of the prepared grid as a label map in the scan's own grid and axis order."""
        voxels = from_ras(resample_labels(labels, self.grid, self.native), self.orientation)
        return LabelMap(np.ascontiguousarray(voxels), self.source, dict(names or {}))

    def restore_regions(self, masks: Mapping[str, Masks]) -> RegionMap:
        """Return masks (X, Y, Z) of the prepared grid, by region, in the scan's own grid and axis order."""
        return RegionMap({name: self.restore(mask).voxels for name, mask in masks.items()}, self.source)


@dataclass(frozen=True, eq=False)
class Prepared(Placed):
    """What a network sees of a scan: voxels (C, X, Y, Z) float32 with their place."""

    voxels: Floats


@dataclass(frozen=True, eq=False)
class Streamed(Placed):
    """What a network sees of a scan, made of it slab by slab as windows go over it."""

    voxels: Slabbed


def prepare(scan: Volume, input: Input) -> Prepared:
    """Return the scan reoriented to RAS+, normalised on its own voxels, then resampled to `input.spacing_mm`.

    Raises ScanError when the channels do not match, when there is no contrast, or when memory would not suffice.
    """
    grid, slabs = prepare_slabs(scan, input)
    voxels = np.empty((len(scan.voxels), *grid.shape), np.float32)
    for part, slab in slabs:
        voxels[:, part] = slab
    _, native, orientation = to_ras(scan.voxels, scan.grid)
    return Prepared(grid, native, scan.grid, orientation, voxels)


def stream(scan: Volume, input: Input) -> Streamed:
    """Return what `prepare` returns, of which no more is held than a window needs.

    The scan's voxels may be whole numbers as they are stored. Raises ScanError when the channels do not match, or when
    there is no contrast.
    """
    grid, slabs = _slabs(scan, input)
    _, native, orientation = to_ras(scan.voxels, scan.grid)
    return Streamed(grid, native, scan.grid, orientation, Slabbed((len(scan.voxels), *grid.shape), slabs))


def prepare_slabs(scan: Volume, input: Input) -> tuple[Grid, Iterator[Slab]]:
    """Return the grid of what `prepare` returns, and its voxels slab by slab, so that nobody need hold them all.

    A slab is a slice along X, and its voxels (C, slab, Y, Z) float32. Raises ScanError as `prepare` does.
    """
    grid, slabs = _slabs(scan, input)
    _check_memory(scan, grid)
    return grid, slabs()


def _slabs(scan: Volume, input: Input) -> tuple[Grid, Callable[[], Iterator[Slab]]]:
    """Return the grid of what `prepare` returns, and a function that yields its slabs from the first one on."""
    if len(scan.voxels) != len(input.channels):
        expected = f"{len(input.channels)} ({', '.join(input.channels)})"
        raise ScanError(f"{scan.name}: {len(scan.voxels)} channel(s) where {expected} are expected")
    voxels, native, _ = to_ras(scan.voxels, scan.grid)
    normalise_part = _normaliser(voxels, input.intensity, scan.name)

    def take(planes: slice) -> Floats:
        return normalise_part(voxels[:, planes].astype(np.float32, copy=False))

    grid = spaced(native, input.spacing_mm, scan.name)
    return grid, lambda: resample_slabs(take, native, input.spacing_mm)


def _check_memory(scan: Volume, grid: Grid) -> None:
    need = 4 * len(scan.voxels) * int(np.prod([float(n) for n in grid.shape]))
    free = free_memory()
    if free is not None and need > free:
        spacing = " x ".join(f"{s:.3g}" for s in grid.spacing_mm)
        raise ScanError(f"{scan.name}: resampling to {spacing} mm needs {need / 1e9:.1f} GB, {free / 1e9:.1f} are free")


def prepare_labels(labels: LabelMap, spacing_mm: Sequence[float]) -> LabelMap:
    """Return the labels in RAS+ on the very grid that `prepare` gives their scan."""
    voxels, native, _ = to_ras(labels.voxels, labels.grid)
    grid = spaced(native, spacing_mm, labels.name)
    return replace(labels, voxels=np.ascontiguousarray(resample_labels(voxels, native, grid)), grid=grid)
