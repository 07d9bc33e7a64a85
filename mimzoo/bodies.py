"""Where in a scan the body lies, so that windows need not go over the air around it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimzoo.grids import Floats
from mimzoo.slabs import Slabbed
from mimzoo.sweep import Places

# Every so many voxels along each axis one is looked at.
THINNED = 4
# Body is what is brighter than this share of the way from the least value to the bright percentile.
SHARE, BRIGHT = 0.1, 99.0
# A plane belongs to the body when more than this share of its voxels do, so that single bright voxels do not matter.
LEAST_OF_PLANE = 1e-3
# The box reaches this share of the window beyond the body, on every side.
MARGIN = 1 / 8


def body_box(voxels: Floats | Slabbed, roi: Sequence[int]) -> Places:
    """Return where the body lies in voxels (C, X, Y, Z) that are nowhere smaller than the window `roi`: a box.

    Of every fourth voxel along each axis, those count that lie, in any channel, above a tenth of the way from the
    channel's least value to its 99th percentile. Along an axis the body reaches from the first to the last plane of
    which more than one voxel in a thousand counts. The box is larger by an eighth of the window and four voxels on
    each side, and at least as large as the window; where nothing counts it is the whole.
    """
    shape = voxels.shape[1:]
    bright = _bright(_thinned(voxels))
    found = []
    for axis, (length, window) in enumerate(zip(shape, roi, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        planes = np.flatnonzero(bright.mean(others) > LEAST_OF_PLANE)
        if not planes.size:
            planes = np.array([0, length // THINNED])
        margin = int(window * MARGIN) + THINNED
        first, stop = int(planes[0]) * THINNED - margin, int(planes[-1]) * THINNED + 1 + margin
        found.append(_at_least(max(first, 0), min(stop, length), window, length))
    x, y, z = found
    return x, y, z


def _thinned(voxels: Floats | Slabbed) -> Floats:
    """Return every fourth voxel along each axis."""
    if not isinstance(voxels, Slabbed):
        return voxels[:, ::THINNED, ::THINNED, ::THINNED]
    parts = [slab[:, -place.start % THINNED :: THINNED, ::THINNED, ::THINNED] for place, slab in voxels.slabs()]
    return np.concatenate(parts, axis=1)


def _bright(voxels: Floats) -> NDArray[np.bool_]:
    """Return which voxels (X, Y, Z) count as body in any channel."""
    low = voxels.min(axis=(1, 2, 3), keepdims=True)
    high = np.percentile(voxels, BRIGHT, axis=(1, 2, 3), keepdims=True)
    found: NDArray[np.bool_] = (voxels > low + SHARE * (high - low)).any(axis=0)
    return found


def _at_least(first: int, stop: int, size: int, length: int) -> slice:
    """Return a slice of at least `size` around another, within `length`."""
    missing = max(size - (stop - first), 0)
    first = min(max(first - missing // 2, 0), length - max(size, stop - first))
    return slice(first, max(stop, first + size))
