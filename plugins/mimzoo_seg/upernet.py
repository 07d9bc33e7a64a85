"""UPerNet in 3D: a feature pyramid whose coarsest level sees the whole crop, for pyramids and plain transformers."""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn

from mimzoo.norms import Norm
from mimzoo.tokens import Size
from mimzoo_seg.args import UperNetArgs
from mimzoo_seg.maps import SLOPE, check_cells, check_strides, convolve
from mimzoo_seg.resizing import pool, resize

BINS = (1, 2, 3, 6)


class UperNet(nn.Module):
    """UPerNet (Xiao et al. 2018, arXiv 1807.10221): pyramid pooling, top-down additions, all levels fused.

    Maps that all have one stride are made into a pyramid first, as BEiT (Bao et al. 2022, arXiv 2106.08254) does for
    this head: the first is brought up 4 times, the second twice, as far as their stride allows; the others stay.
    Logits have the stride of the finest level and are brought to full resolution trilinearly, as in the paper.
    Raises ShapeError for strides that do not divide one another.
    """

    def __init__(
        self, args: UperNetArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        check_strides("upernet", strides)
        width, finer = args.width, zip(channels[:-1], _factors(strides)[:-1], strict=True)
        self.used_maps = tuple(range(len(channels)))
        self.laterals = nn.ModuleList(_lateral(before, width, factor, args.norm) for before, factor in finer)
        self.context = PyramidPooling(channels[-1], width)
        self.refine = nn.ModuleList(convolve(width, width, args.norm) for _ in channels[:-1])
        self.fuse = convolve(width * len(channels), width, args.norm)
        self.logits = nn.Conv3d(width, classes, 1)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) from an encoder's maps and the volume (B, C, X, Y, Z) they come from.

        Raises ShapeError when the finest level is a single cell, of which instance norm makes 0.
        """
        *finer, coarsest = (found.contiguous() for found in maps)
        levels = [lateral(found) for lateral, found in zip(self.laterals, finer, strict=True)]
        levels.append(self.context(coarsest))
        check_cells("upernet", self.fuse, levels[0])
        for n in reversed(range(len(finer))):
            levels[n] = levels[n] + resize(levels[n + 1], levels[n].shape[2:])
        refined = [*(refine(level) for refine, level in zip(self.refine, levels[:-1], strict=True)), levels[-1]]
        joined = torch.cat([resize(level, levels[0].shape[2:]) for level in refined], 1)
        return resize(self.logits(self.fuse(joined)), volume.shape[2:])


class PyramidPooling(nn.Module):
    """A map beside its means over 1, 2, 3 and 6 bins per axis (Zhao et al. 2017, arXiv 1612.01105).

    There is no norm: instance norm would make 0 of one bin, and of a map that is a single cell.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.bins = nn.ModuleList(nn.Sequential(nn.Conv3d(before, width, 1), nn.LeakyReLU(SLOPE)) for _ in BINS)
        self.join = nn.Sequential(
            nn.Conv3d(before + width * len(BINS), width, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined map (B, width, X, Y, Z) of x (B, before, X, Y, Z); no axis has more bins than cells."""
        grid = x.shape[2:]
        pooled = (pool(x, tuple(min(count, cells) for cells in grid)) for count in BINS)
        seen = [resize(branch(means), grid) for branch, means in zip(self.bins, pooled, strict=True)]
        joined: Tensor = self.join(torch.cat([x, *seen], 1))
        return joined


def _factors(strides: Sequence[Size]) -> list[Size]:
    """Return by how much every map is brought up: 4, 2, 1, 1 ... where all have one stride, else not at all."""
    wanted = [1] * len(strides)
    if len(set(strides)) == 1:
        wanted = [max(1, min(4, 2 ** (len(strides) - 1)) >> number) for number in range(len(strides))]
    return [(gcd(x, factor), gcd(y, factor), gcd(z, factor)) for (x, y, z), factor in zip(strides, wanted, strict=True)]


def _lateral(before: int, width: int, factor: Size, norm: str) -> nn.Sequential:
    """Return the way of a map to its level: a convolution of single cells, or transposed ones that each double it."""
    steps: list[nn.Module] = []
    while max(factor) > 1:
        step = (min(factor[0], 2), min(factor[1], 2), min(factor[2], 2))
        factor = (factor[0] // step[0], factor[1] // step[1], factor[2] // step[2])
        steps += [nn.ConvTranspose3d(before, width, step, step), Norm(norm, width), nn.LeakyReLU(SLOPE, inplace=True)]
        before = width
    return nn.Sequential(*(steps[:-2] or [nn.Conv3d(before, width, 1)]))
