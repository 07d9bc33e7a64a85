"""Voxel grids in the world: orientation, spacing, padding, and resampling between aligned grids."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray

from mimzoo.errors import ScanError, ShapeError

Array = NDArray[Any]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Masks = NDArray[np.uint8]
Shape = tuple[int, int, int]
Slices = tuple[slice, ...]

# A spacing this near the wanted one (mm) is left alone, as MONAI's Spacing does (AFFINE_TOL).
SPACING_TOLERANCE_MM = 1e-3
# How far (voxels) positions are moved to decide ties between labels; see `_nudge`.
NUDGE = 1e-3
# Target voxels resampled at a time along X, of labels and of scans: bounds the memory of resampling.
SLAB, THIN = 16, 8
# The longest axis of a resampled grid (a kilometre at 1 mm), and its most voxels (a terabyte of bytes).
LONGEST, MOST = 2**20, 2**40


@dataclass(frozen=True, eq=False)
class Forms:
    """Where a NIfTI header says that its voxels lie: those `fields` of it, by name, as they stand there.

    `sform` and `qform` are the affines (4, 4) that they stand for; None where the code is 0, or no affine comes out.
    """

    fields: Mapping[str, Array]
    sform: Matrix | None
    qform: Matrix | None


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: shape (X, Y, Z), affine (4, 4) from voxel index to world mm (RAS+), NIfTI code of that world.

    `forms` are those of the header that it was read from, None for a grid that was made otherwise.
    """

    shape: Shape
    affine: Matrix
    space: int = 2
    forms: Forms | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance between neighbouring voxel centres along X, Y and Z, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def moved(self, shape: Shape, affine: Matrix) -> "Grid":
        """Return a grid of the same world, which is no longer that of a header."""
        return replace(self, shape=shape, affine=affine, forms=None)

    def distance_mm(self, other: "Grid") -> float:
        """Return how far apart (mm) the two affines put the corner voxels of this grid, at most."""
        corners = np.array([(x, y, z, 1) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        corners[:, :3] *= np.array(self.shape) - 1
        offsets = corners @ (self.affine - other.affine).T
        return float(np.linalg.norm(offsets[:, :3], axis=1).max())


@dataclass(frozen=True)
class Orientation:
    """How RAS+ axes lie in a scan: RAS axis i is the scan's axis `axes[i]`, reversed where `flips[i]`."""

    axes: Shape
    flips: tuple[bool, bool, bool]


def to_ras(voxels: Array, grid: Grid) -> tuple[Array, Grid, Orientation]:
    """Return voxels (..., X, Y, Z) with axes reordered and reversed to the closest RAS+, their grid, and what was done.

    Oblique rotation stays in the affine: no voxel is interpolated. The voxels are a view.
    """
    ornt = orientations.io_orientation(grid.affine)
    x, y, z = np.argsort(ornt[:, 0]).tolist()
    done = Orientation((x, y, z), (bool(ornt[x, 1] < 0), bool(ornt[y, 1] < 0), bool(ornt[z, 1] < 0)))
    affine = grid.affine @ orientations.inv_ornt_aff(ornt, grid.shape)
    shape = (grid.shape[x], grid.shape[y], grid.shape[z])
    return _reverse(_permute(voxels, done.axes), done.flips), grid.moved(shape, affine), done


def from_ras(voxels: Array, orientation: Orientation) -> Array:
    """Return voxels (..., X, Y, Z) in the axes they had before `to_ras`, as a view."""
    back = tuple(int(a) for a in np.argsort(orientation.axes))
    return _permute(_reverse(voxels, orientation.flips), back)


def _permute(voxels: Array, axes: Sequence[int]) -> Array:
    leading = voxels.ndim - 3
    # (..., a, b, c) -> (..., X, Y, Z)
    return voxels.transpose(*range(leading), *(leading + a for a in axes))


def _reverse(voxels: Array, flips: Sequence[bool]) -> Array:
    return voxels[(..., *(slice(None, None, -1 if flip else None) for flip in flips))]


def spaced(grid: Grid, spacing_mm: Sequence[float], name: str = "the scan") -> Grid:
    """Return the grid with the same first voxel and directions that covers `grid` at `spacing_mm`.

    Shape and origin are those of MONAI's Spacing(diagonal=False): the centres of the first voxels coincide and the
    last ones lie at most half a new voxel apart. Shear is kept, so that resampling stays separable.
    Raises ScanError, with `name`, where that would be more voxels than anyone holds, as of a damaged header.
    """
    ratio = np.array([_ratio(old, new) for old, new in zip(grid.spacing_mm, spacing_mm, strict=True)])
    # Rounding to 6 digits first keeps ties (x.5) from being decided by the last bit of the affine.
    lengths = np.round(np.round((np.array(grid.shape) - 1) / ratio + 1, 6)).tolist()
    if not (max(lengths) <= LONGEST and prod(lengths) <= MOST):
        found, own, wanted = (" x ".join(f"{n:.6g}" for n in row) for row in (lengths, grid.spacing_mm, spacing_mm))
        raise ScanError(
            f"{name}: {found} voxels of {wanted} mm are more than can be held; is the spacing of {own} mm in its "
            "header right?"
        )
    x, y, z = map(int, lengths)
    affine = grid.affine.copy()
    affine[:3, :3] *= ratio
    return grid.moved((x, y, z), affine)


def _ratio(old: float, new: float) -> float:
    return 1.0 if abs(old - new) <= SPACING_TOLERANCE_MM else new / old


def resample_linear(voxels: Floats, grid: Grid, spacing_mm: Sequence[float]) -> tuple[Floats, Grid]:
    """Return voxels (C, X, Y, Z) interpolated linearly at `spacing_mm`, and their grid (see `spaced`).

    Beyond the last voxel its value is repeated. Equal spacing returns the very same voxels.
    """
    target = spaced(grid, spacing_mm)
    if all(_is_identity(p, n) for p, n in zip(_positions(grid, target), grid.shape, strict=True)):
        return voxels, target
    out = np.empty((len(voxels), *target.shape), voxels.dtype)
    for part, slab in resample_slabs(lambda planes: voxels[:, planes], grid, spacing_mm):
        out[:, part] = slab
    return out, target


def resample_slabs(
    take: Callable[[slice], Floats], grid: Grid, spacing_mm: Sequence[float]
) -> Iterator[tuple[slice, Floats]]:
    """Yield what `resample_linear` returns slab by slab: where along X, and the voxels (C, slab, Y, Z) there.

    `take` returns the voxels (C, planes, Y, Z) of a slice of `grid` along X, so that nobody need hold them all.
    """
    target = spaced(grid, spacing_mm)
    positions = _positions(grid, target)
    # Shrinking axes first leaves the least work for the others; the result is the same in any order.
    order = sorted(range(3), key=lambda a: target.shape[a] / grid.shape[a])
    axes = [a for a in order if not _is_identity(positions[a], grid.shape[a])]
    for start in range(0, target.shape[0], THIN):
        part = slice(start, min(start + THIN, target.shape[0]))
        planes = _planes(positions[0][part], grid.shape[0]) if 0 in axes else part
        inside = [positions[0][part] - planes.start, *positions[1:]]
        voxels = take(planes)
        for axis in axes:
            voxels = _interpolate(voxels, axis + 1, inside[axis])
        yield part, voxels


def _planes(positions: Matrix, length: int) -> slice:
    """Return the source planes that (rising) positions lie between, two at least."""
    return slice(min(int(positions[0]), length - 2), min(int(positions[-1]) + 2, length))


def resample_labels(labels: Masks, grid: Grid, target: Grid) -> Masks:
    """Return labels (X, Y, Z) on `target`, which shares the directions of `grid`.

    Each class's indicator is interpolated linearly and the largest wins; ties are decided without favouring any class.
    Equal grids return the very same labels. Works through slabs of the target, and through each class's bounding box
    therein, to keep memory small.
    """
    positions = _positions(grid, target)
    if all(_is_identity(p, n) for p, n in zip(positions, labels.shape, strict=True)):
        return labels
    positions = [_nudge(p) for p in positions]
    out = np.zeros(target.shape, np.uint8)
    for start in range(0, target.shape[0], SLAB):
        part = slice(start, start + SLAB)
        out[part] = _largest(labels, [positions[0][part], *positions[1:]])
    return out


def _nudge(positions: Matrix) -> Matrix:
    """Return positions moved a little back in even cells and forth in odd ones.

    At spacing ratios such as 1.5 and 2 whole faces of a structure lie half-way between two voxels. Were ties always
    given to one class (the background), structures would lose up to a third of their volume on the way to a coarser
    grid and back; this way half the faces grow, half shrink, and nothing shifts.
    """
    steps = np.diff(positions)
    # never as far as the next position, so that they keep rising
    most = NUDGE * steps[steps > 0].min(initial=1.0)
    nudged: Matrix = np.clip(positions + np.where(positions.astype(int) % 2, most, -most), 0, positions[-1])
    return nudged


def _largest(labels: Masks, positions: list[Matrix]) -> Masks:
    region, positions = _crop(labels.shape, positions)
    labels = labels[region]
    out = np.zeros([len(p) for p in positions], np.uint8)
    best = np.zeros(out.shape, np.float32)
    for value in np.unique(labels):
        for box, share in _share(labels == value, positions):
            wins = share > best[box]
            best[box][wins] = share[wins]
            out[box][wins] = value
    return out


def _share(indicator: NDArray[np.bool_], positions: list[Matrix]) -> Iterator[tuple[Slices, Floats]]:
    """Yield where a class can reach in the target, and its interpolated indicator there."""
    boxes = [_reach(indicator, axis, p) for axis, p in enumerate(positions)]
    if all(box.stop > box.start for box in boxes):
        region, inside = _crop(indicator.shape, [p[box] for p, box in zip(positions, boxes, strict=True)])
        share = indicator[region].astype(np.float32)
        for axis in range(3):
            share = _interpolate(share, axis, inside[axis])
        yield tuple(boxes), share


def _reach(indicator: NDArray[np.bool_], axis: int, positions: Matrix) -> slice:
    """Return the target indices along `axis` less than one source voxel from the class."""
    found = np.flatnonzero(indicator.any(axis=tuple(a for a in range(3) if a != axis)))
    first, last = np.searchsorted(positions, [found[0] - 1, found[-1] + 1], side="right")
    return slice(int(first), int(last))


def _crop(shape: Sequence[int], positions: list[Matrix]) -> tuple[Slices, list[Matrix]]:
    """Return the source region that the (rising) positions need, and the positions within it."""
    starts = [int(p[0]) for p in positions]
    stops = [min(int(p[-1]) + 2, n) for p, n in zip(positions, shape, strict=True)]
    region = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    return region, [p - start for p, start in zip(positions, starts, strict=True)]


def _positions(grid: Grid, target: Grid) -> list[Matrix]:
    """Return, per axis, where the target's voxels lie in the grid (in voxels), kept inside it."""
    if target is grid:
        return [np.arange(n, dtype=float) for n in grid.shape]
    between = np.linalg.solve(grid.affine, target.affine)
    scale = np.diag(between)[:3]
    if not np.allclose(between[:3, :3], np.diag(scale), atol=1e-3) or (scale <= 0).any():
        raise ShapeError("labels can only be resampled between grids whose axes point the same way; reorient first")
    lines = [between[a, 3] + scale[a] * np.arange(target.shape[a]) for a in range(3)]
    # Solving for the affine leaves noise in the last bits; without it equal grids are exactly equal.
    return [np.clip(np.round(line, 9), 0, n - 1) for line, n in zip(lines, grid.shape, strict=True)]


def _is_identity(positions: Matrix, length: int) -> bool:
    return len(positions) == length and np.array_equal(positions, np.arange(length))


def _interpolate(voxels: Floats, axis: int, positions: Matrix) -> Floats:
    if _is_identity(positions, voxels.shape[axis]):
        return voxels
    low = positions.astype(int)
    high = np.minimum(low + 1, voxels.shape[axis] - 1)
    weight = (positions - low).astype(np.float32)
    # (n,) -> (n, 1, ...) so that it lies along `axis`
    weight = weight.reshape(-1, *[1] * (voxels.ndim - axis - 1))
    below = voxels.take(low, axis)
    above = voxels.take(high, axis)
    above -= below
    above *= weight
    below += above
    return below


def pad_to(voxels: Array, size: Sequence[int], value: ArrayLike) -> tuple[Array, Slices]:
    """Return voxels (C, X, Y, Z) padded on both sides to at least `size`, and the slices that crop them back.

    `value` is one number or one per channel. Axes already long enough are left alone; an odd voxel goes to the end.
    """
    missing = [max(want - have, 0) for want, have in zip(size, voxels.shape[1:], strict=True)]
    starts = [m // 2 for m in missing]
    inside = (slice(None), *(slice(s, s + n) for s, n in zip(starts, voxels.shape[1:], strict=True)))
    if not any(missing):
        return voxels, inside
    out = np.empty([len(voxels), *(n + m for n, m in zip(voxels.shape[1:], missing, strict=True))], voxels.dtype)
    # (C,) or () -> (C, 1, 1, 1)
    out[:] = np.broadcast_to(value, len(voxels)).reshape(-1, 1, 1, 1)
    out[inside] = voxels
    return out, inside
