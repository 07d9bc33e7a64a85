"""The arguments of the scan-level heads."""

from typing import Annotated

from pydantic import Field

from mimzoo.specs import Args

Share = Annotated[float, Field(ge=0, lt=1)]


class MeanPoolArgs(Args):
    """`dropout` is the share of features left out while training."""

    dropout: Share = 0.0


class AttentionPoolArgs(Args):
    """`heads` divide the coarsest map's channels, `mlp_ratio` times as many are in the hidden layer; then `dropout`."""

    heads: Annotated[int, Field(ge=1)] = 4
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    dropout: Share = 0.0
