"""The pre-norm transformer block and the fixed positions that plain ViT encoders and decoders share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import Size

# On a CPU the gradient of torch's fused attention takes two to five times as long in bfloat16 as that of products. The
# weights that these keep grow with the square of the tokens, so that beyond this many the fused one is used.
FEW_TOKENS = 512


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v (B, heads, N, d) of queries, keys and values (B, heads, N, d)."""
    # A graph that is exported has no gradient.
    differentiated = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= FEW_TOKENS
    mixed: Tensor
    if differentiated and slow:
        weights = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)
        mixed = weights.to(v.dtype) @ v
    else:
        mixed = functional.scaled_dot_product_attention(q, k, v)
    return mixed


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, D) with one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens (B, N, D)."""
        batch, count, width = x.shape
        # (B, N, 3 D) -> 3 x (B, N, D) -> 3 x (B, N, heads, d) -> 3 x (B, heads, N, d)
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.reshape(batch, count, self.heads, -1).transpose(1, 2) for part in parts)
        # (B, heads, N, d) -> (B, N, D)
        joined: Tensor = self.out(attend(q, k, v).transpose(1, 2).reshape(batch, count, width))
        return joined


class StochasticDepth(nn.Module):
    """A residual branch left out for whole samples while training (Huang et al. 2016, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, N, D) with some samples zero and the others scaled up, so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty(x.shape[0], 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, N, D) after attention and MLP, each on its residual branch."""
        x = x + self.drop(self.attention(self.norm1(x)))
        mixed: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return mixed


def quarters(depth: int) -> tuple[int, ...]:
    """Return after which blocks maps are taken unless asked otherwise: a quarter, half, three quarters, all of them."""
    return tuple(sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)}))


def embed_patches(patches: Tensor, embedding: nn.Conv3d) -> Tensor:
    """Return the tokens (B, N, D) that an embedding whose stride is its kernel makes of patches (B, N, C px py pz).

    Such a convolution is a linear layer on flat patches, and that is up to ten times faster on a CPU.
    """
    # (D, C, px, py, pz) -> (D, C px py pz)
    return functional.linear(patches, embedding.weight.flatten(1), embedding.bias)


def initialise(module: nn.Module) -> None:
    """Give every linear layer and patch embedding below `module` Xavier weights and zero biases, as MAE does."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Conv3d):
            # A patch embedding is a linear layer on flat patches: (D, C, px, py, pz) -> (D, C px py pz)
            nn.init.xavier_uniform_(child.weight.view(child.weight.shape[0], -1))
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def sincos_positions(grid: Size, width: int) -> Tensor:
    """Return fixed positions (1, N, width) float32 of a token grid in raster order.

    A third of the width for each axis: sines, then cosines, of the cell's index at wavelengths from 2 pi up towards
    10000 * 2 pi (Vaswani et al. 2017, arXiv 1706.03762, per axis as in MAE). What six does not divide is zero.
    """
    count = width // 6
    frequencies = 10000.0 ** (-torch.arange(count, dtype=torch.float32) / count)
    axes = [torch.arange(n, dtype=torch.float32)[:, None] * frequencies for n in grid]
    waves = [torch.cat([angles.sin(), angles.cos()], dim=1) for angles in axes]
    shapes = [(-1, 1, 1, 2 * count), (1, -1, 1, 2 * count), (1, 1, -1, 2 * count)]
    # each (g, 2c) -> its own axis of the grid -> (GX, GY, GZ, 2c) -> joined (GX, GY, GZ, 6c)
    joined = torch.cat([wave.reshape(s).expand(*grid, -1) for wave, s in zip(waves, shapes, strict=True)], dim=-1)
    # (GX, GY, GZ, 6c) -> (1, N, width)
    return functional.pad(joined.reshape(1, -1, 6 * count), (0, width - 6 * count))
