"""Vision transformers with rotary positions and gated MLPs: `primus-small`, `primus-base`, `primus-medium`."""

from mimzoo.specs import EncoderSpec, hookimpl
from mimzoo_primus.args import PrimusArgs

SIZES = {"primus-small": (396, 12, 6), "primus-base": (792, 12, 12), "primus-medium": (864, 16, 12)}


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the Primus encoders in the sizes S, B and M of the paper."""
    return [_primus(name, *size) for name, size in SIZES.items()]


def _primus(name: str, width: int, depth: int, heads: int) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        build="mimzoo_primus.encoder:Primus",
        args=PrimusArgs,
        defaults={"width": width, "depth": depth, "heads": heads},
        summary=f"Vision transformer with 3D rotary positions, {width} wide, {depth} deep, {heads} heads.",
        source="Wald et al. 2025, arXiv 2503.01835",
    )
