"""From an encoder's tokens to the voxels of the hidden ones."""

from math import prod

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, Tokens, divide, gather_tokens, hidden_index, visible_index
from mimzoo.transformer import Block, initialise, sincos_positions
from mimzoo_mim.args import LinearArgs, TransformerArgs


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
