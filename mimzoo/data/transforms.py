"""Random transforms that MONAI does in voxels, or knows no sides in; they follow its transforms' conventions."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def rotation(angles: Sequence[float]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that rotates about X, then Y, then Z, by angles in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[b, a] = math.sin(angle) * (1 if axis != 1 else -1)
        turn[a, b] = -turn[b, a]
        matrix = turn @ matrix
    return matrix


def resample(tensor: Tensor, matrix_mm: NDArray[np.float64], spacing_mm: Sequence[float], nearest: bool) -> Tensor:
    """Return (C, X, Y, Z) where each voxel p (mm from the centre) has the value at matrix_mm @ p.

    Linear, or the nearest voxel's value; beyond the border the outermost voxels are repeated.
    """
    half_mm = np.array(tensor.shape[1:]) * spacing_mm / 2
    # torch counts positions in half extents, last axis first
    theta = (matrix_mm * half_mm / half_mm[:, None])[::-1, ::-1]
    # (3, 3) -> (1, 3, 4): no translation
    rows = torch.from_numpy(np.concatenate([theta, np.zeros((3, 1))], 1, dtype=np.float32))[None]
    grid = functional.affine_grid(rows, [1, *tensor.shape], align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    return functional.grid_sample(tensor[None].float(), grid, mode, "border", align_corners=False)[0].to(tensor.dtype)


class RandTurnd(RandomizableTransform, MapTransform):  # type: ignore[misc]  # MONAI ships no types
    """Rotation about each axis and one scale factor, in a single resampling; keys but the first are label maps.

    MONAI's RandAffined rotates voxel indices, which shears a scan whose spacing differs between axes.
    The factor lies between 1 / (1 + scale) and 1 + scale, evenly in its logarithm.
    """

    def __init__(
        self, keys: Sequence[str], prob: float, rotate_deg: float, scale: float, spacing_mm: Sequence[float]
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.radians, self.scale, self.spacing_mm = math.radians(rotate_deg), scale, spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the tensors (C, X, Y, Z) of the keys resampled alike."""
        items = dict(data)
        self.randomize(None)
        matrix = rotation(self.R.uniform(-self.radians, self.radians, 3))
        matrix *= (1 + self.scale) ** self.R.uniform(-1, 1)
        if self._do_transform:
            for key in self.key_iterator(items):
                items[key] = resample(items[key], matrix, self.spacing_mm, nearest=key != self.keys[0])
        return items


class RandSidesd(RandomizableTransform, MapTransform):  # type: ignore[misc]  # MONAI ships no types
    """Flip along X, left to right; keys but the first are label maps, in which each `pair` of labels changes places."""

    def __init__(self, keys: Sequence[str], prob: float, pairs: Sequence[tuple[int, int]]) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.pairs = pairs

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the tensors (C, X, Y, Z) of the keys flipped alike."""
        items = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(items):
                flipped = items[key].flip(1)
                items[key] = flipped if key == self.keys[0] else swap_labels(flipped, self.pairs)
        return items


def swap_labels(labels: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return a label map in which the two labels of each pair have changed places."""
    swapped = labels.clone()
    for one, other in pairs:
        swapped[labels == one] = other
        swapped[labels == other] = one
    return swapped


class RandBlurd(RandomizableTransform, MapTransform):  # type: ignore[misc]  # MONAI ships no types
    """Gaussian blur with a deviation of up to `blur_mm` along each axis.

    MONAI's RandGaussianSmoothd pads with zeros, so that the faces of a crop fade to 0; here they are repeated.
    """

    def __init__(self, keys: Sequence[str], prob: float, blur_mm: float, spacing_mm: Sequence[float]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.most = blur_mm / np.array(spacing_mm)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the tensors (C, X, Y, Z) of the keys blurred."""
        items = dict(data)
        self.randomize(None)
        kernels = [gaussian_1d(torch.tensor(sigma), normalize=True) for sigma in self.R.uniform(0, self.most)]
        if self._do_transform:
            for key in self.key_iterator(items):
                items[key] = separable_filtering(items[key][None], kernels, mode="replicate")[0]
        return items
