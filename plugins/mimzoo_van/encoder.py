"""The visual attention network in 3D: convolutions alone, gated by what lies within a large kernel."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.tokens import Encoder, Size, Tokens, check_volume, divide, expand_mask, spread_mask
from mimzoo_van.args import VanArgs
from mimzoo_van.blocks import Embedding, Stage, initialise


class VisualAttentionNetwork(Encoder):
    """VAN (Guo et al. 2022, arXiv 2202.09741) in 3D, as Chen et al. 2022 (arXiv 2204.11716) pretrain it.

    The normed output of every stage is a map, and the cells of the last are the tokens. Two defaults depart from the
    paper. The stem keeps VAN's kernel of 7 voxels, but its stride is 2, not 4: what is to be segmented is often only a
    few voxels wide, and would be lost in a first map of stride 4. And in place of batch norm, which wants many samples
    and makes the crops of a batch depend on each other, there is group norm, for crops come in twos. The paper's are
    `stride=(4, 4, 4)` and `norm="batch"`. Raises ShapeError when the crop is not divisible by the last map's stride.
    """

    def __init__(self, args: VanArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        self.channels, self.depths, self.in_channels = args.widths, args.depths, in_channels
        x, y, z = args.stride
        self.strides = tuple((x << i, y << i, z << i) for i in range(len(args.widths)))
        self.mask_unit = self.crop_multiple = self.strides[-1]
        self.token_width, self.depth = args.widths[-1], sum(args.depths)
        divide(crop, self.crop_multiple, "the crop", "the last map's stride")
        self.stem = Embedding(in_channels, args.widths[0], 7, args.stride, args.norm)
        later = (Embedding(a, b, 3, (2, 2, 2), args.norm) for a, b in pairwise(args.widths))
        sizes = zip((nn.Identity(), *later), args.widths, args.depths, args.mlp_ratios, strict=True)
        self.stages = nn.ModuleList(Stage(*size, args.norm) for size in sizes)
        self.input_parameters = ("stem.conv.weight",)
        initialise(self)

    @property
    def mask_width(self) -> int:
        """Return the size of the mask token: the width of the stem, whose cells it replaces."""
        return self.channels[0]

    def depth_of(self, parameter_name: str) -> int:
        """Return the block of a parameter, counted through all stages: 0 for the stem.

        An embedding counts as its stage's first block, a norm behind the blocks as its last.
        """
        part, _, rest = parameter_name.partition(".")
        if part == "stem":
            return 0
        stage, part, block = rest.split(".")[:3]
        first = sum(self.depths[: int(stage)]) + 1
        last = first + self.depths[int(stage)] - 1
        return {"embedding": first, "norm": last}.get(part) or first + int(block)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return a map (B, widths[i], X / sx, Y / sy, Z / sz) for each stage of a volume (B, C, X, Y, Z).

        Raises ShapeError for a wrong number of channels, or a crop not divisible by the last map's stride.
        """
        check_volume(volume, self.in_channels, self.crop_multiple)
        return self._stages(self.stem(volume))

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume whose units are hidden where `mask` (B, *units) is True.

        Hidden voxels are set to 0, so that the stem, whose patches overlap, does not read them; then `mask_token`
        replaces the hidden cells of the stem. Raises ShapeError without a token, for the kernels are too large to leave
        anything out, and when units are no multiple of the last map's stride.
        """
        if mask_token is None:
            raise ShapeError("a visual attention network can only replace hidden units; use mode replace")
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        hidden = expand_mask(mask, divide(size, self.crop_multiple, "the crop", "the last map's stride"))
        x = self.stem(volume.masked_fill(spread_mask(hidden, size, volume), 0))
        # (width,) -> (1, width, 1, 1, 1)
        token = mask_token.to(x.dtype).view(1, -1, 1, 1, 1)
        last = self._stages(torch.where(spread_mask(hidden, tuple(x.shape[2:]), x), token, x))[-1]
        # (B, D, GX, GY, GZ) -> (B, N, D)
        return Tokens(last.flatten(2).transpose(1, 2), hidden, self.mask_unit, dropped=False)

    def _stages(self, x: Tensor) -> list[Tensor]:
        maps = []
        # With the channels last in memory, convolutions of every channel by itself are several times faster on a CPU.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
