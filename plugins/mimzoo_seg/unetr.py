"""A U-shaped decoder for encoders whose maps all have one stride, such as plain transformers."""

from collections.abc import Sequence

from torch import Tensor, nn

from mimzoo.norms import Norm
from mimzoo.tokens import Size
from mimzoo_seg.args import UnetrArgs
from mimzoo_seg.levels import climb, levels_of, taps_of
from mimzoo_seg.maps import SLOPE, convolve


class Unetr(nn.Module):
    """UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504) for any patch whose edges are powers of two.

    Levels halve the stride from the patch to single voxels; axes that reach 1 early stay there. Each level adds its
    skip to what comes from below and refines the sum by a residual block: maps of the encoder, brought up by transposed
    convolutions, at the levels between, the volume itself at full resolution. Sums where the paper concatenates halve
    the cost of the full-resolution convolutions, which outweigh all others.
    Raises ShapeError for maps of different strides, or strides that are no powers of two.
    """

    # The first convolution reads the volume, so that its axis 1 is the input channels.
    input_parameters = ("voxels.0.weight",)

    def __init__(
        self, args: UnetrArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        levels = levels_of("unetr", strides)
        # The coarsest level is the encoder's last map as it is: it was normed there, on all the channels of a cell.
        widths = [min(args.width * 2**level, args.max_width) for level in range(len(levels) - 1)] + [channels[-1]]
        self.taps = taps_of(levels, len(channels))
        self.used_maps = tuple(sorted({*self.taps, len(channels) - 1}))
        self.voxels = convolve(in_channels, widths[0], args.norm)
        self.skips = nn.ModuleList(
            _raise(channels[tap], widths, levels, level, args.norm) for level, tap in enumerate(self.taps, 1)
        )
        steps = range(len(levels) - 1)
        self.ups = nn.ModuleList(climb(widths[n + 1], widths[n], levels[n + 1], levels[n]) for n in steps)
        self.blocks = nn.ModuleList(Residual(widths[n], args.norm) for n in steps)
        self.logits = nn.Conv3d(widths[0], classes, 1)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) from an encoder's maps and the volume (B, C, X, Y, Z) they come from."""
        skips = [self.voxels(volume)]
        skips += [skip(maps[tap].contiguous()) for skip, tap in zip(self.skips, self.taps, strict=True)]
        x = maps[-1].contiguous()
        for up, block, skip in zip(reversed(self.ups), reversed(self.blocks), reversed(skips), strict=True):
            x = block(up(x) + skip)
        logits: Tensor = self.logits(x)
        return logits


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolve(width, width, norm), nn.Conv3d(width, width, 3, padding=1, bias=False), Norm(norm, width)
        )
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined map, of the same shape."""
        refined: Tensor = self.act(self.body(x) + x)
        return refined


def _raise(before: int, widths: Sequence[int], levels: Sequence[Size], level: int, norm: str) -> nn.Sequential:
    """Return the way of a map from the coarsest level up to `level`: transposed convolutions with norms between."""
    steps: list[nn.Module] = []
    for n in range(len(levels) - 2, level - 1, -1):
        steps += [
            climb(before, widths[n], levels[n + 1], levels[n]),
            Norm(norm, widths[n]),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
        before = widths[n]
    return nn.Sequential(*steps)
