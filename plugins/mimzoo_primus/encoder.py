"""Primus: a plain vision transformer that knows positions twice, learned ones added and rotary ones in attention."""

from math import sqrt

import torch
from torch import Tensor, nn

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
    resize_grid,
    visible_index,
)
from mimzoo.transformer import embed_patches, quarters
from mimzoo_primus.args import PrimusArgs
from mimzoo_primus.block import Block, rotary_positions


class Primus(Encoder):
    """Primus (Wald et al. 2025, arXiv 2503.01835): the blocks of EVA-02 on patches of a volume, without class token.

    It computes what the authors' own does (`Primus` of dynamic-network-architectures), up to the decoder.
    Maps are taken after a quarter, half, three quarters and all of the blocks, the last one normed; all lie on the
    patch grid. Raises ShapeError when the crop is not divisible by the patch.
    """

    rotations: Tensor

    def __init__(self, args: PrimusArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        self.mask_unit = self.crop_multiple = args.patch
        self.grid = divide(crop, args.patch, "the crop", "the patch")
        self.depth, self.token_width, self.in_channels = args.depth, args.width, in_channels
        self.taps = quarters(args.depth)
        self.channels, self.strides = (args.width,) * len(self.taps), (args.patch,) * len(self.taps)
        self.head_width = args.width // args.heads
        self.patch = nn.Conv3d(in_channels, args.width, args.patch, args.patch)
        self.positions = nn.Parameter(torch.empty(1, args.width, *self.grid))
        # Constant, so not saved; other grids than that of the crop are worked out when they are met.
        self.register_buffer("rotations", rotary_positions(self.grid, self.head_width), persistent=False)
        rates = [args.drop_path * i / max(args.depth - 1, 1) for i in range(args.depth)]
        hidden = round(args.width * args.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(args.width, args.heads, hidden, rate, args.layer_scale, args.inner_norm) for rate in rates
        )
        self.norm = nn.LayerNorm(args.width)
        self.input_parameters, self.grid_parameters = ("patch.weight",), ("positions",)
        self._initialise()

    def _initialise(self) -> None:
        """Begin as the authors do: small normal weights, those that end a branch the smaller the deeper they lie."""
        nn.init.kaiming_normal_(self.patch.weight, a=1e-2)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.Conv3d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("out.weight"):
                parameter.data.div_(sqrt(2 * self.depth_of(name)))

    def depth_of(self, parameter_name: str) -> int:
        """Return the block of a parameter: 0 for patch embedding and positions, the last for the final norm."""
        part, _, rest = parameter_name.partition(".")
        if part == "blocks":
            return int(rest.split(".")[0]) + 1
        return self.depth if part == "norm" else 0

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return four maps (B, width, X / px, Y / py, Z / pz) of a volume (B, C, X, Y, Z).

        Raises ShapeError for a wrong number of channels, or a crop not divisible by the patch.
        """
        grid = self._grid(volume)
        x = embed_patches(patchify(volume, self.mask_unit), self.patch) + self._positions(grid)
        rotations, maps = self._rotations(grid), []
        for done, block in enumerate(self.blocks, 1):
            x = block(x, rotations)
            if done in self.taps:
                maps.append(x if done < self.depth else self.norm(x))
        # (B, N, D) -> (B, D, GX, GY, GZ)
        return [tokens.transpose(1, 2).unflatten(2, grid) for tokens in maps]

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume whose units are hidden where `mask` (B, *units) is True.

        Without `mask_token` only the visible patches are embedded; with one, all are, and hidden ones replaced by it.
        Raises ShapeError when units are smaller than a patch or no multiple of it, or samples hide different numbers.
        """
        grid = self._grid(volume)
        hidden, patches = expand_mask(mask, grid), patchify(volume, self.mask_unit)
        parts = (patches, self._positions(grid), self._rotations(grid))
        if mask_token is None:
            visible = visible_index(hidden)
            patches, positions, rotations = (gather_tokens(part, visible) for part in parts)
            x = embed_patches(patches, self.patch) + positions
        else:
            patches, positions, rotations = parts
            x = hide(embed_patches(patches, self.patch), hidden, mask_token) + positions
        for block in self.blocks:
            x = block(x, rotations)
        return Tokens(self.norm(x), hidden, self.mask_unit, dropped=mask_token is None)

    def _positions(self, grid: Size) -> Tensor:
        positions = self.positions if grid == self.grid else resize_grid(self.positions, grid)
        # (1, D, GX, GY, GZ) -> (1, N, D)
        return positions.flatten(2).transpose(1, 2)

    def _rotations(self, grid: Size) -> Tensor:
        known = grid == self.grid
        return self.rotations if known else rotary_positions(grid, self.head_width).to(self.rotations)

    def _grid(self, volume: Tensor) -> Size:
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        return divide(size, self.crop_multiple, "the crop", "the patch")
