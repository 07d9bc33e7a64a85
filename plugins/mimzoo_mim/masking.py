"""Which units of a crop are hidden."""

from math import prod

import torch
from torch import Tensor

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, divide, sized
from mimzoo_mim.args import RandomArgs


class RandomMasking:
    """Hides the same share of the units of every sample, uniformly at random."""

    def __init__(self, args: RandomArgs) -> None:
        self.ratio, self.unit = args.ratio, args.unit

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the unit is no multiple of the encoder's `mask_unit`, the crop no multiple of the unit,
        or the ratio hides no unit or every one.
        """
        divide(self.unit, mask_unit, "the mask unit", "the smallest unit that this encoder can hide:")
        units = divide(tuple(volume.shape[2:]), self.unit, "the crop", "the mask unit")
        batch, hidden = volume.shape[0], self._hidden(units)
        order = torch.rand(batch, prod(units), generator=generator, device=generator.device).argsort(dim=1)
        # (batch, N) -> (batch, UX, UY, UZ)
        return (order < hidden).reshape(batch, *units)

    def _hidden(self, units: Size) -> int:
        count = prod(units)
        hidden = round(self.ratio * count)
        if 0 < hidden < count:
            return hidden
        what = "none" if hidden == 0 else "all"
        raise ShapeError(
            f"masking ratio {self.ratio} hides {what} of the {count} units ({sized(units)}) of a crop; "
            f"use smaller units than {sized(self.unit)}, a larger crop, or another ratio"
        )
