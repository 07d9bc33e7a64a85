"""Voxels that come slab by slab, of which no more are held than the window that is looked at needs."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from mimzoo.grids import Floats

# Where along X, and the voxels (C, slab, Y, Z) there.
Slab = tuple[slice, Floats]


class Slabbed:
    """Voxels of `shape` (C, X, Y, Z) float32 that `slabs()` yields in rising order along X.

    `voxels[:, x, y, z]` with slices of given ends is an array of its own, as `whole()` is. What lies before x is let
    go of; to ask for it again begins the slabs anew.
    """

    def __init__(self, shape: tuple[int, int, int, int], slabs: Callable[[], Iterator[Slab]]) -> None:
        self.shape, self.slabs = shape, slabs
        self._begin()

    def __getitem__(self, places: tuple[slice, ...]) -> Floats:
        _, along_x, *others = places
        self._hold(along_x)
        sizes = [part.stop - part.start for part in places[1:]]
        found = np.empty((self.shape[0], *sizes), np.float32)
        for place, voxels in self.held:
            first, stop = max(place.start, along_x.start), min(place.stop, along_x.stop)
            if first >= stop:
                break
            there = voxels[(slice(None), slice(first - place.start, stop - place.start), *others)]
            found[:, first - along_x.start : stop - along_x.start] = there
        return found

    def whole(self) -> Floats:
        """Return all voxels."""
        return self[tuple(slice(0, length) for length in self.shape)]

    def _begin(self) -> None:
        self.coming, self.held = self.slabs(), deque[Slab]()
        self.gone = self.reached = 0

    def _hold(self, along_x: slice) -> None:
        """Hold the slabs that a slice along X reaches into, and none before them."""
        if along_x.start < self.gone:
            self._begin()
        while self.held and self.held[0][0].stop <= along_x.start:
            self.gone = self.held.popleft()[0].stop
        while self.reached < along_x.stop:
            place, voxels = next(self.coming)
            self.reached = place.stop
            if place.stop > along_x.start:
                self.held.append((place, voxels))
            else:
                self.gone = place.stop
