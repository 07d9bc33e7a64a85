"""What every head must do."""

from collections.abc import Callable, Mapping
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.specs import Args, HeadSpec
from mimzoo.testing.common import CHANNELS, cells, check_module, require, sample_volume
from mimzoo.tokens import Size, sized

Strides = tuple[Size, ...]
MAPS: dict[str, Strides] = {
    "a plain transformer": ((8, 8, 8),) * 4,
    "a plain transformer with flat patches": ((8, 8, 4),) * 4,
    "a pyramid": ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16)),
    "a flat pyramid": ((2, 2, 1), (4, 4, 2), (8, 8, 4), (16, 16, 8)),
    "a pyramid from single voxels up": ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)),
    "a pyramid from stride 4 up": ((4, 4, 4), (8, 8, 8), (16, 16, 16)),
    "an encoder whose strides do not divide one another": ((4, 4, 4), (6, 6, 6)),
}
CLASSES, WIDTH = 3, 24


def check_head(name: str, args: Mapping[str, Any] | None = None) -> None:
    """Check the registered head `name` on maps of plain transformers and of pyramids; raise AssertionError if it fails.

    What it does not take it must refuse by a ShapeError; on what it takes: logits for every voxel, or for every scan
    where that is its task, on crops of several shapes; gradients, bfloat16, a round trip, that samples do not mix, and
    that the logits depend on the last map, or on exactly those maps that it names in `used_maps`.
    """
    spec = find("head", name)
    given = spec.check(args or {})
    taken = [whose for whose, strides in MAPS.items() if _takes(spec, given, whose, strides)]
    require(bool(taken), name, "it takes neither the maps of a plain transformer nor those of a pyramid")
    for whose in taken:
        _check_on(spec, given, whose, MAPS[whose])


def _takes(spec: HeadSpec, args: Args, whose: str, strides: Strides) -> bool:
    built = _attempt(spec.name, lambda: _build(spec, args, strides), f"to build it on the maps of {whose}")
    return built is not None


def _attempt(name: str, call: Callable[[], Any], what: str) -> Any:
    """Return what the call returns, or None where it is refused by a ShapeError; nothing else may be raised."""
    try:
        return call()
    except ShapeError:
        return None
    except Exception as error:
        raise AssertionError(f"{name}: {what} ends in {type(error).__name__} and not in a ShapeError") from error


def _build(spec: HeadSpec, args: Args, strides: Strides) -> nn.Module:
    torch.manual_seed(0)
    head: nn.Module = spec.load()(args, (WIDTH,) * len(strides), strides, CHANNELS, CLASSES)
    return head.eval()


def _check_on(spec: HeadSpec, args: Args, whose: str, strides: Strides) -> None:
    small, other = _crop(strides, (2, 1, 1)), _crop(strides, (1, 2, 3))
    check_module(spec.name, lambda: _build(spec, args, strides), lambda head: head(*_inputs(strides, small)))
    head = _build(spec, args, strides)
    for size in (small, other):
        _check_logits(spec, head, strides, size)
    _check_maps(spec.name, head, strides, small)
    _check_single_cell(spec.name, head, strides, whose)
    known = dict(head.named_parameters())
    for key in getattr(head, "input_parameters", ()):
        right = key in known and known[key].shape[1] == CHANNELS
        require(right, spec.name, f"input_parameters names {key!r}, which has not its input channels on axis 1")


def _crop(strides: Strides, counts: Size) -> Size:
    """Return the smallest crop of so many units that all strides divide."""
    x, y, z = (count * lcm(*along) for count, along in zip(counts, zip(*strides, strict=True), strict=True))
    return (x, y, z)


def _inputs(strides: Strides, size: Size) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(6)
    maps = [torch.randn(2, WIDTH, *cells(size, stride), generator=generator) for stride in strides]
    return maps, sample_volume(size)


@torch.no_grad()
def _check_logits(spec: HeadSpec, head: nn.Module, strides: Strides, size: Size) -> None:
    maps, volume = _inputs(strides, size)
    logits = head(maps, volume)
    given, wanted = tuple(logits.shape), (2, CLASSES, *(size if spec.task == "segmentation" else ()))
    require(given == wanted, spec.name, f"of a crop {sized(size)} its logits have the shape {given}, not {wanted}")
    first = head([found[:1] for found in maps], volume[:1])
    require(torch.allclose(first, logits[:1], atol=1e-4), spec.name, "a sample's logits depend on the others")


@torch.no_grad()
def _check_maps(name: str, head: nn.Module, strides: Strides, size: Size) -> None:
    maps, volume = _inputs(strides, size)
    logits, named = head(maps, volume), getattr(head, "used_maps", None)
    for number, found in enumerate(maps):
        others = [*maps[:number], found.flip(1), *maps[number + 1 :]]
        matters = not torch.equal(head(others, volume), logits)
        used = number == len(maps) - 1 if named is None else number in named
        require(matters or not used, name, f"map {number} does not reach the logits")
        require(used or not matters or named is None, name, f"used_maps leaves out map {number}, which it uses")


@torch.no_grad()
def _check_single_cell(name: str, head: nn.Module, strides: Strides, whose: str) -> None:
    """Check that a crop of one unit, alone in its batch, is refused or gives finite logits: some norms crash on it."""
    maps, volume = _inputs(strides, _crop(strides, (1, 1, 1)))
    given = lambda: head([found[:1] for found in maps], volume[:1])  # noqa: E731
    logits = _attempt(name, given, f"a crop of one cell of the last map of {whose}")
    require(logits is None or bool(logits.isfinite().all()), name, "on a crop of one cell its logits hold NaN or Inf")
