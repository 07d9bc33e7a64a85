"""A plain vision transformer on 3D patches that computes visible patches only when the hidden ones are dropped."""

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
from mimzoo.transformer import Block, embed_patches, initialise, quarters, sincos_positions
from mimzoo_vit.args import VitArgs


class VisionTransformer(Encoder):
    """ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) on patches of a volume.

    Maps are taken after the blocks that `taps` numbers, the last one normed; all lie on the patch grid. A class token
    is at work inside only: it has no position, is never hidden, and is neither in the maps nor among the tokens.
    Raises ShapeError when the crop is not divisible by the patch.
    """

    positions: Tensor
    class_token: nn.Parameter | None

    def __init__(self, args: VitArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        self.mask_unit = self.crop_multiple = args.patch
        self.grid = divide(crop, args.patch, "the crop", "the patch")
        self.depth, self.token_width, self.in_channels = args.depth, args.width, in_channels
        self.taps = args.taps or quarters(args.depth)
        self.channels, self.strides = (args.width,) * len(self.taps), (args.patch,) * len(self.taps)
        self.patch = nn.Conv3d(in_channels, args.width, args.patch, args.patch)
        rates = [args.drop_path * i / max(args.depth - 1, 1) for i in range(args.depth)]
        self.blocks = nn.ModuleList(
            Block(args.width, args.heads, args.mlp_ratio, rate, args.norm_eps) for rate in rates
        )
        self.norm = nn.LayerNorm(args.width, eps=args.norm_eps)
        self.class_token = nn.Parameter(torch.zeros(1, 1, args.width)) if args.class_token else None
        self.learned = args.positions == "learned"
        self.input_parameters = ("patch.weight",)
        self.grid_parameters = ("positions",) if self.learned else ()
        self._initialise()

    def _initialise(self) -> None:
        initialise(self)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.02)
        fixed = sincos_positions(self.grid, self.token_width)
        if self.learned:
            # (1, N, D) -> (1, D, GX, GY, GZ), begun at the fixed ones
            self.positions = nn.Parameter(fixed.transpose(1, 2).reshape(1, self.token_width, *self.grid))
        else:
            self.register_buffer("positions", fixed, persistent=False)

    def depth_of(self, parameter_name: str) -> int:
        """Return the block of a parameter: 0 for patches, positions and class token, the last for the final norm."""
        part, _, rest = parameter_name.partition(".")
        if part == "blocks":
            return int(rest.split(".")[0]) + 1
        return self.depth if part == "norm" else 0

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return four maps (B, width, X / px, Y / py, Z / pz) of a volume (B, C, X, Y, Z).

        Raises ShapeError for a wrong number of channels, or a crop not divisible by the patch.
        """
        grid = self._grid(volume)
        x = self._lead(embed_patches(patchify(volume, self.mask_unit), self.patch) + self._positions(grid))
        maps = []
        for done, block in enumerate(self.blocks, 1):
            x = block(x)
            if done in self.taps:
                maps.append(self._patches(x if done < self.depth else self.norm(x)))
        # (B, N, D) -> (B, D, GX, GY, GZ)
        return [torch.unflatten(tokens.transpose(1, 2), 2, grid) for tokens in maps]

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume whose units are hidden where `mask` (B, *units) is True.

        Without `mask_token` only the visible patches are embedded; with one, all are, and hidden ones replaced by it.
        Raises ShapeError when units are smaller than a patch or no multiple of it, or samples hide different numbers.
        """
        grid = self._grid(volume)
        hidden = expand_mask(mask, grid)
        x = self._drop(volume, hidden, grid) if mask_token is None else self._replace(volume, hidden, grid, mask_token)
        x = self._lead(x)
        for block in self.blocks:
            x = block(x)
        return Tokens(self._patches(self.norm(x)), hidden, self.mask_unit, dropped=mask_token is None)

    def _drop(self, volume: Tensor, hidden: Tensor, grid: Size) -> Tensor:
        visible = visible_index(hidden)
        patches = gather_tokens(patchify(volume, self.mask_unit), visible)
        return embed_patches(patches, self.patch) + gather_tokens(self._positions(grid), visible)

    def _replace(self, volume: Tensor, hidden: Tensor, grid: Size, mask_token: Tensor) -> Tensor:
        embedded = embed_patches(patchify(volume, self.mask_unit), self.patch)
        return hide(embedded, hidden, mask_token) + self._positions(grid)

    def _lead(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, D) behind the class token, where there is one."""
        if self.class_token is None:
            return tokens
        return torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)

    def _patches(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of the patches alone."""
        return tokens if self.class_token is None else tokens[:, 1:]

    def _positions(self, grid: Size) -> Tensor:
        if not self.learned:
            known = grid == self.grid
            return self.positions if known else sincos_positions(grid, self.token_width).to(self.positions)
        positions = self.positions if grid == self.grid else resize_grid(self.positions, grid)
        # (1, D, GX, GY, GZ) -> (1, N, D)
        return positions.flatten(2).transpose(1, 2)

    def _grid(self, volume: Tensor) -> Size:
        size = check_volume(volume, self.in_channels, self.crop_multiple)
        return divide(size, self.crop_multiple, "the crop", "the patch")
