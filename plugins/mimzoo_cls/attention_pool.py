"""A scan-level head that looks where it is worth looking: a learned query attends over the coarsest map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size
from mimzoo.transformer import initialise
from mimzoo_cls.args import AttentionPoolArgs


class AttentionPool(nn.Module):
    """The attentive probe of V-JEPA (Bardes et al. 2024, arXiv 2404.08471): one query, cross-attention, an MLP.

    It is the pooling by multi-head attention of Set Transformer (Lee et al. 2019, arXiv 1810.00825) with pre-norms.
    Raises ShapeError when the heads do not divide the channels of the coarsest map.
    """

    def __init__(
        self, args: AttentionPoolArgs, channels: Sequence[int], strides: Sequence[Size], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        width = channels[-1]
        _check_heads(args.heads, width)
        hidden = round(width * args.mlp_ratio)
        self.heads, self.used_maps = args.heads, (len(channels) - 1,)
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.offered = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = nn.Dropout(args.dropout)
        self.logits = nn.Linear(width, classes)
        initialise(self)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return logits (B, classes) from an encoder's maps."""
        # (B, D, GX, GY, GZ) -> (B, N, D)
        cells = self.norm1(maps[-1].flatten(2).transpose(1, 2))
        x = self.query + self._attend(self.query.expand(cells.shape[0], -1, -1), cells)
        x = x + self.mlp(self.norm2(x))
        # (B, 1, D) -> (B, D) -> (B, classes)
        logits: Tensor = self.logits(self.drop(x.squeeze(1)))
        return logits

    def _attend(self, query: Tensor, cells: Tensor) -> Tensor:
        parts = (self.asked(query), *self.offered(cells).chunk(2, dim=-1))
        # each (B, n, D) -> (B, n, heads, d) -> (B, heads, n, d)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        # (B, heads, 1, d) -> (B, 1, heads, d) -> (B, 1, D)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


def _check_heads(heads: int, width: int) -> None:
    if width % heads:
        near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads))
        raise ShapeError(
            f"the attention-pool head has {heads} heads, but the coarsest map has {width} channels, which they do not "
            f"divide; the nearest number that does is {near}"
        )
