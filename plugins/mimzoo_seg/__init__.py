"""Segmentation heads on the maps of plain transformers: `unetr`."""

from mimzoo.specs import HeadSpec, hookimpl
from mimzoo_seg.args import UnetrArgs


@hookimpl
def mimzoo_heads() -> list[HeadSpec]:
    """Return the segmentation heads: `unetr`."""
    return [
        HeadSpec(
            name="unetr",
            build="mimzoo_seg.unetr:Unetr",
            args=UnetrArgs,
            summary="U-shaped decoder from equally coarse transformer maps to full resolution.",
            source="Hatamizadeh et al. 2022, arXiv 2103.10504",
        )
    ]
