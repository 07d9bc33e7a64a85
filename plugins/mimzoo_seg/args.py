"""The arguments of the segmentation heads."""

from typing import Annotated, Literal

from pydantic import Field

from mimzoo.specs import Args


class UnetrArgs(Args):
    """`width` is the number of channels at full resolution, doubled at every coarser level up to `max_width`."""

    width: Annotated[int, Field(ge=1)] = 16
    max_width: Annotated[int, Field(ge=1)] = 256
    norm: Literal["instance", "group"] = "instance"


class UnetrConcatArgs(Args):
    """`width` is the number of channels at full resolution, doubled at every coarser level.

    `residual` adds to every two convolutions what goes into them (MONAI: `res_block`); `refine_skips` refines a map by
    such two at each level that it is brought up to (MONAI: `conv_block`).
    """

    width: Annotated[int, Field(ge=1)] = 16
    residual: bool = True
    refine_skips: bool = True
    norm: Literal["instance", "group"] = "instance"


class SwinUnetrArgs(Args):
    """`width` is the number of channels at full resolution, by default that of the encoder's finest map."""

    width: Annotated[int, Field(ge=1)] | None = None
    norm: Literal["instance", "group"] = "instance"


class UperNetArgs(Args):
    """`width` is the number of channels of every level, and of all of them fused."""

    width: Annotated[int, Field(ge=1)] = 32
    norm: Literal["instance", "group"] = "instance"


class ConvolutionArgs(Args):
    """`width` is the number of channels that all maps are brought to and summed in."""

    width: Annotated[int, Field(ge=1)] = 32
    norm: Literal["instance", "group"] = "instance"
