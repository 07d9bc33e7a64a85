"""The arguments of the plain ViT encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]


class VitArgs(Args):
    """`patch` in voxels; `positions` fixed (`sincos`) or `learned`; `drop_path` at the last block, rising to it."""

    patch: tuple[Positive, Positive, Positive] = (16, 16, 16)
    width: Annotated[int, Field(ge=6)] = 768
    depth: Annotated[int, Field(ge=4)] = 12
    heads: Positive = 12
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    positions: Literal["sincos", "learned"] = "sincos"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "VitArgs":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self
