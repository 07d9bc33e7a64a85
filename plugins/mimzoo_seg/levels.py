"""Levels between single voxels and maps of one stride, and how the U-shaped decoders climb them."""

from collections.abc import Sequence
from math import log2

from torch import nn

from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, sized


def levels_of(head: str, strides: Sequence[Size]) -> list[Size]:
    """Return the strides of the levels, each twice as coarse as the last, from single voxels to the encoder's.

    Axes that reach their own stride early stay there. Raises ShapeError for maps of different strides, or strides that
    are no powers of two.
    """
    if len(set(strides)) > 1:
        given = ", ".join(sized(stride) for stride in strides)
        raise ShapeError(f"the {head} head takes maps of one stride, as of a plain ViT, but this encoder's are {given}")
    coarsest = strides[0]
    if any(n & (n - 1) for n in coarsest) or max(coarsest) == 1:
        raise ShapeError(
            f"the {head} head takes strides of 1, 2, 4, 8, 16 ... voxels, but here it is {sized(coarsest)}"
        )
    count = round(log2(max(coarsest)))
    return [_at(coarsest, level) for level in range(count + 1)]


def _at(coarsest: Size, level: int) -> Size:
    x, y, z = (min(n, 2**level) for n in coarsest)
    return (x, y, z)


def taps_of(levels: Sequence[Size], maps: int) -> list[int]:
    """Return which map feeds each level between: earlier maps the finer levels, evenly over all but the last map."""
    between, last = len(levels) - 2, max(maps - 2, 0)
    return [round(n * last / (between - 1)) if between > 1 else last for n in range(between)]


def climb(before: int, after: int, coarse: Size, fine: Size, bias: bool = True) -> nn.ConvTranspose3d:
    """Return the transposed convolution from a level of stride `coarse` to one of stride `fine`."""
    factor = (coarse[0] // fine[0], coarse[1] // fine[1], coarse[2] // fine[2])
    return nn.ConvTranspose3d(before, after, factor, factor, bias=bias)
