"""What encoders, maskings, decoders and objectives exchange: tokens, masks and patches of a crop."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.errors import ShapeError
from mimzoo.loaded import Loadable

Size = tuple[int, int, int]
AXES = "XYZ"


@dataclass
class Tokens:
    """What `encode` returns: an encoder's tokens in raster order, and what was hidden from it.

    `values` is (B, N, D): the visible tokens when `dropped`, else all of them.
    `mask` is (B, GX, GY, GZ) bool on the token grid, True where hidden; `patch` is a token's size in voxels.
    """

    values: Tensor
    mask: Tensor
    patch: Size
    dropped: bool


@dataclass
class Loss:
    """What an objective returns: `loss`, a float32 scalar to minimise.

    `baseline` is the loss that predicting every hidden unit's mean would have, where the objective predicts voxels.
    """

    loss: Tensor
    baseline: Tensor | None = None


class Encoder(Loadable):
    """Base of the encoders, built as `cls(args, in_channels, crop)`.

    `channels` and `strides` (voxels per cell) describe the maps of `forward`, finest first; the tokens of `encode`
    lie on the grid of the last. `mask_unit` is the smallest unit that can be hidden and `crop_multiple` what a crop
    must be divisible by, both in voxels. `token_width` is the width of the tokens of `encode`, `depth` the number of
    blocks.
    """

    channels: tuple[int, ...]
    strides: tuple[Size, ...]
    mask_unit: Size
    crop_multiple: Size
    token_width: int
    depth: int
    # Names of parameters (1, D, GX, GY, GZ) that are resized when weights come from a crop of another size,
    grid_parameters: tuple[str, ...] = ()
    # and of parameters whose axis 1 is the input channels, adapted when those differ.
    input_parameters: tuple[str, ...] = ()

    @property
    def mask_width(self) -> int:
        """Return the size of the mask token: the width of what it replaces, in a pyramid that of its finest cells."""
        return self.token_width

    # `forward(volume (B, C, X, Y, Z))` returns the list of maps, each (B, channels[i], X / sx, Y / sy, Z / sz).
    forward: Callable[..., Any]

    def encode(self, volume: Tensor, mask: Tensor, mask_token: Tensor | None = None) -> Tokens:
        """Return the tokens of a volume (B, C, X, Y, Z) whose units (B, *units) are hidden where `mask` is True.

        Without `mask_token` hidden units are dropped, never computed; with one (mask_width,) they are replaced by it.
        """
        raise NotImplementedError

    def check_mask(self, mask: Tensor, dropped: bool) -> None:
        """Raise ShapeError when this encoder cannot hide the units of `mask` (B, *units); most can hide any."""

    def depth_of(self, parameter_name: str) -> int:
        """Return the block that a parameter belongs to: 0 for stem and positions, 1..depth for the blocks."""
        raise NotImplementedError


def sized(size: tuple[int, ...]) -> str:
    """Return a size as people write it: "96 x 96 x 48"."""
    return " x ".join(str(int(n)) for n in size)


def divide(size: tuple[int, ...], unit: Size, what: str, by: str) -> Size:
    """Return how many units fit along each axis of a size (X, Y, Z).

    Raises ShapeError that names both (`what` is divided `by`) and the nearest size that fits.
    """
    if any(n % u or n < u for n, u in zip(size, unit, strict=True)):
        near = tuple(max(u, round(n / u) * u) for n, u in zip(size, unit, strict=True))
        raise ShapeError(f"{what} {sized(size)} is not divisible by {by} {sized(unit)}; the nearest is {sized(near)}")
    return (size[0] // unit[0], size[1] // unit[1], size[2] // unit[2])


def check_volume(volume: Tensor, channels: int, multiple: Size) -> Size:
    """Return the size (X, Y, Z) of a volume (B, C, X, Y, Z) that an encoder is about to read.

    Raises ShapeError for other axes, another number of channels, or a size not divisible by `multiple`.
    """
    if volume.dim() != 5:
        raise ShapeError(f"a volume has the axes (B, C, X, Y, Z), got the shape {sized(tuple(volume.shape))}")
    if volume.shape[1] != channels:
        raise ShapeError(f"the volume has {volume.shape[1]} channels, but this encoder was built for {channels}")
    divide(tuple(volume.shape[2:]), multiple, "the crop", "what this encoder needs:")
    return (volume.shape[2], volume.shape[3], volume.shape[4])


def expand_mask(mask: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return a mask (B, *units) repeated over a finer grid: (B, *grid).

    Raises ShapeError when the grid is no multiple of the units.
    """
    fx, fy, fz = divide(grid, _three(mask), "the grid", "the units of the mask:")
    # (B, UX, UY, UZ) -> (B, UX, fx, UY, fy, UZ, fz) -> (B, GX, GY, GZ)
    wide = mask[:, :, None, :, None, :, None].expand(-1, -1, fx, -1, fy, -1, fz)
    return wide.reshape(mask.shape[0], *grid)


