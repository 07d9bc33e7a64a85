"""From an encoder's tokens to the voxels of the hidden ones."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, Tokens, divide, gather_tokens, hidden_index, visible_index
from mimzoo.transformer import Block, initialise, sincos_positions
from mimzoo_mim.args import ConvolutionArgs, LinearArgs, TransformerArgs


class TransformerDecoder(nn.Module):
    """The decoder of MAE (He et al. 2022, arXiv 2111.06377): visible tokens and mask tokens attend to each other."""

    positions: Tensor

    def __init__(self, args: TransformerArgs, token_width: int, patch: Size, crop: Size, in_channels: int) -> None:
        super().__init__()
        self.width, self.grid = args.width, divide(crop, patch, "the crop", "the token's patch")
        self.narrow = nn.Linear(token_width, args.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, args.width))
        self.blocks = nn.ModuleList(Block(args.width, args.heads, args.mlp_ratio) for _ in range(args.depth))
        self.norm = nn.LayerNorm(args.width, eps=1e-6)
        self.voxels = nn.Linear(args.width, in_channels * prod(patch))
        self.register_buffer("positions", sincos_positions(self.grid, args.width), persistent=False)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the predicted voxels (B, hidden, C * px * py * pz) of the hidden tokens in raster order.

        Raises ShapeError for tokens whose hidden ones were not dropped.
        """
        if not tokens.dropped:
            raise ShapeError("the transformer decoder takes tokens whose hidden ones were dropped (mode drop)")
        positions = self._positions(tokens.mask)
        visible, hidden = visible_index(tokens.mask), hidden_index(tokens.mask)
        seen = self.narrow(tokens.values) + gather_tokens(positions, visible)
        asked = self.mask_token.to(seen.dtype) + gather_tokens(positions, hidden).to(seen.dtype)
        # Attention does not mind the order, so the hidden tokens simply follow the visible ones.
        x = torch.cat([seen, asked], dim=1)
        for block in self.blocks:
            x = block(x)
        predicted: Tensor = self.voxels(self.norm(x[:, seen.shape[1] :]))
        return predicted

    def _positions(self, mask: Tensor) -> Tensor:
        grid = (mask.shape[1], mask.shape[2], mask.shape[3])
        return self.positions if grid == self.grid else sincos_positions(grid, self.width).to(self.positions)


class LinearDecoder(nn.Module):
    """The decoder of SimMIM (Xie et al. 2022, arXiv 2111.09886): one linear layer on each hidden token."""

    def __init__(self, args: LinearArgs, token_width: int, patch: Size, crop: Size, in_channels: int) -> None:
        super().__init__()
        divide(crop, patch, "the crop", "the token's patch")
        self.voxels = nn.Linear(token_width, in_channels * prod(patch))
        initialise(self)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the predicted voxels (B, hidden, C * px * py * pz) of the hidden tokens in raster order.

        Raises ShapeError for tokens whose hidden ones were dropped.
        """
        if tokens.dropped:
            raise ShapeError("the linear decoder needs the hidden tokens, but they were dropped; use mode replace")
        predicted: Tensor = self.voxels(gather_tokens(tokens.values, hidden_index(tokens.mask)))
        return predicted


class ConvolutionDecoder(nn.Module):
    """A light convolution decoder on the grid of tokens, which takes tokens of both modes.

    Where tokens were dropped a learned mask token fills their cells, as SparK densifies its maps (Tian et al. 2023,
    arXiv 2301.03580). All convolutions stay on the token grid, where they are cheap; the last one gives each cell the
    voxels of its patch.
    """

    def __init__(self, args: ConvolutionArgs, token_width: int, patch: Size, crop: Size, in_channels: int) -> None:
        super().__init__()
        divide(crop, patch, "the crop", "the token's patch")
        self.project = nn.Linear(token_width, args.width)
        self.mask_token = nn.Parameter(torch.empty(args.width).normal_(std=0.02))
        self.mix = nn.ModuleList(_Mixer(args.width) for _ in range(args.depth))
        self.voxels = nn.Linear(args.width, in_channels * prod(patch))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the predicted voxels (B, hidden, C * px * py * pz) of the hidden tokens in raster order."""
        x = self.project(tokens.values)
        filled = self._fill(x, tokens) if tokens.dropped else x + self._marks(tokens, x)
        # (B, N, D) -> (B, D, GX, GY, GZ)
        grid = filled.transpose(1, 2).unflatten(2, tuple(tokens.mask.shape[1:]))
        for mixer in self.mix:
            grid = mixer(grid)
        # (B, D, GX, GY, GZ) -> (B, N, D)
        cells = grid.flatten(2).transpose(1, 2)
        predicted: Tensor = self.voxels(gather_tokens(cells, hidden_index(tokens.mask)))
        return predicted

    def _marks(self, tokens: Tokens, x: Tensor) -> Tensor:
        """Return what tells hidden cells from visible ones: (B, N, width), the mask token where hidden."""
        hidden = tokens.mask.flatten(1)[:, :, None].to(x.device)
        return hidden * self.mask_token.to(x.dtype)

    def _fill(self, x: Tensor, tokens: Tokens) -> Tensor:
        index = visible_index(tokens.mask).to(x.device)[:, :, None].expand_as(x)
        return self._marks(tokens, x).scatter(1, index, x)


class _Mixer(nn.Module):
    """A residual depthwise convolution, then a small perceptron on each cell (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.wide = nn.Conv3d(width, 2 * width, 1)
        self.narrow = nn.Conv3d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed grid (B, D, GX, GY, GZ)."""
        mixed: Tensor = x + self.narrow(functional.gelu(self.wide(self.norm(self.depthwise(x)))))
        return mixed
