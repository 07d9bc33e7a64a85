"""Shifted-window transformers on 3D patches: `swin-tiny`, `swin-small`, `swin-base`."""

from mimzoo.specs import EncoderSpec, hookimpl
from mimzoo_swin.args import SwinArgs

SIZES = {"swin-tiny": (24, (2, 2, 2, 2)), "swin-small": (48, (2, 2, 2, 2)), "swin-base": (96, (2, 2, 6, 2))}


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the Swin encoders: four stages that begin 24, 48 and 96 wide."""
    return [_swin(name, width, depths) for name, (width, depths) in SIZES.items()]


def _swin(name: str, width: int, depths: tuple[int, ...]) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        build="mimzoo_swin.encoder:SwinTransformer",
        args=SwinArgs,
        defaults={"width": width, "depths": depths, "heads": (3, 6, 12, 24)},
        summary=f"Shifted-window transformer on 3D patches, {width} to {16 * width} wide, {sum(depths)} blocks.",
        source="Hatamizadeh et al. 2022, arXiv 2201.01266",
    )
