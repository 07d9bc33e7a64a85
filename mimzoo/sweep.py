"""How a window goes over a volume: where it begins each time, and which blocks it is the first and the last on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from mimzoo.errors import ShapeError
from mimzoo.recipes import Size

Corner = tuple[int, int, int]
Index = tuple[int, int, int]
Places = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Sweep:
    """How windows of `roi` voxels go over a volume.

    Neighbours overlap by the share `overlap`, and `batch` of them are predicted at once. They come in the order of
    their places along `axis`, then of those along the others, so that sums need only be held for part of that axis.
    With `skip_constant`, a window in which every channel has one value throughout is not predicted: it adds nothing,
    and what no other window covers is background. With `within_body` windows go over the box of the body alone, see
    `body_box`, and all outside is background. Every window is seen mirrored along the axes `mirror` and all their
    combinations too, and what is predicted of it averaged; in a view that is mirrored along X the outputs stand at the
    places `swapped`, where left and right have outputs of their own. `threads` blend what is predicted.
    """

    roi: Size
    overlap: float
    batch: int = 1
    axis: int = 0
    skip_constant: bool = False
    within_body: bool = False
    mirror: tuple[int, ...] = ()
    swapped: tuple[int, ...] = ()
    threads: int = 1


class Layout:
    """The windows of a sweep over a volume of `shape`, which is nowhere smaller than the window.

    Where windows begin and end cuts the volume into blocks: a window covers a block or does not touch it. Raises
    ShapeError for an overlap outside 0..1.
    """

    def __init__(self, shape: Sequence[int], sweep: Sweep) -> None:
        if not 0 <= sweep.overlap < 1:
            raise ShapeError(f"overlap {sweep.overlap} is not allowed; it must be at least 0 and below 1")
        self.shape, self.roi = tuple(shape), sweep.roi
        steps = [max(int(length * (1 - sweep.overlap)), 1) for length in sweep.roi]
        self.starts = [_starts(*axis) for axis in zip(shape, sweep.roi, steps, strict=True)]
        self.cuts = [_cuts(starts, length) for starts, length in zip(self.starts, sweep.roi, strict=True)]
        self.corners = _ordered(self.starts, sweep.axis)

    def touched(self, corner: Corner) -> Iterator[tuple[Index, bool]]:
        """Yield the blocks that a window covers, and of each whether no later window does."""
        lines = [
            [(number, _is_last(start, cuts[number], starts)) for number in _between(cuts, start, start + length)]
            for start, length, cuts, starts in zip(corner, self.roi, self.cuts, self.starts, strict=True)
        ]
        for (x, last_x), (y, last_y), (z, last_z) in product(*lines):
            yield (x, y, z), last_x and last_y and last_z

    def place(self, index: Index) -> Places:
        """Return where a block lies."""
        x, y, z = (slice(cuts[number], cuts[number + 1]) for number, cuts in zip(index, self.cuts, strict=True))
        return x, y, z

    def most_held(self) -> int:
        """Return how many voxels lie, at most, in blocks that are begun and not yet done."""
        held: dict[Index, int] = {}
        total = most = 0
        for corner in self.corners:
            for index, last in self.touched(corner):
                if index not in held:
                    held[index] = prod(part.stop - part.start for part in self.place(index))
                    total += held[index]
                    most = max(most, total)
                if last:
                    total -= held[index]
        return most


def places(corner: Sequence[int], roi: Sequence[int]) -> Places:
    """Return the voxels of the window at a corner."""
    x, y, z = (slice(start, start + length) for start, length in zip(corner, roi, strict=True))
    return x, y, z


def _starts(length: int, window: int, step: int) -> list[int]:
    """Return where windows begin along an axis; the last one ends with the axis."""
    return [*range(0, length - window, step), length - window]


def _cuts(starts: Sequence[int], length: int) -> list[int]:
    return sorted({*starts, *(start + length for start in starts)})


def _ordered(starts: Sequence[Sequence[int]], axis: int) -> list[Corner]:
    order = [axis, *(other for other in range(3) if other != axis)]
    found = product(*(starts[number] for number in order))
    # (axis, others) -> (X, Y, Z)
    back = [order.index(number) for number in range(3)]
    return [(corner[back[0]], corner[back[1]], corner[back[2]]) for corner in found]


def _between(cuts: Sequence[int], start: int, stop: int) -> range:
    return range(cuts.index(start), cuts.index(stop))


def _is_last(start: int, cut: int, starts: Sequence[int]) -> bool:
    """Return whether no window begins after `start` and still at or before the cut."""
    return not any(start < other <= cut for other in starts)
