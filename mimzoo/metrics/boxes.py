"""Smallest boxes around what is present, so that a small organ costs no more in a large scan."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


def box_of(mask: Mask) -> Box | None:
    """Return the smallest box of a mask (X, Y, Z); None for an empty one."""
    found = find_objects(mask.view(np.uint8))
    return found[0] if found else None


def joint(first: Box | None, second: Box | None) -> Box | None:
    """Return the smallest box that holds both; None when there is neither."""
    if first is None or second is None:
        return first or second
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
