"""A shifted-window transformer on 3D patches, whose maps form a pyramid."""

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import (
    Encoder,
    Size,
    Tokens,
    check_volume,
    divide,
    expand_mask,
    gather_tokens,
    hide,
    patchify,
)
from mimzoo.transformer import embed_patches, initialise
from mimzoo_swin.args import SwinArgs
from mimzoo_swin.stage import Stage
from mimzoo_swin.uniform import find_cell, gather_units, visible_units


class SwinTransformer(Encoder):
    """The encoder of Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266), weight-compatible with MONAI's.

    One map of the patches, and one after each stage, which ends in a merging that halves all three axes and doubles
    the width; every map is layer-normed. Raises ShapeError when the crop is not divisible by the coarsest stride.
    """

    def __init__(self, args: SwinArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        factors = [2**i for i in range(len(args.depths) + 1)]
        self.channels = tuple(args.width * f for f in factors)
        self.strides = tuple((args.patch[0] * f, args.patch[1] * f, args.patch[2] * f) for f in factors)
        self.mask_unit = self.crop_multiple = self.strides[-1]
        divide(crop, self.crop_multiple, "the crop", "what this encoder needs:")
        self.token_width, self.in_channels = self.channels[-1], in_channels
        self.ends, self.depth = tuple(accumulate(args.depths)), sum(args.depths)
        self.patch = nn.Conv3d(in_channels, args.width, args.patch, args.patch)
        rates = [args.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]
        parts = [rates[end - depth : end] for end, depth in zip(self.ends, args.depths, strict=True)]
        self.stages = nn.ModuleList(Stage(args, number, part) for number, part in enumerate(parts))
        self.input_parameters = ("patch.weight",)
        initialise(self)

    @property
    def mask_width(self) -> int:
        """Return the width of the patch embedding, whose hidden patches the mask token replaces."""
        return self.channels[0]

    def check_mask(self, mask: Tensor, dropped: bool) -> None:
        """Raise ShapeError for a mask (B, *units) whose hidden units cannot be dropped, see `find_cell`."""
        if dropped:
            find_cell(mask)

    def depth_of(self, parameter_name: str) -> int:
        """Return the block of a parameter: 0 for the patch embedding; a merging goes with the block before it.

        Residual convolutions go with the block after them.
        """
        part, *rest = parameter_name.split(".")
        if part != "stages":
            return 0
        # How many blocks there are before this stage, and up to its end
        before, last = (0, *self.ends)[int(rest[0])], self.ends[int(rest[0])]
        if rest[1] == "merge":
            return last
        return before + 1 + (int(rest[2]) if rest[1] == "blocks" else 0)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return the maps (B, width * 2^i, X / (px * 2^i), ...) of a volume (B, C, X, Y, Z).

        Raises ShapeError for a wrong number of channels, or a crop not divisible by the coarsest stride.
        """
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        maps = [self._embed(volume)]
        for stage, stride in zip(self.stages, self.strides[:-1], strict=True):
            maps.append(stage(maps[-1], _cells(size, stride)))
        grids = [_cells(size, stride) for stride in self.strides]
        # (B, N, D) -> (B, D, GX, GY, GZ)
        return [torch.unflatten(_normed(x).transpose(1, 2), 2, grid) for x, grid in zip(maps, grids, strict=True)]

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume whose units are hidden where `mask` (B, *units) is True.

        With `mask_token` (mask_width,) it takes the place of the hidden patches. Without, the mask has to show one
        unit of every cell (see `visible_units`); those are laid side by side and make up the volume that is computed.
        Raises ShapeError when units are no multiple of `mask_unit`, or when units are to be dropped in any other way.
        """
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        hidden = expand_mask(mask, _cells(size, self.mask_unit))
        values = self._drop(volume, mask) if mask_token is None else self._replace(volume, hidden, mask_token)
        return Tokens(values, hidden, self.mask_unit, dropped=mask_token is None)

    def _replace(self, volume: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
        size = (volume.shape[2], volume.shape[3], volume.shape[4])
        cells = expand_mask(hidden, _cells(size, self.strides[0]))
        return self._tokens(hide(self._embed(volume), cells, mask_token), size)

    def _drop(self, volume: Tensor, mask: Tensor) -> Tensor:
        size = (volume.shape[2], volume.shape[3], volume.shape[4])
        index, grid = visible_units(mask)
        unit = _cells(size, (mask.shape[1], mask.shape[2], mask.shape[3]))
        dense = gather_units(volume, unit, index, grid)
        tokens = self._tokens(self._embed(dense), (dense.shape[2], dense.shape[3], dense.shape[4]))
        # Where each token comes from, gathered like the voxels: (1, 1, GX, GY, GZ) -> (B, n)
        cells = _cells(size, self.mask_unit)
        places = torch.arange(cells[0] * cells[1] * cells[2], device=mask.device).reshape(1, 1, *cells)
        return gather_tokens(
            tokens, gather_units(places, _cells(unit, self.mask_unit), index, grid).flatten(1).argsort(1)
        )

    def _tokens(self, x: Tensor, size: Size) -> Tensor:
        for stage, stride in zip(self.stages, self.strides[:-1], strict=True):
            x = stage(x, _cells(size, stride))
        return _normed(x)

    def _embed(self, volume: Tensor) -> Tensor:
        return embed_patches(patchify(volume, self.strides[0]), self.patch)


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _cells(size: Size, unit: Size) -> Size:
    return (size[0] // unit[0], size[1] // unit[1], size[2] // unit[2])
