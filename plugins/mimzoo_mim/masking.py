"""Which units of a crop are hidden: callables (volume, generator, mask unit of the encoder) -> mask."""

from itertools import product
from math import prod

import torch
from torch import Tensor

from mimzoo.draws import draw, draw_below
from mimzoo.errors import ShapeError
from mimzoo.tokens import Size, divide, patchify, sized
from mimzoo_mim.args import AxisArgs, ForegroundArgs, MaskInMaskArgs, UnitArgs

AXES = ("x", "y", "z")
# Cuboids thrown at a sample; on grids of a thousand units a few already hide three quarters.
CUBOIDS = 48
# How far a ratio may lie from 1 - 1 / n to be meant so: 0.667 is two thirds.
NEAR = 1e-3


def unit_grid(volume: Tensor, unit: Size, mask_unit: Size) -> Size:
    """Return how many units lie along each axis of a volume (B, C, X, Y, Z).

    Raises ShapeError when the unit is no multiple of the encoder's `mask_unit`, or the crop no multiple of the unit.
    """
    divide(unit, mask_unit, "the mask unit", "the smallest unit that this encoder can hide:")
    return divide(tuple(volume.shape[2:]), unit, "the crop", "the mask unit")


def hidden_count(ratio: float, count: int, what: str) -> int:
    """Return how many of `count` a ratio hides; raises ShapeError, naming `what` is hidden, when it is none or all."""
    hidden = round(ratio * count)
    if 0 < hidden < count:
        return hidden
    share = "none" if hidden == 0 else "all"
    raise ShapeError(
        f"masking ratio {ratio} hides {share} of the {count} {what} of a crop; "
        "use smaller units, a larger crop, or another ratio"
    )


def hide_first(scores: Tensor, hidden: int, units: Size) -> Tensor:
    """Return the mask (B, *units) that hides the `hidden` units of the lowest scores (B, N) in each sample."""
    first = scores.argsort(dim=1)[:, :hidden]
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(1, first, True)
    # (B, N) -> (B, UX, UY, UZ)
    return mask.reshape(-1, *units)


def _integer(generator: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))


