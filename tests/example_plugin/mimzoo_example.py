"""A third party's plugin: one encoder."""

from mimzoo.specs import Args, EncoderSpec, hookimpl


class PatchMlpArgs(Args):
    """`patch` in voxels, `width` of the tokens, `depth` in blocks."""

    patch: tuple[int, int, int] = (8, 8, 8)
    width: int = 32
    depth: int = 2


@hookimpl
def mimzoo_encoders() -> list[EncoderSpec]:
    """Return the encoder of this package."""
    return [
        EncoderSpec(
            name="example-mlp",
            build="mimzoo_example_encoder:PatchMlp",
            args=PatchMlpArgs,
            summary="Looks at each patch by itself.",
            source="this example",
        )
    ]
