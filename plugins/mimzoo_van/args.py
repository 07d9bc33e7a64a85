"""The arguments of the visual attention network."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]
# Group norm takes 8 channels together.
Width = Annotated[int, Field(ge=8, multiple_of=8)]
# A larger stride than the stem's kernel would skip voxels.
Stride = Annotated[int, Field(ge=1, le=7)]
Stages = Field(min_length=1)


class VanArgs(Args):
    """`widths`, `depths` and `mlp_ratios` of each stage; `stride` of the stem in voxels, halved again at later stages.

    The `group` norm takes 8 channels of one volume together, the `batch` norm one channel of all volumes of a batch.
    """

    widths: Annotated[tuple[Width, ...], Stages] = (64, 128, 320, 512)
    depths: Annotated[tuple[Positive, ...], Stages] = (2, 2, 4, 2)
    mlp_ratios: Annotated[tuple[Positive, ...], Stages] = (8, 8, 4, 4)
    stride: tuple[Stride, Stride, Stride] = (2, 2, 2)
    norm: Literal["group", "batch"] = "group"

    @model_validator(mode="after")
    def _one_of_each_for_a_stage(self) -> "VanArgs":
        counts = {name: len(getattr(self, name)) for name in ("widths", "depths", "mlp_ratios")}
        if len(set(counts.values())) > 1:
            given = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"every stage has one of each, but there are {given}; give them in equal number")
        return self
