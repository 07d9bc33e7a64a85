"""Attention within windows, with a learned bias for each relative position."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import Size
from mimzoo_swin.gradients import FrugalAttention, attend
from mimzoo_swin.windows import layout

# In windows of up to so many cells, to keep the weights of attention costs less than to compute them once more.
SMALL = 128


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of a grid (Liu et al. 2021, arXiv 2103.14030, in 3D).

    `positions` ((2 wx - 1) (2 wy - 1) (2 wz - 1), heads) is the table of the biases for all relative positions.
    """

    def __init__(self, width: int, heads: int, window: Size, qkv_bias: bool, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, heads), std=0.02))
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """Return the attended cells (B, N, D) of a grid, N its cells in raster order."""
        windows = layout(grid, self.window, self.shifted, x.device)
        # One cell of zeros stands for all of the padding; it is projected like any other.
        qkv = self.qkv(functional.pad(x, (0, 0, 0, 1)) if windows.padded else x)
        # (rows, heads) -> (heads, rows) -> (heads, n n) -> (heads, n, n)
        bias = torch.unflatten(self.positions.t().index_select(1, windows.pairs), 1, (windows.size, windows.size))
        # On a GPU torch's own kernels have this gradient, and while a graph is exported there is none.
        differentiated = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if differentiated and windows.size > SMALL and x.device.type == "cpu":
            attended: Tensor = FrugalAttention.apply(qkv, bias, windows)  # type: ignore[no-untyped-call]
        else:
            attended = attend(qkv, bias, windows)
        projected: Tensor = self.out(attended)
        return projected
