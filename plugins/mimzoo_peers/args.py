"""The choices that importers leave to those who know a checkpoint: what a file of tensors does not say."""

from typing import Annotated, Literal

from pydantic import Field

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]
Size = tuple[Positive, Positive, Positive]


class SwinImport(Args):
    """`merge` is how cells were joined in training: `legacy` up to MONAI 1.4, `fixed` since 1.5, `v2` its "mergingv2".

    `crop` is what the weights were trained on, in voxels.
    """

    merge: Literal["legacy", "fixed", "v2"] = "legacy"
    crop: Size = (96, 96, 96)


class SwinSegmenterImport(SwinImport):
    """As `SwinImport`; `labels` names the outputs: `btcv` its 13 organs, `numbered` class 1, class 2 ..."""

    labels: Literal["numbered", "btcv"] = "numbered"


class VocoImport(Args):
    """As `SwinImport`; `crop` if not given is VoCo's own: 64 voxels for an encoder, 96 for a whole segmenter."""

    merge: Literal["legacy", "fixed", "v2"] = "legacy"
    crop: Size | None = None


class VitImport(Args):
    """`heads` of attention (64 channels each if not given), and `crop` and `patch` in voxels (cubes if not given)."""

    heads: Positive | None = None
    crop: Size | None = None
    patch: Size | None = None


class UnetrImport(Args):
    """`heads` and `crop` as of `VitImport`; `labels` names the outputs: `btcv` its 13 organs, `numbered` class 1 ..."""

    heads: Positive | None = None
    crop: Size | None = None
    labels: Literal["numbered", "btcv"] = "numbered"


class AxesImport(Args):
    """`axes` names the axes of the training volumes, such as `zyx`; if not given, they are as the adaptation plan says.

    `crop` is in voxels along X, Y and Z; if not given, that of the plan.
    """

    axes: Literal["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"] | None = None
    crop: Size | None = None


class ResEncImport(AxesImport):
    """As `AxesImport`; `strides` of each stage, for all axes or X, Y and Z: if not given, the plan's, or 1, 2, 2 ..."""

    strides: tuple[Positive | Size, ...] | None = None


class PrimusImport(AxesImport):
    """As `AxesImport`; `heads` of attention, if not given those of the plan, or of the published network of that width.

    `raster` is how tokens were put in a row: `legacy`, the second axis outermost, up to 0.4.2 of
    dynamic-network-architectures and by all trainers of nnssl but SimMIM; `fixed` by that one and since 0.4.3. If not
    given, it is told by the name of the trainer.
    """

    heads: Positive | None = None
    raster: Literal["legacy", "fixed"] | None = None
