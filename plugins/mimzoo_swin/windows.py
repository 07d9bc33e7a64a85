"""Where the windows of a grid lie: which cells each one holds, and which of them may attend to each other."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimzoo.tokens import Size

Array = NDArray[Any]

# What keeps cells apart that only the cyclic shift brought together. The public implementations add -100, and what is
# left of a weight then, 1e-44, is too small for a normal number: on a CPU such arithmetic takes several times longer.
APART = -1000.0


@dataclass(frozen=True)
class Group:
    """Consecutive windows `start` to `stop` that have the same cells padded and the same ones apart.

    `asking` (m,) are the places of their n cells that are no padding, None when all are; `mask` (m, n) is added to the
    logits of attention, None when there is nothing to keep apart.
    """

    start: int
    stop: int
    asking: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The windows of a grid of N cells: `count` windows of `size` cells, equal ones next to each other in `groups`.

    `cells` (count, size) are raster indices, N for what was padded; `back` (N,) is where each cell of the grid is among
    those that are no padding; `pairs` (size * size,) are the rows of the table of relative positions.
    """

    count: int
    size: int
    padded: bool
    cells: Tensor
    back: Tensor
    pairs: Tensor
    groups: tuple[Group, ...]


def layout(grid: Size, window: Size, shifted: bool, device: torch.device) -> Layout:
    """Return the windows of a grid, shifted by half a window or not: built once, always the very same tensors."""
    # While a graph is traced, tensors are made without values; such ones must not outlive it.
    if torch.compiler.is_compiling():
        return _build.__wrapped__(grid, window, shifted, device)
    # Nor may tensors made in inference mode, which no later training could use.
    with torch.inference_mode(False):
        return _build(grid, window, shifted, device)


@lru_cache(maxsize=256)
def _build(grid: Size, window: Size, shifted: bool, device: torch.device) -> Layout:
    """Return the windows of a grid as MONAI lays them.

    An axis that fits into one window has a window of its own length and is not shifted, and other axes are padded at
    their end to whole windows; the padding is attended to.
    """
    axes = list(zip(grid, window, strict=True))
    size = tuple(min(g, w) for g, w in axes)
    shift = tuple(w // 2 if shifted and g > w else 0 for g, w in axes)
    cells = _partition(np.roll(_cells(grid, size), [-s for s in shift], (0, 1, 2)), size)
    # Only windows at the far faces differ from the others, so that there are few kinds, however large the grid.
    regions = 2 * _partition(_regions(grid, size, shift), size) + (cells == prod(grid))
    kinds, kind = np.unique(regions, axis=0, return_inverse=True)
    cells = cells[np.argsort(kind.reshape(-1), kind="stable")]
    ends = np.cumsum([0, *np.bincount(kind.reshape(-1))]).tolist()
    groups = tuple(_group(ends[i], ends[i + 1], row, device) for i, row in enumerate(kinds))
    return Layout(
        count=len(cells),
        size=prod(size),
        padded=cells.size > prod(grid),
        cells=_tensor(cells, device),
        back=_tensor(np.argsort(cells[cells < prod(grid)]), device),
        pairs=_tensor(_pairs(window, prod(size)), device),
        groups=groups,
    )


def _group(start: int, stop: int, kind: Array, device: torch.device) -> Group:
    """Return windows whose cells (n,) have the number of their region doubled, and one more where they are padding."""
    (asking,) = np.nonzero(kind % 2 == 0)
    apart = kind[asking, None] // 2 != kind // 2
    mask = np.where(apart, np.float32(APART), np.float32(0))
    return Group(
        start,
        stop,
        asking=_tensor(asking, device) if len(asking) < len(kind) else None,
        mask=_tensor(mask, device) if apart.any() else None,
    )


def _tensor(array: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _cells(grid: Size, size: tuple[int, ...]) -> Array:
    """Return the raster indices of a grid, padded at its ends to whole windows by its number of cells."""
    ends = [(0, -g % s) for g, s in zip(grid, size, strict=True)]
    return np.pad(np.arange(prod(grid)).reshape(grid), ends, constant_values=prod(grid))


def _regions(grid: Size, size: tuple[int, ...], shift: tuple[int, ...]) -> Array:
    """Return a number for each cell of the shifted, padded grid; cells of one window attend where it is equal."""
    labels = []
    for g, w, s in zip(grid, size, shift, strict=True):
        place = np.arange(g + -g % w)
        # The last window of a shifted axis ends with the `s` cells that came around from the beginning.
        labels.append((place >= len(place) - s).astype(int) if s else np.zeros(len(place), int))
    x, y, z = labels
    # (PX, 1, 1) + (PY, 1) + (PZ,) -> (PX, PY, PZ)
    regions: Array = 4 * x[:, None, None] + 2 * y[:, None] + z
    return regions


def _partition(values: Array, size: tuple[int, ...]) -> Array:
    """Return the windows (W, n) of values on a padded grid, both in raster order."""
    counts = [n // s for n, s in zip(values.shape, size, strict=True)]
    # (PX, PY, PZ) -> (nx, wx, ny, wy, nz, wz) -> (nx, ny, nz, wx, wy, wz) -> (W, n)
    split = values.reshape([n for pair in zip(counts, size, strict=True) for n in pair])
    windows: Array = split.transpose(0, 2, 4, 1, 3, 5).reshape(prod(counts), prod(size))
    return windows


def _pairs(window: Size, count: int) -> Array:
    """Return, for each pair of a window's first `count` cells, the row of the table that holds their relative position.

    A window that was cut to a small grid is given the rows of the first cells of a whole one, as in MONAI, although
    their relative positions are others: weights are trained with it.
    """
    places = np.stack(np.unravel_index(np.arange(count), window), axis=1)
    # (n, 1, 3) - (1, n, 3) -> (n, n, 3), each from 0 to 2 w - 2
    apart = places[:, None] - places + np.array(window) - 1
    rows: Array = np.ravel_multi_index(tuple(apart.transpose(2, 0, 1)), [2 * w - 1 for w in window])
    return rows.reshape(-1)
