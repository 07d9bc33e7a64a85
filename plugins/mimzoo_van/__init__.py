"""Visual attention networks in 3D: `van-tiny`, `van-small`, `van-base`."""

from mimzoo.specs import EncoderSpec, hookimpl
from mimzoo_van.args import VanArgs

SIZES = {
    "van-tiny": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "van-small": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "van-base": ((64, 128, 320, 512), (3, 3, 12, 3)),
}


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the visual attention networks: four stages each, of 13, 10 and 21 blocks."""
    return [_van(name, widths, depths) for name, (widths, depths) in SIZES.items()]


def _van(name: str, widths: tuple[int, ...], depths: tuple[int, ...]) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        build="mimzoo_van.encoder:VisualAttentionNetwork",
        args=VanArgs,
        defaults={"widths": widths, "depths": depths},
        modes=("replace",),
        summary=f"CNN with large-kernel attention, {len(widths)} stages of width {widths[0]} to {widths[-1]}, "
        f"{sum(depths)} blocks.",
        source="Guo et al. 2022, arXiv 2202.09741",
    )
