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
    Raises ShapeError for an overlap outside 0..1.
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

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ShapeError(f"an overlap of {self.overlap} is not allowed; it must be at least 0 and below 1")


class Layout:
    """The windows of a sweep over a volume of `shape`, which is nowhere smaller than the window.

    Where windows begin and end cuts the volume into blocks: a window covers a block or does not touch it.
    """

    def __init__(self, shape: Sequence[int], sweep: Sweep) -> None:
        self.shape, self.roi = tuple(shape), sweep.roi
        self.starts = [_starts(*axis) for axis in zip(shape, sweep.roi, _steps(sweep), strict=True)]
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


@dataclass(frozen=True)
class Line:
    """Windows of `window` voxels along an axis of `length`, `step` apart but for the last, which ends with the axis."""

    length: int
    window: int
    step: int

    @property
    def count(self) -> int:
        """Return how many windows there are."""
        return -((self.window - self.length) // self.step) + 1

    def begin(self, number: int) -> int:
        """Return where a window begins; where the axis ends of the one after the last."""
        if number == self.count:
            return self.length
        return min(number * self.step, self.length - self.window)

    def end(self, number: int) -> int:
        """Return where a window ends; 0 of the one before the first."""
        return self.begin(number) + self.window if number >= 0 else 0

    def telling(self) -> list[int]:
        """Return windows among which is one that has most of whatever grows or shrinks evenly with their number.

        Neighbours are as far apart everywhere but at both ends.
        """
        ends = (0, 1, self.count - 3, self.count - 2, self.count - 1)
        return sorted({number for number in ends if 0 <= number < self.count})


def most_held(shape: Sequence[int], sweep: Sweep) -> int:
    """Return how many voxels lie, at most, in blocks that are begun and not yet done, see `Layout`.

    The blocks of one window are begun together. Windows are not listed, so that this takes no longer for a volume that
    nothing could hold.
    """
    steps = _steps(sweep)
    lines = [Line(shape[axis], sweep.roi[axis], steps[axis]) for axis in _outermost_first(sweep.axis)]
    return max(_held(lines, numbers) for numbers in product(*(line.telling() for line in lines)))


def _held(lines: Sequence[Line], numbers: Sequence[int]) -> int:
    """Return how many voxels lie in blocks that the windows up to that of `numbers` began and those before left open.

    `numbers` are those of a window along each of the lines, the outermost first. What it covers along the first line
    other windows there may cover too: earlier and later ones, then all along the other lines is held; later ones
    alone, then as much as is begun there; earlier ones alone, then as much as is open there; or neither.
    """
    if not lines:
        return 1
    line, number, others, later = lines[0], numbers[0], lines[1:], numbers[1:]
    begin, before, after, end = line.begin(number), line.end(number - 1), line.begin(number + 1), line.end(number)
    held = max(before - after, 0) * prod(other.length for other in others)
    held += (end - max(before, after)) * _begun(others, later)
    held += (min(before, after) - begin) * _open(others, later)
    return held + max(after - before, 0) * _held(others, later)


def _begun(lines: Sequence[Line], numbers: Sequence[int]) -> int:
    """Return how many voxels lie in blocks that the windows up to that of `numbers` began."""
    if not lines:
        return 1
    before, end = lines[0].end(numbers[0] - 1), lines[0].end(numbers[0])
    return before * prod(line.length for line in lines[1:]) + (end - before) * _begun(lines[1:], numbers[1:])


def _open(lines: Sequence[Line], numbers: Sequence[int]) -> int:
    """Return how many voxels lie in blocks that the windows before that of `numbers` did not end."""
    if not lines:
        return 1
    begin, after = lines[0].begin(numbers[0]), lines[0].begin(numbers[0] + 1)
    rest = (lines[0].length - after) * prod(line.length for line in lines[1:])
    return rest + (after - begin) * _open(lines[1:], numbers[1:])


def places(corner: Sequence[int], roi: Sequence[int]) -> Places:
    """Return the voxels of the window at a corner."""
    x, y, z = (slice(start, start + length) for start, length in zip(corner, roi, strict=True))
    return x, y, z


def _steps(sweep: Sweep) -> list[int]:
    """Return how far apart windows begin along each axis."""
    return [max(int(length * (1 - sweep.overlap)), 1) for length in sweep.roi]


def _outermost_first(axis: int) -> list[int]:
    return [axis, *(other for other in range(3) if other != axis)]


def _starts(length: int, window: int, step: int) -> list[int]:
    """Return where windows begin along an axis; the last one ends with the axis."""
    line = Line(length, window, step)
    return [line.begin(number) for number in range(line.count)]


def _cuts(starts: Sequence[int], length: int) -> list[int]:
    return sorted({*starts, *(start + length for start in starts)})


def _ordered(starts: Sequence[Sequence[int]], axis: int) -> list[Corner]:
    order = _outermost_first(axis)
    found = product(*(starts[number] for number in order))
    # (axis, others) -> (X, Y, Z)
    back = [order.index(number) for number in range(3)]
    return [(corner[back[0]], corner[back[1]], corner[back[2]]) for corner in found]


def _between(cuts: Sequence[int], start: int, stop: int) -> range:
    return range(cuts.index(start), cuts.index(stop))


def _is_last(start: int, cut: int, starts: Sequence[int]) -> bool:
    """Return whether no window begins after `start` and still at or before the cut."""
    return not any(start < other <= cut for other in starts)
