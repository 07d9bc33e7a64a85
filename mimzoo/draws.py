"""Random numbers for the crops of a batch: a crop gets the same ones however the batch is shared out."""

from collections.abc import Callable

import torch
from torch import Tensor


class Share(torch.Generator):
    """A generator for some of the crops of a batch of `whole`, in order, beginning with crop `first`.

    By the functions below, what is drawn for a crop then depends on the seed and on its place in the batch alone. Any
    other generator stands for a whole batch, and what is drawn from any of them without these functions is the same
    for all shares.
    """

    whole: int
    first: int

    def __new__(cls, seed: int, whole: int, first: int) -> "Share":
        """Return the generator under a seed, which all shares of the batch have in common."""
        made = super().__new__(cls)
        made.whole, made.first = whole, first
        made.manual_seed(seed)
        return made


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    """Return numbers between 0 and 1 of this shape, whose first axis is the crops."""
    whole, own = _rows(generator, shape[0])
    return torch.rand(whole, *shape[1:], generator=generator, device=generator.device)[own]


def draw_below(generator: torch.Generator, below: int, *shape: int) -> Tensor:
    """Return whole numbers from 0 to `below` - 1 of this shape, whose first axis is the crops."""
    whole, own = _rows(generator, shape[0])
    return torch.randint(below, (whole, *shape[1:]), generator=generator, device=generator.device)[own]


def draw_each(sample: Callable[..., Tensor], generator: torch.Generator, *shape: int) -> Tensor:
    """Return what `sample` (torch.rand, torch.randn) draws of this shape, whose first axis is the crops.

    Each crop has a generator of its own, so that of many numbers none is drawn for a crop of another share.
    """
    device, seeds = generator.device, draw_below(generator, 2**62, shape[0]).tolist()
    each = (torch.Generator(device).manual_seed(seed) for seed in seeds)
    return torch.stack([sample(*shape[1:], generator=own, device=device) for own in each])


def _rows(generator: torch.Generator, crops: int) -> tuple[int, slice]:
    if not isinstance(generator, Share):
        return crops, slice(crops)
    return generator.whole, slice(generator.first, generator.first + crops)
