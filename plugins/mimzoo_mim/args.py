"""The arguments of maskings, reconstruction decoders and objectives."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]


class UnitArgs(Args):
    """`ratio` of the units to hide; `unit` in voxels, free of the encoder's patch as long as it is a multiple of it."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    unit: tuple[Positive, Positive, Positive] = (16, 16, 16)


class AxisArgs(UnitArgs):
    """What is hidden lies along or across `axis`; without one, each batch gets an axis of its own."""

    axis: Literal["x", "y", "z"] | None = None


class ForegroundArgs(UnitArgs):
    """`strength` 0 hides all units equally often; the higher, the more those with content."""

    strength: Annotated[float, Field(ge=0)] = 1.0


class MaskInMaskArgs(UnitArgs):
    """`coarse` units wide blocks are hidden first, `coarse_ratio` of them; then single units up to `ratio`."""

    coarse: Annotated[int, Field(ge=2)] = 2
    coarse_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5


class ConvolutionArgs(Args):
    """`width` of the hidden layers, `depth` of the residual convolutions on the token grid."""

    width: Positive = 128
    depth: Positive = 2


class TransformerArgs(Args):
    """The decoder's own size, free of the encoder's."""

    width: Annotated[int, Field(ge=6)] = 192
    depth: Positive = 4
    heads: Positive = 3
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TransformerArgs":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class LinearArgs(Args):
    """A linear decoder has nothing to choose."""


class ReconstructionArgs(Args):
    """How units are hidden, what is predicted (`raw` voxels, or `normalised` within each unit), and by which loss."""

    mode: Literal["drop", "replace"] = "drop"
    target: Literal["raw", "normalised"] = "normalised"
    loss: Literal["l1", "l2"] = "l2"
