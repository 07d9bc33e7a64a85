"""The decoder of UNETR as it was published, for encoders whose maps all have one stride."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimzoo.norms import Norm
from mimzoo.tokens import Size
from mimzoo_seg.args import UnetrConcatArgs
from mimzoo_seg.levels import climb, levels_of, taps_of
from mimzoo_seg.maps import SLOPE
from mimzoo_seg.swin_unetr import Residual


class UnetrConcat(nn.Module):
    """The decoder of UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504), weight-compatible with MONAI's.

    Each level is joined with what comes from below by concatenation: the refined volume at full resolution, and between
    it and the patches a map of the encoder, brought up at the level's own width. MONAI's has patches of 16 voxels, its
    norms no scale and shift: 1 and 0 here. For other patches there are more levels or fewer.
    Raises ShapeError for maps of different strides, or strides that are no powers of two.
    """

    def __init__(
        self, args: UnetrConcatArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        levels = levels_of("unetr-concat", strides)
        make = Residual if args.residual else Plain
        self.taps = taps_of(levels, len(channels))
        self.used_maps = tuple(sorted({*self.taps, len(channels) - 1}))
        widths = [args.width * 2**level for level in range(len(levels) - 1)] + [channels[-1]]
        self.voxels = make(in_channels, widths[0], args.norm)
        self.skips = nn.ModuleList(
            _skip(channels[tap], widths[level], levels[level:], make if args.refine_skips else None, args.norm)
            for level, tap in enumerate(self.taps, 1)
        )
        steps = range(len(levels) - 1)
        self.ups = nn.ModuleList(climb(widths[n + 1], widths[n], levels[n + 1], levels[n], bias=False) for n in steps)
        self.blocks = nn.ModuleList(make(2 * widths[n], widths[n], args.norm) for n in steps)
        self.logits = nn.Conv3d(widths[0], classes, 1)
        # These read the volume, so that their axis 1 is the input channels; conv3 is not there at equal widths.
        reading = ("voxels.conv1.weight", "voxels.conv3.weight")
        self.input_parameters = tuple(name for name, _ in self.named_parameters() if name in reading)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) from an encoder's maps and the volume (B, C, X, Y, Z) they come from."""
        skips = [self.voxels(volume)]
        skips += [skip(maps[tap].contiguous()) for skip, tap in zip(self.skips, self.taps, strict=True)]
        x = maps[-1].contiguous()
        for up, block, skip in zip(reversed(self.ups), reversed(self.blocks), reversed(skips), strict=True):
            x = block(torch.cat([up(x), skip], 1))
        logits: Tensor = self.logits(x)
        return logits


class Plain(nn.Module):
    """Two convolutions, each with its norm and activation."""

    def __init__(self, before: int, after: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = Norm(norm, after), Norm(norm, after)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined map (B, after, X, Y, Z)."""
        refined: Tensor = self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))
        return refined


def _skip(
    before: int, width: int, levels: Sequence[Size], make: type[Residual] | type[Plain] | None, norm: str
) -> nn.Sequential:
    """Return the way of a map from the coarsest of the levels up to the finest, refined by a block at each below."""
    way: list[nn.Module] = [climb(before, width, levels[-1], levels[-2], bias=False)]
    for fine, coarse in zip(reversed(levels[:-2]), reversed(levels[1:-1]), strict=True):
        step: list[nn.Module] = [climb(width, width, coarse, fine, bias=False)]
        way.append(nn.Sequential(*step, *([make(width, width, norm)] if make else [])))
    return nn.Sequential(*way)
