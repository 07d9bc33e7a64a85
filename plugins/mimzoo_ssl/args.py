"""The arguments of the objectives without masks."""

from typing import Annotated, Literal

from pydantic import Field

from mimzoo.specs import Args

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class SimClrArgs(Args):
    """`temperature` of the comparison, `hidden` and `width` of the projection; then how much views may differ.

    `smallest` is the least side of the part of a crop that a view shows; `shift` and `noise` are in deviations of the
    crop, `blur` in voxels, `cutout` is the largest side of the box that is blanked. Each change but the part happens
    with `probability`.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.2
    hidden: Positive = 256
    width: Positive = 128
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.6
    flip: bool = True
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.4
    shift: Amount = 0.4
    noise: Amount = 0.2
    blur: Amount = 1.0
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    probability: Share = 0.8


class GenesisArgs(Args):
    """How often each corruption happens: the defaults of its reference implementation.

    `painting` is the share of crops that are painted, `inpainting` of these the share painted inside (else outside).
    """

    mode: Literal["replace"] = "replace"
    nonlinear: Share = 0.9
    shuffling: Share = 0.5
    painting: Share = 0.9
    inpainting: Share = 0.2
    loss: Literal["l1", "l2"] = "l2"
