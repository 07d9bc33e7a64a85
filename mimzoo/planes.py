"""Planes through a volume in RAS+, laid out as radiologists read them: patient's right on the left, head up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Box = tuple[slice, slice, slice]

# Hounsfield units shown of a CT (soft tissue), and the value below which only air lies: no MR is scaled like that.
WINDOW_HU = (-160.0, 240.0)
AIR_HU = -500.0
PERCENTILES = (0.5, 99.5)
# Tissue shown around the labels.
MARGIN_MM = 40.0


@dataclass(frozen=True)
class Plane:
    """A plane across `axis`, with the volume's axes that run leftwards and upwards, and the letters of its edges."""

    name: str
    axis: int
    left: int
    up: int
    letters: str  # left, right, top, bottom

    def cut(self, volume: Array, index: int) -> Array:
        """Return the plane as an image (rows from the top, columns from the left) of a volume (X, Y, Z)."""
        # (left, up) -> (up, left); both axes rise towards R, A or S, which belong at the left and at the top
        image: Array = volume.take(index, self.axis).T[::-1, ::-1]
        return image

    def size_mm(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float]:
        """Return width and height of the image in mm."""
        return shape[self.left] * spacing_mm[self.left], shape[self.up] * spacing_mm[self.up]


AXIAL = Plane("Axial", axis=2, left=0, up=1, letters="RLAP")
CORONAL = Plane("Coronal", axis=1, left=0, up=2, letters="RLSI")
SAGITTAL = Plane("Sagittal", axis=0, left=1, up=2, letters="APSI")
PLANES = (AXIAL, CORONAL, SAGITTAL)


def grey_range(voxels: Array) -> tuple[float, float]:
    """Return the values to show as black and white: the soft-tissue window of a CT in HU, else two percentiles."""
    if voxels.min() <= AIR_HU:
        return WINDOW_HU
    low, high = np.percentile(voxels, PERCENTILES).tolist()
    return (low, high) if low < high else (float(voxels.min()), float(voxels.max()) + 1e-6)


def fullest(labels: Array, axis: int) -> int:
    """Return the index along `axis` whose plane shows most of all classes, each weighed by its own largest plane.

    Among equals the middle one is taken; without labels the middle of the volume.
    """
    others = tuple(other for other in range(3) if other != axis)
    shown = np.zeros(labels.shape[axis])
    for value in sorted(set(np.unique(labels).tolist()) - {0}):
        area = (labels == value).sum(others)
        shown += area / area.max()
    best = np.flatnonzero(shown >= shown.max() - 1e-9)
    return int(best[len(best) // 2])


def around(labels: Array, spacing_mm: Sequence[float]) -> Box:
    """Return the box that holds all labels and a margin; the whole volume when there are none."""
    x, y, z = (_span(labels, axis, ceil(MARGIN_MM / spacing_mm[axis])) for axis in range(3))
    return x, y, z


def _span(labels: Array, axis: int, margin: int) -> slice:
    found = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
    if not len(found):
        return slice(None)
    return slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, labels.shape[axis]))


def present(labels: Sequence[Array], names: Mapping[int, str]) -> list[int]:
    """Return the named values that occur in any of the label maps, in the order of the names."""
    found = {int(value) for voxels in labels for value in np.unique(voxels)}
    return [value for value in names if value in found]
