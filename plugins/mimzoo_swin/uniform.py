"""Dropping hidden units where one unit of every cell stays visible, so that those left make up a dense volume.

The uniform sampling of UM-MAE (Li et al. 2022, arXiv 2205.10063), in 3D and for any size of cell.
"""

from itertools import product
from math import prod

import torch
from torch import Tensor

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, gather_tokens, patchify, sized, unpatchify


def find_cell(mask: Tensor) -> Size:
    """Return the cell, in units, in which a mask (B, *units) hides all but one unit of every cell of every sample.

    Where several do, the one nearest to a cube. Raises ShapeError when there is none.
    """
    units = (mask.shape[1], mask.shape[2], mask.shape[3])
    visible = int((~mask[0]).sum())
    sides = [[n for n in range(1, u + 1) if u % n == 0] for u in units]
    cells = [(a, b, c) for a, b, c in product(*sides) if a * b * c * visible == prod(units)]
    for cell in sorted(cells, key=lambda cell: (max(cell), cell)):
        if bool((split_cells(~mask, cell).sum(2) == 1).all()):
            return cell
    raise ShapeError(
        f"the mask shows {visible} of {sized(units)} units, but not one in every cell of equal size, and this encoder "
        "can drop hidden units only then; use masking 'uniform', or objective 'simmim', which replaces them"
    )


def split_cells(values: Tensor, cell: Size) -> Tensor:
    """Return values (B, UX, UY, UZ) of units as (B, cells, units of a cell), both in raster order."""
    return patchify(values[:, None], cell)


def visible_units(mask: Tensor) -> tuple[Tensor, Size]:
    """Return the raster indices (B, n) of the units that a mask (B, *units) shows, one for each cell of their grid.

    Raises ShapeError when the mask is not uniform, see `find_cell`.
    """
    cell = find_cell(mask)
    order = torch.arange(mask[0].numel(), device=mask.device).reshape(1, *mask.shape[1:])
    # (1, cells, units of a cell) at (B, cells, 1) -> (B, cells)
    place = split_cells(mask, cell).int().argmin(2, keepdim=True)
    index = split_cells(order, cell).expand(len(mask), -1, -1).gather(2, place)[:, :, 0]
    return index, (mask.shape[1] // cell[0], mask.shape[2] // cell[1], mask.shape[3] // cell[2])


def gather_units(volume: Tensor, unit: Size, index: Tensor, grid: Size) -> Tensor:
    """Return the volume (B, C, *(grid * unit)) of the units at raster indices (B, n), laid on a grid of n cells."""
    size = (grid[0] * unit[0], grid[1] * unit[1], grid[2] * unit[2])
    return unpatchify(gather_tokens(patchify(volume, unit), index), unit, size)
