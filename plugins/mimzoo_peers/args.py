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


class VitImport(Args):
    """`heads` of attention (64 channels each if not given), and `crop` and `patch` in voxels (cubes if not given)."""

    heads: Positive | None = None
    crop: Size | None = None
    patch: Size | None = None


class UnetrImport(VitImport):
    """As `VitImport`; `labels` names the outputs: `btcv` its 13 organs, `numbered` class 1, class 2 ..."""

    labels: Literal["numbered", "btcv"] = "numbered"


class ResEncImport(Args):
    """`crop` in voxels; if not given, that of the checkpoint's adaptation plan."""

    crop: Size | None = None


class PrimusImport(Args):
    """`heads` of attention and `crop` in voxels; if not given, those of the checkpoint's adaptation plan."""

    heads: Positive | None = None
    crop: Size | None = None
