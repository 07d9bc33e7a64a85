"""What every encoder must do."""

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.testing.common import (
    CHANNELS,
    cells,
    check_module,
    check_refused,
    half_mask,
    require,
    sample_volume,
    uniform_mask,
)
from mimzoo.tokens import Encoder, Size, Tokens, expand_mask, sized, visible_index


def check_encoder(name: str, args: Mapping[str, Any] | None = None, crop: Size = (64, 64, 64)) -> None:
    """Check the registered encoder `name`, built with `args` for crops of 2 channels; raise AssertionError if it fails.

    Shapes on this and on a non-cubic crop, refusals, determinism, gradients, bfloat16, a round trip through a file,
    and, in each of its modes, that no bit of what is hidden reaches the tokens. Random units are hidden, or, where the
    encoder refuses to drop these, one of every two neighbours along an axis with an even number of units.
    """
    spec = find("encoder", name)

    def build() -> Encoder:
        torch.manual_seed(0)
        encoder: Encoder = spec.load()(spec.check(args or {}), CHANNELS, crop)
        return encoder.eval()

    encoder = build()
    _check_description(name, encoder)
    for size in (crop, _scaled(encoder.crop_multiple, (2, 1, 3))):
        _check_maps(name, encoder, size)
        for mode in spec.modes:
            _check_hiding(name, encoder, size, mode)
    _check_refusals(name, encoder, crop)
    check_module(name, build, lambda module: module(sample_volume(crop)))
    for key, _ in encoder.named_parameters():
        require(0 <= encoder.depth_of(key) <= encoder.depth, name, f"depth_of({key!r}) is not between 0 and its depth")


def _scaled(unit: Size, factors: Size) -> Size:
    return (unit[0] * factors[0], unit[1] * factors[1], unit[2] * factors[2])


def _check_description(name: str, encoder: Encoder) -> None:
    for key in ("channels", "strides", "mask_unit", "crop_multiple", "token_width", "mask_width", "depth"):
        require(hasattr(encoder, key), name, f"it has no attribute {key!r}")
    channels, strides = encoder.channels, encoder.strides
    require(len(channels) == len(strides) > 0, name, f"it has {len(channels)} channels but {len(strides)} strides")
    finest_first = all(prod(a) <= prod(b) for a, b in pairwise(strides))
    require(finest_first, name, f"its strides are not finest first: {', '.join(map(sized, strides))}")
    known = dict(encoder.named_parameters())
    for key in (*encoder.grid_parameters, *encoder.input_parameters):
        require(key in known, name, f"it names the parameter {key!r}, which it does not have")
    for key in encoder.input_parameters:
        require(known[key].shape[1] == CHANNELS, name, f"axis 1 of {key!r} is not its input channels")
    for key in encoder.grid_parameters:
        require(known[key].dim() == 5, name, f"{key!r} does not have the axes (1, D, GX, GY, GZ)")


def _check_maps(name: str, encoder: Encoder, size: Size) -> None:
    volume = sample_volume(size)
    with torch.no_grad():
        maps, again = encoder(volume), encoder(volume)
    wanted = [
        (2, width, *(n // s for n, s in zip(size, stride, strict=True)))
        for width, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    shapes = [tuple(found.shape) for found in maps]
    require(shapes == wanted, name, f"of a crop {sized(size)} its maps are {shapes}, but it promises {wanted}")
    same = all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))
    require(same, name, "two forward passes of one volume differ in evaluation mode")
    require(all(bool(found.isfinite().all()) for found in maps), name, "its maps hold NaN or Inf")


def _check_hiding(name: str, encoder: Encoder, size: Size, mode: str) -> None:
    """Change every hidden voxel: nothing of the tokens may change; change the visible ones: something must."""
    token = torch.randn(encoder.mask_width, requires_grad=True) if mode == "replace" else None
    mask, volume = _hideable(name, encoder, size, token), sample_volume(size)
    hidden = expand_mask(mask, size)[:, None]
    noise = 100 * torch.randn(volume.shape, generator=torch.Generator().manual_seed(2))
    tokens = encoder.encode(volume, mask, token)
    other = encoder.encode(torch.where(hidden, noise, volume), mask, token)
    seen = encoder.encode(torch.where(hidden, volume, noise), mask, token)
    _check_tokens(name, encoder, size, tokens, mask)
    require(torch.equal(tokens.values, other.values), name, f"hidden voxels leak into the tokens in mode {mode!r}")
    require(not torch.equal(tokens.values, seen.values), name, f"visible voxels do not matter in mode {mode!r}")
    if token is not None:
        torch.autograd.backward(tokens.values.square().sum())
        require(token.grad is not None, name, "the mask token gets no gradient")


def _hideable(name: str, encoder: Encoder, size: Size, token: Tensor | None) -> Tensor:
    """Return a mask of random units, or, for an encoder that refuses to drop these, one that is uniform."""
    units = cells(size, encoder.mask_unit)
    mask = half_mask(units)
    try:
        encoder.encode(sample_volume(size), mask, token)
    except ShapeError:
        require(token is None, name, "it refuses to replace random units")
        check_refused(name, lambda: encoder.check_mask(mask, dropped=True), "by check_mask, a mask that encode refuses")
        mask = uniform_mask(units)
    encoder.check_mask(mask, dropped=token is None)
    return mask


def _check_tokens(name: str, encoder: Encoder, size: Size, tokens: Tokens, mask: Tensor) -> None:
    grid = cells(size, encoder.strides[-1])
    require(tokens.patch == encoder.strides[-1], name, "its tokens do not lie on the grid of its coarsest map")
    right = tokens.mask.shape[1:] == grid and torch.equal(tokens.mask, expand_mask(mask, grid))
    require(right, name, f"tokens.mask is not the mask on the token grid {sized(grid)}")
    count = visible_index(tokens.mask).shape[1] if tokens.dropped else prod(grid)
    wanted = (2, count, encoder.token_width)
    given = tuple(tokens.values.shape)
    require(given == wanted, name, f"its tokens have the shape {given}, but it promises {wanted}")


def _check_refusals(name: str, encoder: Encoder, crop: Size) -> None:
    check_refused(name, lambda: encoder(sample_volume(crop, channels=CHANNELS + 1)), "a volume with too many channels")
    if max(encoder.crop_multiple) > 1:
        uneven = tuple(n + (m > 1) for n, m in zip(crop, encoder.crop_multiple, strict=True))
        check_refused(name, lambda: encoder(sample_volume(uneven)), "a crop that is no multiple of its crop_multiple")
