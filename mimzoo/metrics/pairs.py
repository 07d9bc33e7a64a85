"""A predicted and a true mask, and what is measured between them: Dice, volume difference, HD95, surface Dice."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from mimzoo.metrics.boxes import Mask


@dataclass(frozen=True)
class Pair:
    """Masks (X, Y, Z) in their joint box, at most one of them empty; `diagonal_mm` is that of the whole image."""

    prediction: Mask
    truth: Mask
    spacing_mm: Sequence[float]
    diagonal_mm: float

    @property
    def one_is_empty(self) -> bool:
        """Whether the prediction or the truth holds nothing."""
        return not (self.prediction.any() and self.truth.any())


def dice(pair: Pair) -> float:
    """Return the Dice coefficient, 0..1."""
    both, predicted, true = (int(mask.sum()) for mask in (pair.prediction & pair.truth, pair.prediction, pair.truth))
    return 2 * both / (predicted + true)


def volume_difference(pair: Pair) -> float:
    """Return (predicted volume - true volume) / true volume; +1 where there is no true volume.

    Positive where too much was found. Relative volume difference of LiTS (Bilic et al. 2023, arXiv:1901.04056).
    """
    predicted, true = int(pair.prediction.sum()), int(pair.truth.sum())
    return (predicted - true) / true if true else 1.0


def hd95_mm(pair: Pair) -> float:
    """Return the larger of the two 95th percentiles of surface distances in mm; the image's diagonal if one is empty.

    MONAI computes it. It pads the box with background, so that cropping to it changes nothing, at the border of the
    image too.
    """
    if pair.one_is_empty:
        return pair.diagonal_mm
    spacing = [float(mm) for mm in pair.spacing_mm]
    with _without_monai_notice():
        found = compute_hausdorff_distance(*_tensors(pair), include_background=True, percentile=95, spacing=spacing)
    return float(found.item())


def surface_dice(pair: Pair, tolerance_mm: float) -> float:
    """Return the share of both surfaces, weighted by area, within `tolerance_mm` of the other; 0 if one is empty.

    Nikolov et al. 2018 (arXiv:1809.04430), computed by MONAI.
    """
    if pair.one_is_empty:
        return 0.0
    spacing = [float(mm) for mm in pair.spacing_mm]
    # Subvoxel: surface elements count by their area in mm², which voxel counts get wrong on anisotropic grids.
    with _without_monai_notice():
        found = compute_surface_dice(
            *_tensors(pair), [float(tolerance_mm)], include_background=True, spacing=spacing, use_subvoxels=True
        )
    return float(found.item())


def _tensors(pair: Pair) -> list[torch.Tensor]:
    # (X, Y, Z) -> (B=1, C=1, X, Y, Z)
    return [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (pair.prediction, pair.truth)]


@contextmanager
def _without_monai_notice() -> Iterator[None]:
    with warnings.catch_warnings():
        # MONAI warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        yield
