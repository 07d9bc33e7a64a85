"""What a stage of a Swin is made of: blocks of windowed attention, the merging of cells, and residual convolutions."""

from torch import Tensor, cat, nn, unflatten

from mimzoo.norms import InstanceNorm
from mimzoo.tokens import Size
from mimzoo.transformer import StochasticDepth
from mimzoo_swin.args import SwinArgs
from mimzoo_swin.attention import WindowAttention

# Which of the eight cells of a cube are joined, in which order. `legacy` is that of MONAI up to 1.4, which takes two
# of them twice and leaves two out.
CORNERS = {
    "fixed": ("000", "100", "010", "001", "110", "101", "011", "111"),
    "legacy": ("000", "100", "010", "001", "101", "010", "001", "111"),
}


class SwinBlock(nn.Module):
    """A pre-norm block whose attention stays within windows (Liu et al. 2021, arXiv 2103.14030)."""

    def __init__(self, args: SwinArgs, width: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        hidden = int(width * args.mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, args.window, args.qkv_bias, shifted)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = StochasticDepth(drop_path)

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """Return the cells (B, N, D) after attention and MLP, each on its residual branch."""
        x = x + self.drop(self.attention(self.norm1(x), grid))
        mixed: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return mixed


class Merge(nn.Module):
    """Joins each cube of 2 x 2 x 2 cells into one of twice the width."""

    def __init__(self, width: int, corners: tuple[str, ...]) -> None:
        super().__init__()
        self.order = [int(corner, 2) for corner in corners]
        self.norm = nn.LayerNorm(8 * width)
        self.linear = nn.Linear(8 * width, 2 * width, bias=False)

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """Return the cells (B, N / 8, 2 D) of the grid at half the size; x is (B, N, D)."""
        batch, (gx, gy, gz) = x.shape[0], grid
        # (B, N, D) -> (B, gx / 2, 2, gy / 2, 2, gz / 2, 2, D) -> (2, 2, 2, B, ...) -> 8 x (B, N / 8, D)
        split = x.reshape(batch, gx // 2, 2, gy // 2, 2, gz // 2, 2, -1).permute(2, 4, 6, 0, 1, 3, 5, 7)
        corners = split.reshape(8, batch, gx * gy * gz // 8, -1).unbind(0)
        merged: Tensor = self.linear(self.norm(cat([corners[i] for i in self.order], dim=2)))
        return merged


class ResidualConvolutions(nn.Module):
    """Two convolutions on a residual branch (He et al. 2023, SwinUNETR-V2, doi 10.1007/978-3-031-43901-8_40)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv3d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.act = InstanceNorm(), nn.LeakyReLU(0.01)

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """Return the cells (B, N, D) of a grid after the convolutions."""
        # (B, N, D) -> (B, D, GX, GY, GZ)
        volume = unflatten(x.transpose(1, 2), 2, grid)
        inner = self.act(self.norm(self.first(volume)))
        mixed: Tensor = self.act(self.norm(self.second(inner)) + volume)
        return mixed.flatten(2).transpose(1, 2)


class Stage(nn.Module):
    """Residual convolutions if asked for, blocks of which every other one has shifted windows, and a merging."""

    def __init__(self, args: SwinArgs, number: int, drop_path: list[float]) -> None:
        super().__init__()
        width, heads = args.width * 2**number, args.heads[number]
        self.convolutions = ResidualConvolutions(width) if args.residual_convolutions else None
        self.blocks = nn.ModuleList(
            SwinBlock(args, width, heads, shifted=i % 2 == 1, drop_path=rate) for i, rate in enumerate(drop_path)
        )
        self.merge = Merge(width, CORNERS[args.merge])

    def forward(self, x: Tensor, grid: Size) -> Tensor:
        """Return the cells (B, N / 8, 2 D) of the grid at half the size; x is (B, N, D)."""
        if self.convolutions is not None:
            x = self.convolutions(x, grid)
        for block in self.blocks:
            x = block(x, grid)
        merged: Tensor = self.merge(x, grid)
        return merged
