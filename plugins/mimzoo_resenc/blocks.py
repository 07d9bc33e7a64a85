"""The residual block of nnU-Net's residual encoders, on whole maps or on the visible positions alone."""

from torch import Tensor, nn
from torch.nn import functional

from mimzoo.norms import Norm
from mimzoo.tokens import Size

SLOPE = 0.01


class ConvNorm(nn.Module):
    """A convolution that keeps the grid up to its stride, and instance norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: Size = (1, 1, 1), bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = Norm("instance", outputs)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return x (B, inputs, X, Y, Z) convolved and normed: (B, outputs, X / sx, Y / sy, Z / sz).

        With `visible` (B, 1, X / sx, Y / sy, Z / sz), hidden positions take no part in the norm, and become 0.
        """
        normed: Tensor = self.norm(self.conv(x), visible)
        return normed


class Block(nn.Module):
    """A residual block after ResNet-D (He et al. 2018, arXiv 1812.01187), which pools on the way past.

    Computes what BasicBlockD of dynamic-network-architectures does, without dropout.
    """

    def __init__(self, inputs: int, outputs: int, stride: Size) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNorm(inputs, outputs, stride=stride)
        self.conv2 = ConvNorm(outputs, outputs)
        self.skip = None if inputs == outputs else ConvNorm(inputs, outputs, kernel=1, bias=False)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the map (B, outputs, X / sx, Y / sy, Z / sz) of x (B, inputs, X, Y, Z).

        With `visible` (on the grid of the output) x must be 0 where it is hidden, and so is what is returned.
        """
        past = x if max(self.stride) == 1 else functional.avg_pool3d(x, self.stride)
        if self.skip is not None:
            past = self.skip(past, visible)
        inner = self.conv2(rectify(self.conv1(x, visible)), visible)
        return rectify(inner + past)


class Stage(nn.Module):
    """Residual blocks in a row, the first of which has the stride."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: Size) -> None:
        super().__init__()
        later = (Block(outputs, outputs, (1, 1, 1)) for _ in range(blocks - 1))
        self.blocks = nn.ModuleList([Block(inputs, outputs, stride), *later])

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the map that the blocks make of x, as each of them does."""
        for block in self.blocks:
            x = block(x, visible)
        return x


def rectify(x: Tensor) -> Tensor:
    """Return the leaky ReLU of x, in its own memory: a map at full resolution is large."""
    return functional.leaky_relu(x, SLOPE, inplace=True)


def initialise(module: nn.Module) -> None:
    """Give the convolutions below `module` He weights and zero biases, and begin its blocks as their skips, as nnU-Net.

    The last norm of each block's branch has scale 0 (Goyal et al. 2017, arXiv 1706.02677).
    """
    for child in module.modules():
        if isinstance(child, nn.Conv3d):
            nn.init.kaiming_normal_(child.weight, a=SLOPE)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        if isinstance(child, Block):
            nn.init.zeros_(child.conv2.norm.weight)
