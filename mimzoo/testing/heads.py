"""What every head must do."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.testing.common import CHANNELS, cells, check_module, require, sample_volume
from mimzoo.tokens import Size, sized

Strides = tuple[Size, ...]
PLAIN: Strides = ((8, 8, 8),) * 4
PYRAMID: Strides = ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16))
CLASSES, WIDTH = 3, 24


def check_head(name: str, args: Mapping[str, Any] | None = None) -> None:
    """Check the registered head `name` on maps of a plain ViT and of a pyramid; raise AssertionError if it fails.

    What it does not take it must refuse by a ShapeError; on what it takes: logits at full resolution of cubic and other
    crops, gradients, bfloat16, a round trip, and that samples do not mix.
    """
    taken = [strides for strides in (PLAIN, PYRAMID) if _takes(name, args, strides)]
    require(bool(taken), name, "it takes neither the maps of a plain transformer nor those of a pyramid")
    for strides in taken:
        _check_on(name, args, strides)


def _takes(name: str, args: Mapping[str, Any] | None, strides: Strides) -> bool:
    try:
        _build(name, args, strides)
    except ShapeError:
        return False
    return True


def _build(name: str, args: Mapping[str, Any] | None, strides: Strides) -> nn.Module:
    spec = find("head", name)
    torch.manual_seed(0)
    head: nn.Module = spec.load()(spec.check(args or {}), (WIDTH,) * len(strides), strides, CHANNELS, CLASSES)
    return head.eval()


def _check_on(name: str, args: Mapping[str, Any] | None, strides: Strides) -> None:
    small: Size = (32, 16, 16)
    check_module(name, lambda: _build(name, args, strides), lambda head: head(*_inputs(strides, small)))
    head = _build(name, args, strides)
    for size in (small, (32, 32, 32), (16, 32, 48)):
        _check_logits(name, head, strides, size)
    known = dict(head.named_parameters())
    for key in getattr(head, "input_parameters", ()):
        right = key in known and known[key].shape[1] == CHANNELS
        require(right, name, f"input_parameters names {key!r}, which has not its input channels on axis 1")


def _inputs(strides: Strides, size: Size) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(6)
    maps = [torch.randn(2, WIDTH, *cells(size, stride), generator=generator) for stride in strides]
    return maps, sample_volume(size)


@torch.no_grad()
def _check_logits(name: str, head: nn.Module, strides: Strides, size: Size) -> None:
    maps, volume = _inputs(strides, size)
    logits = head(maps, volume)
    given, wanted = tuple(logits.shape), (2, CLASSES, *size)
    require(given == wanted, name, f"of a crop {sized(size)} its logits have the shape {given}, not {wanted}")
    first = head([found[:1] for found in maps], volume[:1])
    require(torch.allclose(first, logits[:1], atol=1e-4), name, "a sample's logits depend on the others")
