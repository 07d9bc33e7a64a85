"""Random views of crops, decided by a generator alone: every sample of a batch gets changes of its own."""

import torch
from torch import Tensor
from torch.nn import functional

from mimzoo.draws import draw, draw_each
from mimzoo_ssl.args import SimClrArgs

BLUR_RADIUS = 2


def uniform(generator: torch.Generator, volume: Tensor, low: float, high: float, columns: int = 1) -> Tensor:
    """Return numbers (B, columns) between `low` and `high` for a batch of volumes, on their device."""
    return (low + (high - low) * draw(generator, volume.shape[0], columns)).to(volume.device)


def chosen(generator: torch.Generator, volume: Tensor, probability: float) -> Tensor:
    """Return which samples of a batch are changed: (B, 1, 1, 1, 1) bool."""
    return (uniform(generator, volume, 0, 1) < probability)[:, :, None, None, None]


def boxes(start: Tensor, side: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return boxes (B, 1, X, Y, Z) bool that begin at `start` and are `side` long, both (B, 3) as shares of `size`."""
    spans = []
    for axis, count in enumerate(size):
        place = (torch.arange(count, device=start.device) + 0.5) / count
        low = start[:, axis, None]
        spans.append((place >= low) & (place < low + side[:, axis, None]))
    x, y, z = spans
    # 3 x (B, n) -> (B, X, Y, Z) -> (B, 1, X, Y, Z)
    return (x[:, :, None, None] & y[:, None, :, None] & z[:, None, None, :])[:, None]


def make_view(volume: Tensor, generator: torch.Generator, args: SimClrArgs) -> Tensor:
    """Return one view of each crop (B, C, X, Y, Z), of the same shape: a part of it, changed in its intensities."""
    view = _part(volume, generator, args)
    # Amounts are in deviations of the crop, so that they mean the same for HU windows and z-scores.
    deviation, mean = torch.std_mean(view, dim=(1, 2, 3, 4), keepdim=True)
    deviation = deviation.clamp_min(1e-6)
    factor = uniform(generator, view, 1 - args.contrast, 1 + args.contrast)[:, :, None, None, None]
    shift = uniform(generator, view, -args.shift, args.shift)[:, :, None, None, None] * deviation
    view = torch.where(chosen(generator, view, args.probability), (view - mean) * factor + mean + shift, view)
    view = torch.where(chosen(generator, view, args.probability), _blur(view, generator, args), view)
    grain = draw_each(torch.randn, generator, *view.shape).to(view.device)
    amount = uniform(generator, view, 0, args.noise)[:, :, None, None, None] * deviation
    view = torch.where(chosen(generator, view, args.probability), view + grain * amount, view)
    return torch.where(_cutout(view, generator, args), mean, view)


def _part(volume: Tensor, generator: torch.Generator, args: SimClrArgs) -> Tensor:
    """Return a part of each crop, mirrored or not, stretched to the whole."""
    side = uniform(generator, volume, args.smallest, 1, columns=3)
    centre = (2 * uniform(generator, volume, 0, 1, columns=3) - 1) * (1 - side)
    mirrored = uniform(generator, volume, 0, 1, columns=3) < 0.5
    scale = torch.where(mirrored & args.flip, -side, side)
    # Sampling works in coordinates of -1..1 in the order Z, Y, X: theta is (B, 3, 4)
    theta = torch.cat([torch.diag_embed(scale.flip(1)), centre.flip(1)[:, :, None]], dim=2)
    grid = functional.affine_grid(theta.float(), list(volume.shape), align_corners=False)
    found = functional.grid_sample(volume.float(), grid, padding_mode="border", align_corners=False)
    return found.to(volume.dtype)


def _blur(volume: Tensor, generator: torch.Generator, args: SimClrArgs) -> Tensor:
    """Return each crop smoothed by a Gaussian of its own width, one axis after the other."""
    sigma = uniform(generator, volume, 0.1, max(args.blur, 0.1))
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=volume.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    # (B, taps), the same for every channel of a sample -> (B C, taps)
    taps = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(volume.shape[1], dim=0).to(volume.dtype)
    # (B, C, X, Y, Z) -> (1, B C, X, Y, Z): every channel of every sample is a group
    x = volume.flatten(0, 1)[None]
    for axis in range(3):
        shape, ends = [len(taps), 1, 1, 1, 1], [0] * 6
        # Padding is given for the last axis first.
        shape[2 + axis], ends[4 - 2 * axis : 6 - 2 * axis] = taps.shape[1], (BLUR_RADIUS, BLUR_RADIUS)
        x = functional.conv3d(functional.pad(x, ends, mode="replicate"), taps.reshape(shape), groups=len(taps))
    # (1, B C, X, Y, Z) -> (B, C, X, Y, Z)
    return x.reshape(volume.shape)


def _cutout(volume: Tensor, generator: torch.Generator, args: SimClrArgs) -> Tensor:
    side = uniform(generator, volume, 0, args.cutout, columns=3)
    start = uniform(generator, volume, 0, 1, columns=3) * (1 - side)
    return boxes(start, side, tuple(volume.shape[2:])) & chosen(generator, volume, args.probability)
