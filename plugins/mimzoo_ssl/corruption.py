"""The corruptions of Models Genesis (Zhou et al. 2021, arXiv 2004.07882), for whole batches, decided by a generator."""

import torch
from torch import Tensor

from mimzoo.draws import draw_each
from mimzoo.tokens import Size, patchify, unpatchify
from mimzoo_ssl.args import GenesisArgs
from mimzoo_ssl.views import boxes, chosen, uniform

CURVE_POINTS = 256
LARGEST_SHUFFLE = 4
BOXES = 5
INSIDE = (1 / 6, 1 / 3)
OUTSIDE = (3 / 7, 4 / 7)


def corrupt(volume: Tensor, generator: torch.Generator, args: GenesisArgs) -> Tensor:
    """Return a corrupted copy of a volume (B, C, X, Y, Z) float32; each sample gets corruptions of its own."""
    low, high = volume.amin(dim=(1, 2, 3, 4), keepdim=True), volume.amax(dim=(1, 2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    x = (volume - low) / span
    x = torch.where(chosen(generator, x, args.shuffling), shuffle_texture(x, generator), x)
    x = torch.where(chosen(generator, x, args.nonlinear), bend_intensities(x, generator), x)
    painted = torch.where(
        chosen(generator, x, args.inpainting), paint(x, generator, INSIDE, True), paint(x, generator, OUTSIDE, False)
    )
    x = torch.where(chosen(generator, x, args.painting), painted, x)
    return x * span + low


def bend_intensities(volume: Tensor, generator: torch.Generator) -> Tensor:
    """Return intensities in 0..1 sent through a monotone Bezier curve, rising or falling, one for each sample."""
    t = torch.linspace(0, 1, CURVE_POINTS, device=volume.device)
    # Control points (0, 0), two at random, (1, 1): (B, 2) each
    xs, ys = (uniform(generator, volume, 0, 1, columns=2).sort(dim=1).values for _ in range(2))
    x, y = (3 * (1 - t) ** 2 * t * p[:, :1] + 3 * (1 - t) * t**2 * p[:, 1:] + t**3 for p in (xs, ys))
    y = torch.where(uniform(generator, volume, 0, 1) < 0.5, y, 1 - y)
    # The curve at even steps of x, then at the voxels: (B, points) -> (B, voxels)
    table = y.gather(1, torch.searchsorted(x.contiguous(), t.expand_as(x).contiguous()).clamp_max(CURVE_POINTS - 1))
    flat = volume.flatten(1).clamp(0, 1) * (CURVE_POINTS - 1)
    below = flat.floor().long().clamp_max(CURVE_POINTS - 2)
    part = flat - below
    return (table.gather(1, below) * (1 - part) + table.gather(1, below + 1) * part).reshape(volume.shape)


def shuffle_texture(volume: Tensor, generator: torch.Generator) -> Tensor:
    """Return a volume whose voxels changed places within small boxes: texture goes, form stays."""
    side = int(torch.randint(2, LARGEST_SHUFFLE + 1, (), generator=generator, device=generator.device))
    # Thin crops are shuffled along the axes that are long enough.
    box: Size = tuple(min(side, n) for n in volume.shape[2:])  # type: ignore[assignment]
    whole = [n // s * s for n, s in zip(volume.shape[2:], box, strict=True)]
    x, y, z = (slice(n) for n in whole)
    # (B, C, X, Y, Z) -> (B, N, C voxels) -> (B, N, C, voxels)
    flat = patchify(volume[:, :, x, y, z], box)
    patches = flat.reshape(*flat.shape[:2], volume.shape[1], -1)
    drawn = draw_each(torch.rand, generator, *patches.shape[:2], 1, patches.shape[3])
    order = drawn.argsort(dim=3).to(volume.device)
    mixed = patches.gather(3, order.expand_as(patches))
    shuffled = volume.clone()
    shuffled[:, :, x, y, z] = unpatchify(mixed.flatten(2), box, tuple(whole))
    return shuffled


def paint(volume: Tensor, generator: torch.Generator, sides: tuple[float, float], inside: bool) -> Tensor:
    """Return a volume painted over with one noisy grey inside some boxes, or everywhere but inside them."""
    covered = torch.zeros_like(volume[:, :1], dtype=torch.bool)
    for _ in range(BOXES):
        side = uniform(generator, volume, *sides, columns=3)
        start = uniform(generator, volume, 0, 1, columns=3) * (1 - side)
        covered |= boxes(start, side, tuple(volume.shape[2:]))
    grain = draw_each(torch.rand, generator, *volume.shape).to(volume.device)
    return torch.where(covered if inside else ~covered, grain, volume)
