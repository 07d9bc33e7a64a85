"""Plain vision transformers on 3D patches: `vit-tiny`, `vit-small`, `vit-base`."""

from mimzoo.specs import EncoderSpec, hookimpl
from mimzoo_vit.args import VitArgs

SIZES = {"vit-tiny": (192, 3), "vit-small": (384, 6), "vit-base": (768, 12)}


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the ViT encoders: 12 blocks, of width 192, 384 and 768."""
    return [_vit(name, width, heads) for name, (width, heads) in SIZES.items()]


def _vit(name: str, width: int, heads: int) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        build="mimzoo_vit.encoder:VisionTransformer",
        args=VitArgs,
        defaults={"width": width, "depth": 12, "heads": heads},
        summary=f"Vision transformer on 3D patches, {width} wide, 12 deep, {heads} heads.",
        source="Dosovitskiy et al. 2021, arXiv 2010.11929",
    )
