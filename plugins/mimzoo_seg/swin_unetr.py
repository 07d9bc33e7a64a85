"""The U-shaped decoder of Swin UNETR, for encoders whose maps form a pyramid."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.norms import Norm
from mimzoo.tokens import Size, sized
from mimzoo_seg.args import SwinUnetrArgs
from mimzoo_seg.maps import SLOPE

VOXEL: Size = (1, 1, 1)


class SwinUnetr(nn.Module):
    """The decoder of Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266), weight-compatible with MONAI's.

    Maps and the volume itself are refined by residual blocks (the second coarsest map is taken as it is), brought up
    by transposed convolutions, and joined with what comes from below by concatenation. MONAI's norms have no scale and
    shift: 1 and 0 here.
    Raises ShapeError for maps that form no pyramid: strides that do not rise, or do not divide one another.
    """

    # The two convolutions that read the volume have the input channels on axis 1.
    input_parameters = ("skips.0.conv1.weight", "skips.0.conv3.weight")

    def __init__(
        self, args: SwinUnetrArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        factors = _factors(strides)
        self.used_maps = tuple(range(len(channels)))
        widths = [args.width or channels[0], *channels]
        # What is joined at each level from the voxels to the second coarsest map, and what the decoder begins from.
        self.skips = nn.ModuleList([Residual(in_channels, widths[0], args.norm)])
        self.skips += [Residual(width, width, args.norm) for width in channels[:-2]]
        self.skips += [nn.Identity()] if len(channels) > 1 else []
        self.bottom = Residual(channels[-1], channels[-1], args.norm)
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(below, above, factor, factor, bias=False)
            for (above, below), factor in zip(pairwise(widths), factors, strict=True)
        )
        self.blocks = nn.ModuleList(Residual(2 * width, width, args.norm) for width in widths[:-1])
        self.logits = nn.Conv3d(widths[0], classes, 1)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) from an encoder's maps and the volume (B, C, X, Y, Z) they come from."""
        levels = [volume, *(found.contiguous() for found in maps)]
        x = self.bottom(levels[-1])
        for level in reversed(range(len(maps))):
            x = self.blocks[level](torch.cat([self.ups[level](x), self.skips[level](levels[level])], 1))
        logits: Tensor = self.logits(x)
        return logits


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside one of single voxels where the width changes."""

    def __init__(self, before: int, after: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = Norm(norm, after), Norm(norm, after)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.conv3 = nn.Conv3d(before, after, 1, bias=False) if before != after else nn.Identity()
        self.norm3 = Norm(norm, after) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined map (B, after, X, Y, Z)."""
        refined = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        result: Tensor = self.act(refined + self.norm3(self.conv3(x)))
        return result


def _factors(strides: Sequence[Size]) -> list[Size]:
    """Return by how much each level is finer than the next, from the voxels to the coarsest map."""
    factors: list[Size] = []
    for fine, coarse in pairwise([VOXEL, *strides]):
        factor = (coarse[0] // fine[0], coarse[1] // fine[1], coarse[2] // fine[2])
        whole = all(f * n == c for f, n, c in zip(factor, fine, coarse, strict=True))
        if not whole or (factors and factor == VOXEL):
            given = ", ".join(sized(stride) for stride in strides)
            raise ShapeError(
                f"the swin-unetr head takes a pyramid, whose maps get coarser by whole factors, but this encoder's "
                f"strides are {given}; the unetr head takes maps of one stride"
            )
        factors.append(factor)
    return factors
