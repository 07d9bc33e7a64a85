"""What the heads have in common: a convolution with its norm, and checks of the maps they are given."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.norms import Norm
from mimzoo.tokens import Size, sized

SLOPE = 0.01


def convolve(before: int, after: int, norm: str) -> nn.Sequential:
    """Return a convolution over 3 x 3 x 3 cells with its norm and activation."""
    convolution = nn.Conv3d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, Norm(norm, after), nn.LeakyReLU(SLOPE, inplace=True))


def check_strides(head: str, strides: Sequence[Size]) -> None:
    """Raise ShapeError unless the strides, finest first, divide one another along every axis."""
    if any(c % f for fine, coarse in pairwise(strides) for f, c in zip(fine, coarse, strict=True)):
        given = ", ".join(sized(stride) for stride in strides)
        raise ShapeError(
            f"the {head} head takes maps each of whose strides divides the next, but this encoder's are {given}; "
            "choose other strides or another encoder"
        )


def check_cells(head: str, refine: nn.Sequential, x: Tensor) -> None:
    """Raise ShapeError where the norm in `refine` would make 0 of x (B, C, X, Y, Z), a single cell normed by itself."""
    norm = refine[1]
    assert isinstance(norm, Norm)
    if norm.groups == x.shape[1] and prod(x.shape[2:]) == 1:
        raise ShapeError(
            f"the crop is a single cell of the finest level of the {head} head, of which instance norm makes 0; "
            "use a larger crop, or norm=group with a width that 8 divides"
        )
