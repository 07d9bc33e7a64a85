"""The arguments of the Primus encoder."""

from typing import Annotated

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]


class PrimusArgs(Args):
    """`patch` in voxels; `drop_path` at the last block, rising to it; `layer_scale` is what branches begin at.

    With `inner_norm` what attention mixes is normed before its last layer.
    """

    patch: tuple[Positive, Positive, Positive] = (8, 8, 8)
    width: Annotated[int, Field(ge=6)] = 396
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[float, Field(gt=0)] = 8 / 3
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.2
    layer_scale: Annotated[float, Field(gt=0)] = 0.1
    inner_norm: bool = True

    @model_validator(mode="after")
    def _pairs_divide_heads(self) -> "PrimusArgs":
        # Rotary positions turn pairs of channels, a third of a head's pairs along each axis.
        if self.width % (6 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 6 x heads = {6 * self.heads}")
        return self
