"""The plainest scan-level head: a linear layer on the mean of the coarsest map."""

from collections.abc import Sequence

from torch import Tensor, nn

from mimzoo.tokens import Size
from mimzoo_cls.args import MeanPoolArgs


class MeanPool(nn.Module):
    """Global average pooling (Lin et al. 2014, arXiv 1312.4400), layer-normed, then one linear layer.

    Over a frozen encoder it is a linear probe.
    """

    def __init__(
        self, args: MeanPoolArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.used_maps = (len(channels) - 1,)
        self.norm = nn.LayerNorm(channels[-1])
        self.drop = nn.Dropout(args.dropout)
        self.logits = nn.Linear(channels[-1], classes)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes) from an encoder's maps."""
        # One axis after the other, for ONNX Runtime adds up all cells into one float32.
        mean = maps[-1].mean(4).mean(3).mean(2)
        logits: Tensor = self.logits(self.drop(self.norm(mean)))
        return logits
