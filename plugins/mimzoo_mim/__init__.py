"""Masked image modelling: random masking, reconstruction decoders, and the MAE and SimMIM objectives."""

from mimzoo.specs import DecoderSpec, MaskingSpec, ObjectiveSpec, hookimpl
from mimzoo_mim.args import LinearArgs, RandomArgs, ReconstructionArgs, TransformerArgs

MAE = "He et al. 2022, arXiv 2111.06377"
SIMMIM = "Xie et al. 2022, arXiv 2111.09886"


@hookimpl
def mimzoo_maskings() -> list[MaskingSpec]:
    """Return the masking strategies: `random`."""
    return [
        MaskingSpec(
            name="random",
            build="mimzoo_mim.masking:RandomMasking",
            args=RandomArgs,
            summary="Hides a share of the units, each as likely as any other.",
            source=MAE,
        )
    ]


@hookimpl
def mimzoo_decoders() -> list[DecoderSpec]:
    """Return the reconstruction decoders: `transformer` for dropped units, `linear` for replaced ones."""
    return [
        DecoderSpec(
            name="transformer",
            build="mimzoo_mim.decoder:TransformerDecoder",
            args=TransformerArgs,
            modes=("drop",),
            summary="A small transformer over visible tokens and mask tokens.",
            source=MAE,
        ),
        DecoderSpec(
            name="linear",
            build="mimzoo_mim.decoder:LinearDecoder",
            args=LinearArgs,
            modes=("replace",),
            summary="One linear layer from a token to its voxels.",
            source=SIMMIM,
        ),
    ]


@hookimpl
def mimzoo_objectives() -> list[ObjectiveSpec]:
    """Return the objectives: `mae` drops hidden units, `simmim` replaces them; else they are one."""
    return [
        _objective("mae", ("drop", "normalised", "l2"), "Predict the units that the encoder never saw.", MAE),
        _objective("simmim", ("replace", "raw", "l1"), "Predict the units replaced by a learned token.", SIMMIM),
    ]


def _objective(name: str, choice: tuple[str, str, str], summary: str, source: str) -> ObjectiveSpec:
    return ObjectiveSpec(
        name=name,
        build="mimzoo_mim.objective:MaskedReconstruction",
        args=ReconstructionArgs,
        defaults=dict(zip(("mode", "target", "loss"), choice, strict=True)),
        summary=summary,
        source=source,
    )
