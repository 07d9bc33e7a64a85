"""The block of visual attention networks: a gate that sees 23 cells along each axis, and a convolutional MLP."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.norms import Norm
from mimzoo.tokens import Size

SCALE = 1e-2


def norm(kind: str, width: int) -> nn.Module:
    """Return the norm of maps (B, width, X, Y, Z): `group`, 8 channels of a sample together, or `batch`."""
    return nn.BatchNorm3d(width) if kind == "batch" else Norm(kind, width)


def depthwise(width: int, kernel: int, dilation: int = 1) -> nn.Conv3d:
    """Return a convolution of every channel by itself that keeps the grid."""
    return nn.Conv3d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=width)


class LargeKernelAttention(nn.Module):
    """A gate on each value, decided by its surroundings (Guo et al. 2022, arXiv 2202.09741, equations 1 and 2).

    A kernel of 21 cells per axis, taken apart: 5 side by side, 7 every third cell, and a mix of the channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = depthwise(width, 5)
        self.far = depthwise(width, 7, dilation=3)
        self.mix = nn.Conv3d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, width, X, Y, Z) times its gates."""
        gates: Tensor = self.mix(self.far(self.near(x)))
        return x * gates


class Attention(nn.Module):
    """Large-kernel attention between two mixes of the channels, around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv3d(width, width, 1)
        self.gate = LargeKernelAttention(width)
        self.leave = nn.Conv3d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map (B, width, X, Y, Z)."""
        attended: Tensor = self.leave(self.gate(functional.gelu(self.enter(x))))
        return x + attended


class Mlp(nn.Module):
    """A position-wise MLP with a depthwise convolution, which tells it where it is (Wang et al. 2021, 2106.13797)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Conv3d(width, hidden, 1)
        self.near = depthwise(hidden, 3)
        self.leave = nn.Conv3d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, width, X, Y, Z)."""
        mixed: Tensor = self.leave(functional.gelu(self.near(self.enter(x))))
        return mixed


class Block(nn.Module):
    """Attention and MLP, each on a residual branch that begins at a hundredth of its size."""

    def __init__(self, width: int, mlp_ratio: int, kind: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(kind, width), norm(kind, width)
        self.attention, self.mlp = Attention(width), Mlp(width, width * mlp_ratio)
        # (width, 1, 1, 1), so that it applies to axis 1 of a map
        self.scale1 = nn.Parameter(torch.full((width, 1, 1, 1), SCALE))
        self.scale2 = nn.Parameter(torch.full((width, 1, 1, 1), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, width, X, Y, Z) after attention and MLP."""
        x = x + self.scale1 * self.attention(self.norm1(x))
        mixed: Tensor = x + self.scale2 * self.mlp(self.norm2(x))
        return mixed


class Embedding(nn.Module):
    """An overlapping patch embedding: a strided convolution whose kernel is wider than its stride, and a norm."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: Size, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, width, kernel, stride, padding=kernel // 2)
        self.norm = norm(kind, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded patches (B, width, X / sx, Y / sy, Z / sz) of x (B, inputs, X, Y, Z)."""
        embedded: Tensor = self.norm(self.conv(x))
        return embedded


class CellNorm(nn.LayerNorm):
    """Layer norm over the channels of every cell of a map (B, C, X, Y, Z)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed map."""
        # (B, C, X, Y, Z) -> (B, X, Y, Z, C) and back
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Stage(nn.Module):
    """An embedding, blocks in a row, and a norm."""

    def __init__(self, embedding: nn.Module, width: int, depth: int, mlp_ratio: int, kind: str) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(Block(width, mlp_ratio, kind) for _ in range(depth))
        self.norm = CellNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, width, ...) of the map of the stage before."""
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


def initialise(module: nn.Module) -> None:
    """Give the convolutions below `module` He weights by their fan-out and zero biases, as VAN does."""
    for child in module.modules():
        if isinstance(child, nn.Conv3d):
            fan_out = child.weight[0, 0].numel() * child.out_channels // child.groups
            nn.init.normal_(child.weight, std=math.sqrt(2 / fan_out))
            if child.bias is not None:
                nn.init.zeros_(child.bias)
