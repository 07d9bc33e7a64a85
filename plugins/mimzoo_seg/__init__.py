"""Segmentation heads on the maps of plain transformers and of pyramids."""

from mimzoo.specs import HeadSpec, hookimpl
from mimzoo_seg.args import ConvolutionArgs, SwinUnetrArgs, UnetrArgs, UnetrConcatArgs, UperNetArgs


@hookimpl
def mimzoo_heads() -> list[HeadSpec]:
    """Return the segmentation heads: `unetr`, `unetr-concat`, `swin-unetr`, `upernet`, `convolution`."""
    return [
        HeadSpec(
            name="unetr",
            build="mimzoo_seg.unetr:Unetr",
            args=UnetrArgs,
            summary="U-shaped decoder from equally coarse transformer maps to full resolution.",
            source="Hatamizadeh et al. 2022, arXiv 2103.10504",
        ),
        HeadSpec(
            name="unetr-concat",
            build="mimzoo_seg.unetr_concat:UnetrConcat",
            args=UnetrConcatArgs,
            summary="U-shaped decoder that concatenates where `unetr` adds, weight-compatible with MONAI's UNETR.",
            source="Hatamizadeh et al. 2022, arXiv 2103.10504",
        ),
        HeadSpec(
            name="swin-unetr",
            build="mimzoo_seg.swin_unetr:SwinUnetr",
            args=SwinUnetrArgs,
            summary="U-shaped decoder from a pyramid of maps to full resolution, weight-compatible with MONAI's.",
            source="Hatamizadeh et al. 2022, arXiv 2201.01266",
        ),
        HeadSpec(
            name="upernet",
            build="mimzoo_seg.upernet:UperNet",
            args=UperNetArgs,
            summary="Feature pyramid with pooled context, all levels fused; for pyramids and plain transformers.",
            source="Xiao et al. 2018, arXiv 1807.10221",
        ),
        HeadSpec(
            name="convolution",
            build="mimzoo_seg.convolution:Convolution",
            args=ConvolutionArgs,
            summary="One convolution over the sum of all maps, the lightest; for pyramids and plain transformers.",
            source="Kirillov et al. 2019, arXiv 1901.02446",
        ),
    ]
