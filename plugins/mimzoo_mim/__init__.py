"""Masked image modelling: maskings, reconstruction decoders, and the MAE and SimMIM objectives."""

from mimzoo.specs import DecoderSpec, MaskingSpec, ObjectiveSpec, hookimpl
from mimzoo_mim.args import (
    AxisArgs,
    ConvolutionArgs,
    ForegroundArgs,
    LinearArgs,
    MaskInMaskArgs,
    ReconstructionArgs,
    TransformerArgs,
    UnitArgs,
)

MAE = "He et al. 2022, arXiv 2111.06377"
SIMMIM = "Xie et al. 2022, arXiv 2111.09886"
UM_MAE = "Li et al. 2022, arXiv 2205.10063"
VIDEO_MAE = "Tong et al. 2022, arXiv 2203.12602"
WEIGHTED = "Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003"
MIM = "Zhuang et al. 2024, arXiv 2404.15580"


@hookimpl
def mimzoo_maskings() -> list[MaskingSpec]:
    """Return the masking strategies; ratio and unit are arguments of each."""
    return [
        _masking("random", "RandomMasking", UnitArgs, "Hides a share of the units, each as likely as any other.", MAE),
        _masking("block", "BlockMasking", UnitArgs, "Hides cuboids of units.", "Bao et al. 2022, arXiv 2106.08254"),
        _masking("uniform", "UniformMasking", UnitArgs, "Leaves one unit visible in every cell of units.", UM_MAE),
        _masking("slab", "SlabMasking", AxisArgs, "Hides neighbouring planes across an axis.", "this project"),
        _masking("tube", "TubeMasking", AxisArgs, "Hides columns of units along an axis.", VIDEO_MAE),
        _masking("foreground", "ForegroundMasking", ForegroundArgs, "Hides content more often than air.", WEIGHTED),
        _masking("mask-in-mask", "MaskInMask", MaskInMaskArgs, "Hides coarse blocks, then single units.", MIM),
    ]


def _masking(name: str, target: str, args: type[UnitArgs], summary: str, source: str) -> MaskingSpec:
    return MaskingSpec(name=name, build=f"mimzoo_mim.masking:{target}", args=args, summary=summary, source=source)


@hookimpl
def mimzoo_decoders() -> list[DecoderSpec]:
    """Return the reconstruction decoders: `transformer` for dropped units, `linear` for replaced ones, and for both."""
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
        DecoderSpec(
            name="convolution",
            build="mimzoo_mim.decoder:ConvolutionDecoder",
            args=ConvolutionArgs,
            summary="A few convolutions on the grid of tokens, holes filled by a mask token.",
            source="Tian et al. 2023, arXiv 2301.03580",
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
