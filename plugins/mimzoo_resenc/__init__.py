"""Residual convolutional encoders of nnU-Net: `resenc-small`, `resenc-base`, `resenc-large`."""

from mimzoo.specs import EncoderSpec, hookimpl
from mimzoo_resenc.args import ResEncArgs

SIZES = {
    "resenc-small": ((16, 32, 64, 128, 160, 160), (1, 2, 2, 2, 2, 2)),
    "resenc-base": ((32, 64, 128, 256, 320, 320), (1, 2, 2, 4, 4, 4)),
    "resenc-large": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
}


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the residual encoders: six stages each, of 11, 17 and 26 blocks."""
    return [_resenc(name, features, blocks) for name, (features, blocks) in SIZES.items()]


def _resenc(name: str, features: tuple[int, ...], blocks: tuple[int, ...]) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        build="mimzoo_resenc.encoder:ResidualEncoder",
        args=ResEncArgs,
        defaults={"features": features, "blocks": blocks},
        summary=f"Residual CNN of nnU-Net, {len(features)} stages of {features[0]} to {features[-1]} features, "
        f"{sum(blocks)} blocks.",
        source="Isensee et al. 2024, arXiv 2404.09556",
    )
