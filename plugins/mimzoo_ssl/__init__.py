"""Self-supervised objectives without masks: SimCLR, the contrastive baseline, and Models Genesis."""

from mimzoo.specs import ObjectiveSpec, hookimpl
from mimzoo_ssl.args import GenesisArgs, SimClrArgs


@hookimpl
def mimzoo_objectives() -> list[ObjectiveSpec]:
    """Return the objectives: `simclr` compares crops, `models-genesis` restores corrupted ones."""
    return [
        ObjectiveSpec(
            name="simclr",
            build="mimzoo_ssl.simclr:SimClr",
            args=SimClrArgs,
            needs=(),
            summary="Tell two views of one crop from those of others.",
            source="Chen et al. 2020, arXiv 2002.05709",
        ),
        ObjectiveSpec(
            name="models-genesis",
            build="mimzoo_ssl.genesis:ModelsGenesis",
            args=GenesisArgs,
            needs=("decoder",),
            summary="Restore a crop whose intensities, texture and parts were corrupted.",
            source="Zhou et al. 2021, arXiv 2004.07882",
        ),
    ]
