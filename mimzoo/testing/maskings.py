"""What every masking strategy must do."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mimzoo.registry import find
from mimzoo.testing.common import check_refused, require, sample_volume
from mimzoo.tokens import Size, sized


def check_masking(
    name: str, args: Mapping[str, Any] | None = None, crop: Size = (64, 64, 64), mask_unit: Size = (8, 8, 8)
) -> None:
    """Check the registered masking `name` for encoders with that `mask_unit`; raise AssertionError if it fails.

    The mask's shape, one number of hidden units in all samples, and that the generator alone decides it.
    """
    spec = find("masking", name)
    masking = spec.load()(spec.check(args or {}))
    volume = sample_volume(crop, batch=4)

    def draw(seed: int) -> Tensor:
        mask: Tensor = masking(volume, torch.Generator().manual_seed(seed), mask_unit)
        return mask

    state = torch.get_rng_state()
    mask = draw(0)
    _check_mask(name, mask, crop, mask_unit)
    require(torch.equal(mask, draw(0)), name, "one seed gives two masks")
    require(any(not torch.equal(mask, draw(seed)) for seed in (1, 2, 3)), name, "all seeds give one mask")
    require(torch.equal(state, torch.get_rng_state()), name, "it draws from torch's global generator, not from its own")
    uneven = sample_volume((crop[0] + 1, crop[1], crop[2]))
    check_refused(name, lambda: masking(uneven, torch.Generator(), mask_unit), "a crop that no unit divides")


def _check_mask(name: str, mask: Tensor, crop: Size, mask_unit: Size) -> None:
    right = mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[0] == 4
    require(right, name, f"its mask is {mask.dtype} {sized(tuple(mask.shape))}, not bool (4, UX, UY, UZ)")
    fits = all(n % (u * m) == 0 for n, u, m in zip(crop, mask.shape[1:], mask_unit, strict=True))
    require(fits, name, f"its units are no multiples of the encoder's mask unit {sized(mask_unit)}")
    counts = set(mask.flatten(1).sum(1).tolist())
    require(len(counts) == 1, name, f"its samples hide different numbers of units: {sorted(counts)}")
    require(0 < min(counts) < mask[0].numel(), name, "it hides no unit, or every one")
