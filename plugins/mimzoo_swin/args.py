"""The arguments of the Swin encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.specs import Args

Positive = Annotated[int, Field(ge=1)]


class SwinArgs(Args):
    """`patch` in voxels, `window` in cells; `depths` and `heads` have one entry for each stage, which doubles `width`.

    `merge` is how cells are joined between stages: `fixed` as in MONAI since 1.5, `legacy` as before, for weights that
    were trained so. `residual_convolutions` puts two of them before each stage (SwinUNETR-V2, He et al. 2023,
    doi 10.1007/978-3-031-43901-8_40). `drop_path` is reached at the last block.
    """

    patch: tuple[Positive, Positive, Positive] = (2, 2, 2)
    width: Positive = 48
    depths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2, 2, 2, 2)
    heads: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3, 6, 12, 24)
    window: tuple[Positive, Positive, Positive] = (7, 7, 7)
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    qkv_bias: bool = True
    merge: Literal["fixed", "legacy"] = "fixed"
    residual_convolutions: bool = False
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _stages_agree(self) -> "SwinArgs":
        if len(self.depths) != len(self.heads):
            stages = f"depths {self.depths} are {len(self.depths)} stages but heads {self.heads} are {len(self.heads)}"
            raise ValueError(f"{stages}; give one of each for every stage")
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                wide = f"the width {self.width * 2**stage} of stage {stage + 1}"
                raise ValueError(f"{wide} must be a multiple of its heads {heads}; change width {self.width} or heads")
        return self
