"""The torch module of the example, imported only when somebody builds it."""

from math import prod

from mimzoo_example import PatchMlpArgs
from torch import Tensor, nn

from mimzoo.tokens import (
    Encoder,
    Size,
    Tokens,
    check_volume,
    divide,
    expand_mask,
    gather_tokens,
    hide,
    patchify,
    visible_index,
)


class PatchMlp(Encoder):
    """A multilayer perceptron on each patch; one map, on the patch grid."""

    def __init__(self, args: PatchMlpArgs, in_channels: int, crop: Size) -> None:
        super().__init__()
        divide(crop, args.patch, "the crop", "the patch")
        self.mask_unit = self.crop_multiple = args.patch
        self.channels, self.strides = (args.width,), (args.patch,)
        self.depth, self.token_width, self.in_channels = args.depth, args.width, in_channels
        self.embed = nn.Linear(in_channels * prod(args.patch), args.width)
        blocks = (nn.Sequential(nn.LayerNorm(args.width), nn.Linear(args.width, args.width)) for _ in range(args.depth))
        self.blocks = nn.ModuleList(blocks)

    def depth_of(self, parameter_name: str) -> int:
        """Return 0 for the embedding, i + 1 for block i."""
        part, _, rest = parameter_name.partition(".")
        return int(rest.split(".")[0]) + 1 if part == "blocks" else 0

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return one map (B, width, X / px, Y / py, Z / pz)."""
        grid = divide(
            check_volume(volume, self.in_channels, self.crop_multiple), self.mask_unit, "the crop", "the patch"
        )
        x = self._blocks(self.embed(patchify(volume, self.mask_unit)))
        # (B, N, D) -> (B, D, GX, GY, GZ)
        return [x.transpose(1, 2).unflatten(2, grid)]

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of the visible patches, or of all with the hidden ones replaced."""
        grid = divide(
            check_volume(volume, self.in_channels, self.crop_multiple), self.mask_unit, "the crop", "the patch"
        )
        hidden, patches = expand_mask(mask, grid), patchify(volume, self.mask_unit)
        if mask_token is None:
            x = self.embed(gather_tokens(patches, visible_index(hidden)))
        else:
            x = hide(self.embed(patches), hidden, mask_token)
        return Tokens(self._blocks(x), hidden, self.mask_unit, dropped=mask_token is None)

    def _blocks(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x
