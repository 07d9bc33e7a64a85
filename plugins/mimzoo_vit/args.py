"""The arguments of the plain ViT encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]


class VitArgs(Args):
    """`patch` in voxels; `positions` fixed (`sincos`) or `learned`; `drop_path` at the last block, rising to it.

    `norm_eps` is what every norm adds to the variance.
    `class_token` adds a learned token, without a position, that attends with the patches and is in no map.
    `taps` numbers the blocks after which maps are taken, rising to `depth`; if not given, those at its quarters.
    """

    patch: tuple[Positive, Positive, Positive] = (16, 16, 16)
    width: Annotated[int, Field(ge=6)] = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    positions: Literal["sincos", "learned"] = "sincos"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    class_token: bool = False
    taps: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "VitArgs":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _taps_rise_to_depth(self) -> "VitArgs":
        # What lies behind the last map would be trained by nothing.
        if self.taps and (sorted(set(self.taps)) != list(self.taps) or self.taps[-1] != self.depth):
            raise ValueError(f"taps must rise, without repeats, to depth {self.depth}, got {list(self.taps)}")
        return self
