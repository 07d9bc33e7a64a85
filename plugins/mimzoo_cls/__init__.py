"""Heads that give a whole scan its classes: `mean-pool`, `attention-pool`."""

from mimzoo.specs import HeadSpec, hookimpl
from mimzoo_cls.args import AttentionPoolArgs, MeanPoolArgs


@hookimpl
def mimzoo_heads() -> list[HeadSpec]:
    """Return the scan-level heads: `mean-pool`, `attention-pool`."""
    return [
        HeadSpec(
            name="mean-pool",
            build="mimzoo_cls.mean_pool:MeanPool",
            args=MeanPoolArgs,
            task="classification",
            summary="One linear layer on the mean of the coarsest map.",
            source="Lin et al. 2014, arXiv 1312.4400",
        ),
        HeadSpec(
            name="attention-pool",
            build="mimzoo_cls.attention_pool:AttentionPool",
            args=AttentionPoolArgs,
            task="classification",
            summary="A learned query attends over the coarsest map.",
            source="Bardes et al. 2024, arXiv 2404.08471",
        ),
    ]
