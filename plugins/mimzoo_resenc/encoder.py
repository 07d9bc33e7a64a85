"""The residual encoder of nnU-Net, which can leave hidden units out as SparK does."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.tokens import (
    Encoder,
    Size,
    Tokens,
    check_volume,
    divide,
    expand_mask,
    gather_tokens,
    sized,
    spread_mask,
    visible_index,
)
from mimzoo_resenc.args import ResEncArgs
from mimzoo_resenc.blocks import ConvNorm, Stage, initialise, rectify


class ResidualEncoder(Encoder):
    """The encoder of nnU-Net ResEnc (Isensee et al. 2024, arXiv 2404.09556): a stem, then stages of residual blocks.

    Computes what ResidualEncoder of dynamic-network-architectures does with BasicBlockD, kernel 3, instance norm and
    leaky ReLU. The output of every stage is a map, and the cells of the last are the tokens. Raises ShapeError when the
    crop is not divisible by the last map's stride, or is that of a single cell.
    """

    def __init__(self, args: ResEncArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        steps = args.stage_strides()
        self.channels, self.blocks, self.in_channels = args.features, args.blocks, in_channels
        self.strides = tuple(accumulate(steps, lambda a, b: (a[0] * b[0], a[1] * b[1], a[2] * b[2])))
        self.mask_unit = self.crop_multiple = self.strides[-1]
        self.token_width, self.depth = args.features[-1], sum(args.blocks)
        self._grid(crop)
        self.stem = ConvNorm(in_channels, args.features[0])
        inputs = (args.features[0], *args.features[:-1])
        sizes = zip(args.blocks, inputs, args.features, steps, strict=True)
        self.stages = nn.ModuleList(Stage(*size) for size in sizes)
        self.input_parameters = ("stem.conv.weight",)
        initialise(self)

    @property
    def mask_width(self) -> int:
        """Return the size of the mask token: the width of the stem, whose cells it replaces."""
        return self.channels[0]

    def depth_of(self, parameter_name: str) -> int:
        """Return the block of a parameter, counted through all stages: 0 for the stem."""
        part, _, rest = parameter_name.partition(".")
        if part == "stem":
            return 0
        stage, _, block = rest.split(".")[:3]
        return sum(self.blocks[: int(stage)]) + int(block) + 1

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return a map (B, features[i], X / sx, Y / sy, Z / sz) for each stage of a volume (B, C, X, Y, Z).

        Raises ShapeError for a wrong number of channels, or a crop that does not fit the last map's stride.
        """
        self._grid(check_volume(volume, self.in_channels, self.crop_multiple))
        return self._stages(rectify(self.stem(volume)))

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume whose units are hidden where `mask` (B, *units) is True.

        Hidden voxels are set to 0 first, so that no convolution reads them. Without `mask_token` every convolution then
        reads visible positions only, and every norm takes the statistics of those, as in SparK (Tian et al. 2023, arXiv
        2301.03580); dense convolutions whose hidden outputs are set to 0 stand for sparse ones, as in its public
        implementation, so that this saves no time. With a token, it replaces the hidden cells behind the stem.
        Raises ShapeError when units are no multiple of the last map's stride, or are dropped in different numbers or
        down to a single cell.
        """
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        hidden = expand_mask(mask, self._grid(size))
        volume = volume.masked_fill(spread_mask(hidden, size, volume), 0)
        if mask_token is None:
            return Tokens(self._drop(volume, hidden), hidden, self.mask_unit, dropped=True)
        return Tokens(self._replace(volume, hidden, mask_token), hidden, self.mask_unit, dropped=False)

    def _drop(self, volume: Tensor, hidden: Tensor) -> Tensor:
        kept, size = visible_index(hidden), tuple(volume.shape[2:])
        _check_cells(kept.shape[1], "the mask", "hide less")
        grids = (divide(size, stride, "the crop", "a map's stride") for stride in self.strides)
        whole, *parts = (~spread_mask(hidden, grid, volume) for grid in (size, *grids))
        maps = self._stages(rectify(self.stem(volume, whole)), parts)
        # (B, D, GX, GY, GZ) -> (B, N, D), the visible of which are kept
        return gather_tokens(maps[-1].flatten(2).transpose(1, 2), kept)

    def _replace(self, volume: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
        x = rectify(self.stem(volume))
        # (width,) -> (1, width, 1, 1, 1)
        token = mask_token.to(x.dtype).view(1, -1, 1, 1, 1)
        maps = self._stages(torch.where(spread_mask(hidden, tuple(x.shape[2:]), x), token, x))
        # (B, D, GX, GY, GZ) -> (B, N, D)
        return maps[-1].flatten(2).transpose(1, 2)

    def _stages(self, x: Tensor, visible: Sequence[Tensor | None] | None = None) -> list[Tensor]:
        maps = []
        for stage, seen in zip(self.stages, visible or [None] * len(self.stages), strict=True):
            x = stage(x, seen)
            maps.append(x)
        return maps

    def _grid(self, crop: Size) -> Size:
        grid = divide(crop, self.crop_multiple, "the crop", "the last map's stride")
        _check_cells(prod(grid), f"the crop {sized(crop)}", f"a cell is {sized(self.crop_multiple)}, use a larger crop")
        return grid


def _check_cells(count: int, what: str, advice: str) -> None:
    if count < 2:
        raise ShapeError(f"{what} leaves {count} cell of the last map, of which instance norm makes 0; {advice}")
