"""The arguments of the segmentation heads."""

from typing import Annotated, Literal

from pydantic import Field

from mimzoo.specs import Args


class UnetrArgs(Args):
    """`width` is the number of channels at full resolution, doubled at every coarser level up to `max_width`."""

    width: Annotated[int, Field(ge=1)] = 16
    max_width: Annotated[int, Field(ge=1)] = 256
    norm: Literal["instance", "group"] = "instance"