def spread_mask(mask: Tensor, grid: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a mask (B, *units) repeated over a grid as one channel, (B, 1, *grid), on the device of `like`."""
    return expand_mask(mask, grid)[:, None].to(like.device, non_blocking=True)


def _three(tensor: Tensor) -> Size:
    if tensor.dim() != 4:
        raise ShapeError(f"a mask has the axes (B, UX, UY, UZ), got the shape {sized(tuple(tensor.shape))}")
    return (tensor.shape[1], tensor.shape[2], tensor.shape[3])


def patchify(volume: Tensor, patch: Size) -> Tensor:
    """Return the patches of a volume (B, C, X, Y, Z) in raster order: (B, N, C * px * py * pz).

    Raises ShapeError when the volume is not divisible by the patch.
    """
    gx, gy, gz = divide(tuple(volume.shape[2:]), patch, "the volume", "the patch")
    px, py, pz = patch
    # (B, C, X, Y, Z) -> (B, C, gx, px, gy, py, gz, pz) -> (B, gx, gy, gz, C, px, py, pz) -> (B, N, C px py pz)
    split = volume.reshape(*volume.shape[:2], gx, px, gy, py, gz, pz)
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(volume.shape[0], gx * gy * gz, -1)


def unpatchify(patches: Tensor, patch: Size, size: tuple[int, ...]) -> Tensor:
    """Return the volume (B, C, *size) of all patches (B, N, C * px * py * pz): the inverse of `patchify`.

    Raises ShapeError when the patches do not make up that size.
    """
    gx, gy, gz = divide(size, patch, "the volume", "the patch")
    channels = patches.shape[2] // prod(patch)
    if patches.shape[1] != gx * gy * gz or patches.shape[2] != channels * prod(patch):
        given = f"{patches.shape[1]} patches of {patches.shape[2]} values"
        raise ShapeError(f"{given} do not make up a volume {sized(size)} of patches {sized(patch)}")
    # (B, N, C px py pz) -> (B, gx, gy, gz, C, px, py, pz) -> (B, C, gx, px, gy, py, gz, pz) -> (B, C, X, Y, Z)
    split = patches.reshape(patches.shape[0], gx, gy, gz, channels, *patch)
    return split.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(patches.shape[0], channels, *size)


def hidden_index(mask: Tensor) -> Tensor:
    """Return the raster indices (B, n) long of the hidden cells of a mask (B, GX, GY, GZ).

    Raises ShapeError when the samples do not hide the same number.
    """
    flat = mask.flatten(1)
    counts = flat.sum(1)
    if bool((counts != counts[0]).any()):
        raise ShapeError(f"every sample must hide the same number of cells, got {counts.tolist()}")
    # (B * n,) in raster order, sample after sample -> (B, n)
    return flat.nonzero()[:, 1].reshape(mask.shape[0], -1)


def visible_index(mask: Tensor) -> Tensor:
    """Return the raster indices (B, n) long of the visible cells of a mask (B, GX, GY, GZ).

    Raises ShapeError when the samples do not hide the same number.
    """
    return hidden_index(~mask)


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Return the tokens (B, n, D) of values (B, N, D) at raster indices (B, n); values of batch 1 serve all samples."""
    # Indices are made on the mask's device, usually the CPU, which spares a GPU from waiting for their number.
    index = index.to(values.device, non_blocking=True)
    batch, width = index.shape[0], values.shape[2]
    return values.expand(batch, -1, -1).gather(1, index[:, :, None].expand(-1, -1, width))


def resize_grid(values: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return values (1, D, GX, GY, GZ) resized trilinearly to another grid, computed in float32."""
    resized = nn.functional.interpolate(values.float(), size=grid, mode="trilinear", align_corners=False)
    return resized.to(values.dtype)


def hide(values: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """Return tokens (B, N, D) where those that `mask` (B, GX, GY, GZ) hides are the mask token (D,)."""
    # (B, GX, GY, GZ) -> (B, N, 1)
    hidden = mask.flatten(1)[:, :, None].to(values.device, non_blocking=True)
    return torch.where(hidden, mask_token.to(values.dtype), values)
