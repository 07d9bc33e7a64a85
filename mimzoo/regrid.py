"""Scans on the grid of another scan, however the two lie: how several files become the channels of one."""

from collections.abc import Sequence

import numpy as np

from mimzoo.errors import ScanError
from mimzoo.grids import Array, Floats, Grid

# Corner voxels of two grids may lie this share of a voxel apart and still be one grid: headers round to float32.
APART = 0.01
# Target voxels resampled at a time along X, which bounds memory.
SLAB = 8
# A position this far (voxels) outside the outermost voxel centres is still inside: each voxel reaches half-way around,
# and a little more, or rounding would speckle a plane of the target that lies just there.
REACH = 0.5 + APART


def same_grid(first: Grid, second: Grid) -> bool:
    """Return whether two grids have one shape and corners less than a hundredth of a voxel apart."""
    return first.shape == second.shape and first.distance_mm(second) <= APART * min(first.spacing_mm)


def resample_onto(voxels: Floats, grid: Grid, target: Grid, name: str = "the scan") -> Floats:
    """Return voxels (C, X, Y, Z) interpolated linearly at the voxel centres of `target`, oblique to `grid` or not.

    Where the scan does not reach, each channel has its least value, as air has. Equal grids return the same voxels.
    Raises ScanError, with `name`, when no voxel of the target lies within the scan, or when a header does not say
    where its grid lies.
    """
    if same_grid(grid, target):
        return voxels
    _check_placed(grid, target, name)
    between = np.linalg.solve(grid.affine, target.affine)
    out = np.empty((len(voxels), *target.shape), np.float32)
    out[:] = voxels.min(axis=(1, 2, 3), keepdims=True)
    reached = False
    for start in range(0, target.shape[0], SLAB):
        part = slice(start, min(start + SLAB, target.shape[0]))
        positions = _positions(between, part, target.shape)
        inside = _inside(positions, grid.shape)
        out[:, part][:, inside] = _interpolate(voxels, [p[inside] for p in positions])
        reached = reached or bool(inside.any())
    if not reached:
        raise ScanError(f"{name} and the grid it shall be brought to do not overlap anywhere; are they of one patient?")
    return out


def _check_placed(grid: Grid, target: Grid, name: str) -> None:
    """Refuse grids whose code (0) says that the affine is made up: left and right would be a guess."""
    if 0 in (grid.space, target.space):
        whose = "its header" if grid.space == 0 else "the other's header"
        raise ScanError(
            f"{name} lies on another grid than the one it shall be brought to, and {whose} does not say where that is "
            "(sform_code and qform_code are 0); set the affine there, or bring both to one grid first"
        )


def _positions(between: Array, part: slice, shape: Sequence[int]) -> list[Array]:
    """Return where the target voxels of a slab lie in the scan, in voxels: three arrays (slab, Y, Z)."""
    x, y, z = np.ogrid[part, : shape[1], : shape[2]]
    return [row[0] * x + row[1] * y + row[2] * z + row[3] for row in between[:3]]


def _inside(positions: Sequence[Array], shape: Sequence[int]) -> Array:
    checks = [(p >= -REACH) & (p <= n - 1 + REACH) for p, n in zip(positions, shape, strict=True)]
    inside: Array = np.logical_and.reduce(checks)
    return inside


def _interpolate(voxels: Floats, positions: Sequence[Array]) -> Floats:
    """Return the values (C, n) at n positions, those beyond the outermost voxel centres taken at these."""
    clipped = [np.clip(p, 0, n - 1) for p, n in zip(positions, voxels.shape[1:], strict=True)]
    low = [np.minimum(p.astype(np.intp), n - 2) for p, n in zip(clipped, voxels.shape[1:], strict=True)]
    share = [(p - i).astype(np.float32) for p, i in zip(clipped, low, strict=True)]
    total = np.zeros((len(voxels), len(low[0])), np.float32)
    for corner in np.ndindex(2, 2, 2):
        place = tuple(i + step for i, step in zip(low, corner, strict=True))
        weight = np.prod([s if step else 1 - s for s, step in zip(share, corner, strict=True)], axis=0)
        total += weight * voxels[(slice(None), *place)]
    return total
