"""A light head: the sum of all maps, one convolution, and logits brought to full resolution."""

from collections.abc import Sequence

from torch import Tensor, nn

from mimzoo.tokens import Size
from mimzoo_seg.args import ConvolutionArgs
from mimzoo_seg.maps import check_cells, check_strides, convolve
from mimzoo_seg.resizing import resize


class Convolution(nn.Module):
    """Every map brought to `width` and to the finest grid, and summed, as Panoptic FPN merges its levels.

    Kirillov et al. 2019, arXiv 1901.02446, but one convolution over the sum stands for those at each level.
    Raises ShapeError for strides that do not divide one another.
    """

    def __init__(
        self, args: ConvolutionArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        check_strides("convolution", strides)
        self.used_maps = tuple(range(len(channels)))
        self.laterals = nn.ModuleList(nn.Conv3d(before, args.width, 1, bias=False) for before in channels)
        self.refine = convolve(args.width, args.width, args.norm)
        self.logits = nn.Conv3d(args.width, classes, 1)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) from an encoder's maps and the volume (B, C, X, Y, Z) they come from.

        Raises ShapeError when the finest map is a single cell, of which instance norm makes 0.
        """
        x, *coarser = (lateral(found.contiguous()) for lateral, found in zip(self.laterals, maps, strict=True))
        for level in coarser:
            x = x + resize(level, x.shape[2:])
        check_cells("convolution", self.refine, x)
        return resize(self.logits(self.refine(x)), volume.shape[2:])
