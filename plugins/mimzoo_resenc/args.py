"""The arguments of the residual encoder."""

from typing import Annotated

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]
Size = tuple[Positive, Positive, Positive]
Stages = Field(min_length=1)


class ResEncArgs(Args):
    """`features`, `blocks` and `strides` of each stage; a stride is one number for all axes or one for each.

    Without `strides` the first stage keeps the resolution and each later one halves it.
    """

    features: Annotated[tuple[Positive, ...], Stages] = (32, 64, 128, 256, 320, 320)
    blocks: Annotated[tuple[Positive, ...], Stages] = (1, 3, 4, 6, 6, 6)
    strides: Annotated[tuple[Positive | Size, ...], Stages] | None = None

    @model_validator(mode="after")
    def _one_of_each_for_a_stage(self) -> "ResEncArgs":
        counts = {"features": len(self.features), "blocks": len(self.blocks)}
        if self.strides is not None:
            counts["strides"] = len(self.strides)
        if len(set(counts.values())) > 1:
            given = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"every stage has one of each, but there are {given}; give them in equal number")
        return self

    def stage_strides(self) -> list[Size]:
        """Return the stride of every stage along each axis, relative to the stage before."""
        given = self.strides or (1, *[2] * (len(self.features) - 1))
        return [stride if isinstance(stride, tuple) else (stride, stride, stride) for stride in given]
