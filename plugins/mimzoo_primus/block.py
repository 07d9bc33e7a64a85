"""The transformer block of Primus: rotary attention and a gated MLP, both normed within and scaled per channel."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import Size
from mimzoo.transformer import StochasticDepth, attend

TEMPERATURE = 10000.0


def rotary_positions(grid: Size, head_width: int) -> Tensor:
    """Return rotations (1, N, head_width) float32 of a token grid in raster order: cosines, then sines, of the angles.

    The angles (N, head_width / 2) are a third for X, a third for Y, a third for Z: the cell's index along the axis,
    times frequencies from 1 down towards 1 / 10000 (Su et al. 2021, arXiv 2104.09864, by axis as in EVA-02).
    """
    count = head_width // 6
    frequencies = TEMPERATURE ** (-torch.arange(count, dtype=torch.float32) / count)
    cells = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in grid))
    # (N, 3) x (c,) -> (N, 3, c) -> (1, N, 3 c)
    angles = (cells[:, :, None] * frequencies).reshape(1, -1, 3 * count)
    return torch.cat([angles.cos(), angles.sin()], dim=2)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Return queries or keys (B, heads, N, d) with each pair of neighbouring channels turned by its angle.

    `rotations` is (B, N, d), or (1, N, d) for all samples. The angles' precision is kept until the result.
    """
    cos, sin = rotations[:, None].chunk(2, dim=-1)
    # (B, heads, N, d) -> (B, heads, N, d / 2, 2) -> 2 x (B, heads, N, d / 2)
    first, second = x.reshape(*x.shape[:3], -1, 2).unbind(-1)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    # (B, heads, N, d / 2, 2) -> (B, heads, N, d)
    return turned.flatten(-2).to(x.dtype)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by their positions; its mix is normed or not.

    Keys have no bias, as in EVA (Fang et al. 2022, arXiv 2211.07636); the inner norm is that of EVA-02.
    """

    def __init__(self, width: int, heads: int, inner_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width) if inner_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Return the attended tokens (B, N, D) of tokens that lie at `rotations` (B or 1, N, D / heads)."""
        q, k, v = rotate(self._split(self.q(x)), rotations), rotate(self._split(self.k(x)), rotations), self.v(x)
        mixed = attend(q, k, self._split(v))
        # (B, heads, N, d) -> (B, N, D)
        joined: Tensor = self.out(self.norm(mixed.transpose(1, 2).flatten(2)))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        # (B, N, D) -> (B, N, heads, d) -> (B, heads, N, d)
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class SwiGlu(nn.Module):
    """A gated MLP (Shazeer 2020, arXiv 2002.05202) with a norm before its last layer, as in EVA-02."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.value = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        transformed: Tensor = self.out(self.norm(functional.silu(self.gate(x)) * self.value(x)))
        return transformed


class Block(nn.Module):
    """A pre-norm block of EVA-02 (arXiv 2303.11331) whose branches are scaled per channel (arXiv 2103.17239).

    It computes what `EvaBlock` of timm does with swiglu_mlp and scale_mlp, and with `inner_norm` scale_attn_inner.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, drop_path: float, layer_scale: float, inner_norm: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = RotaryAttention(width, heads, inner_norm)
        self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = SwiGlu(width, hidden)
        self.scale2 = nn.Parameter(torch.full((width,), layer_scale))
        self.drop = StochasticDepth(drop_path)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Return the tokens (B, N, D) after attention and MLP, each on its residual branch."""
        x = x + self.drop(self.scale1 * self.attention(self.norm1(x), rotations))
        mixed: Tensor = x + self.drop(self.scale2 * self.mlp(self.norm2(x)))
        return mixed
