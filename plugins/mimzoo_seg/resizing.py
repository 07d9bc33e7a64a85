"""Resizing and pooling of maps in ways that export to ONNX as they are."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Matrix = NDArray[np.float64]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x (B, C, X, Y, Z) resized trilinearly to (B, C, *size), corners not aligned."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)


def pool(x: Tensor, bins: tuple[int, ...]) -> Tensor:
    """Return the means (B, C, *bins) of x (B, C, X, Y, Z) in each bin, those of `adaptive_avg_pool3d`.

    ONNX knows no bins that do not divide the grid, so the means are a product with a constant matrix.
    """
    # Worked out by numpy, so that an exported graph holds the matrix and not the way to it.
    weights = torch.from_numpy(_averaging(tuple(x.shape[2:]), bins)).to(x.device, x.dtype, non_blocking=True)
    # (B, C, X, Y, Z) -> (B, C, cells) -> (B, C, all bins) -> (B, C, *bins)
    return torch.unflatten(x.flatten(2) @ weights, 2, bins)


@lru_cache(maxsize=16)
def _averaging(cells: tuple[int, ...], bins: tuple[int, ...]) -> Matrix:
    """Return the weight of every cell in every bin, both in raster order: (X Y Z, all bins)."""
    x, y, z = (_along(before, after) for before, after in zip(cells, bins, strict=True))
    weights: Matrix = np.kron(np.kron(x, y), z)
    return weights


def _along(cells: int, bins: int) -> Matrix:
    """Return the weights (cells, bins) along one axis: equal in a bin, whose ends are rounded outwards."""
    cell, number = np.arange(cells)[:, None], np.arange(bins)
    inside = (cell >= number * cells // bins) & (cell < -(-(number + 1) * cells // bins))
    weights: Matrix = inside / inside.sum(0)
    return weights