class RandomMasking:
    """Hides each unit as likely as any other (He et al. 2022, arXiv 2111.06377)."""

    def __init__(self, args: UnitArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, or the ratio hides none or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        hidden = hidden_count(self.args.ratio, prod(units), "units")
        return hide_first(draw(generator, volume.shape[0], prod(units)), hidden, units)


class BlockMasking:
    """Hides cuboids of units, one after the other until the share is reached (Bao et al. 2022, arXiv 2106.08254).

    A cuboid's sides are drawn between one unit and half the crop; of the last one only a random part is hidden.
    """

    def __init__(self, args: UnitArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, or the ratio hides none or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        hidden = hidden_count(self.args.ratio, prod(units), "units")
        inside = _cuboids(generator, volume.shape[0], units)
        # The number of the first cuboid that covers a unit, CUBOIDS where none does: (B, CUBOIDS, N) -> (B, N)
        covered = torch.cat([inside, torch.ones_like(inside[:, :1])], dim=1)
        first = covered.byte().argmax(dim=1)
        return hide_first(first + draw(generator, *first.shape), hidden, units)


def _cuboids(generator: torch.Generator, batch: int, units: Size) -> Tensor:
    """Return which units lie in each of a sample's cuboids: (batch, CUBOIDS, N) bool."""
    spans = []
    for count in units:
        side = 1 + (draw(generator, batch, CUBOIDS, 1) * max(1, count // 2)).floor()
        start = (draw(generator, batch, CUBOIDS, 1) * (count - side + 1)).floor()
        place = torch.arange(count, device=generator.device)
        spans.append((place >= start) & (place < start + side))
    x, y, z = spans
    # 3 x (batch, CUBOIDS, units of an axis) -> (batch, CUBOIDS, UX, UY, UZ) -> (batch, CUBOIDS, N)
    return (x[..., :, None, None] & y[..., None, :, None] & z[..., None, None, :]).flatten(2)


class UniformMasking:
    """Leaves exactly one unit visible in every cell of units, so that the visible ones form a smaller dense grid.

    The sampling of UM-MAE (Li et al. 2022, arXiv 2205.10063) in 3D, for encoders that are pyramids. A cell has
    1 / (1 - ratio) units and is as cubic as the crop allows; which of the equally cubic ones, the generator decides.
    """

    def __init__(self, args: UnitArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, when the ratio is not 1 - 1 / n, or when no cell
        of n units divides the crop.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        cells = cells_of(self.args.ratio, units)
        a, b, c = cell = cells[_integer(generator, len(cells))]
        grid = divide(units, cell, "the grid of units", "the cell")
        shape = (volume.shape[0], *grid)
        visible = draw_below(generator, prod(cell), *shape)
        mask = visible[..., None] != torch.arange(prod(cell), device=generator.device)
        # (B, CX, CY, CZ, abc) -> (B, CX, CY, CZ, a, b, c) -> (B, CX, a, CY, b, CZ, c) -> (B, UX, UY, UZ)
        return mask.reshape(*shape, a, b, c).permute(0, 1, 4, 2, 5, 3, 6).reshape(volume.shape[0], *units)


def cells_of(ratio: float, units: Size) -> list[Size]:
    """Return the most cubic cells of 1 / (1 - ratio) units that divide a grid of units.

    Raises ShapeError when there is none.
    """
    count = round(1 / (1 - ratio))
    if count < 2 or abs(1 - 1 / count - ratio) > NEAR:
        lower = max(2, int(1 / (1 - ratio)))
        near = f"{1 - 1 / lower:.4g} or {1 - 1 / (lower + 1):.4g}"
        raise ShapeError(
            f"uniform masking leaves one of n units visible, so its ratio is 1 - 1 / n, not {ratio}; use {near}"
        )
    sides = [[n for n in range(1, count + 1) if count % n == 0 and along % n == 0] for along in units]
    fitting = [(a, b, c) for a, b, c in product(*sides) if a * b * c == count]
    if not fitting:
        raise ShapeError(
            f"no cell of {count} units (ratio {ratio}) divides a crop of {sized(units)} units; "
            "use a crop of an even number of units, or another ratio"
        )
    flattest = min(max(cell) for cell in fitting)
    return [cell for cell in fitting if max(cell) == flattest]


class SlabMasking:
    """Hides neighbouring planes of units: a slab across the crop, at another place in each sample."""

    def __init__(self, args: AxisArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, or the ratio hides no plane or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        axis = choose_axis(self.args.axis, generator)
        planes = units[axis]
        hidden = hidden_count(self.args.ratio, planes, f"planes of units along {AXES[axis]}")
        start = (draw(generator, volume.shape[0], 1) * (planes - hidden + 1)).floor()
        place = torch.arange(planes, device=generator.device)
        inside = (place >= start) & (place < start + hidden)
        # (B, planes) -> (B, planes, 1, 1) -> its own axis -> (B, UX, UY, UZ)
        return inside[:, :, None, None].movedim(1, axis + 1).expand(-1, *units).contiguous()


class TubeMasking:
    """Hides units of a plane, and all that lie behind them along an axis (Tong et al. 2022, arXiv 2203.12602)."""

    def __init__(self, args: AxisArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, or the ratio hides no tube or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        axis = choose_axis(self.args.axis, generator)
        u, v = (count for place, count in enumerate(units) if place != axis)
        hidden = hidden_count(self.args.ratio, u * v, f"tubes along {AXES[axis]}")
        plane = hide_first(draw(generator, volume.shape[0], u * v), hidden, (1, u, v))
        # (B, 1, U, V) -> the single cell to its axis -> (B, UX, UY, UZ)
        return plane.movedim(1, axis + 1).expand(-1, *units).contiguous()


def choose_axis(axis: str | None, generator: torch.Generator) -> int:
    """Return the number of an axis by its letter, or one that the generator picks."""
    return _integer(generator, len(AXES)) if axis is None else AXES.index(axis)


class ForegroundMasking:
    """Hides units with content more often than units of air: in proportion to their deviation ** `strength`.

    Drawn without replacement by the exponential trick (Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003).
    A volume without contrast, and strength 0, leave all units equally likely.
    """

    def __init__(self, args: ForegroundArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as content and generator decide.

        Raises ShapeError when the units do not fit encoder or crop, or the ratio hides none or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        hidden = hidden_count(self.args.ratio, prod(units), "units")
        deviation = patchify(volume.float(), self.args.unit).std(dim=2).to(generator.device)
        # Air keeps a small chance, so that any share can be hidden.
        weight = (deviation + 1e-3 * deviation.mean(dim=1, keepdim=True) + 1e-12) ** self.args.strength
        uniform = draw(generator, *weight.shape).clamp_min(1e-12)
        return hide_first(-uniform.log() / weight, hidden, units)


class MaskInMask:
    """Hides coarse units, then fine ones among what is left: two levels at once.

    After MiM (Zhuang et al. 2024, arXiv 2404.15580), which masks a volume at several levels.
    """

    def __init__(self, args: MaskInMaskArgs) -> None:
        self.args = args

    def __call__(self, volume: Tensor, generator: torch.Generator, mask_unit: Size) -> Tensor:
        """Return a mask (B, *units) bool, True = hidden, of a volume (B, C, X, Y, Z), as the generator decides.

        Raises ShapeError when the units do not fit encoder or crop, or a ratio hides none or all.
        """
        units = unit_grid(volume, self.args.unit, mask_unit)
        hidden = hidden_count(self.args.ratio, prod(units), "units")
        factor = (self.args.coarse,) * 3
        coarse = divide(units, factor, "the grid of units", "the coarse unit")
        blocks = hidden_count(self.args.coarse_ratio, prod(coarse), "coarse units")
        mask = hide_first(draw(generator, volume.shape[0], prod(coarse)), blocks, coarse)
        if blocks * prod(factor) > hidden:
            raise ShapeError(
                f"coarse_ratio {self.args.coarse_ratio} hides {blocks * prod(factor)} units, "
                f"but ratio {self.args.ratio} only {hidden} in all; lower coarse_ratio or raise ratio"
            )
        for axis in (1, 2, 3):
            mask = mask.repeat_interleave(self.args.coarse, dim=axis)
        scores = draw(generator, volume.shape[0], prod(units))
        # What a coarse unit hides comes before all else.
        return hide_first(scores - mask.flatten(1).float(), hidden, units)
