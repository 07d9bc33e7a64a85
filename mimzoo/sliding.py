"""A network with a fixed window over a volume of any size: Gaussian-blended sliding windows, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from math import prod
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimzoo.bodies import body_box
from mimzoo.errors import ShapeError
from mimzoo.grids import Floats, Masks, Slices, pad_to
from mimzoo.recipes import Size
from mimzoo.sides import X
from mimzoo.slabs import Slabbed
from mimzoo.sweep import Corner, Index, Layout, Places, Sweep, places

Voxels = Floats | Slabbed
Predict = Callable[[Floats], NDArray[Any]]
Progress = Callable[[int, int], object]
Decide = Callable[[Floats], Masks]

# The width of the Gaussian as a share of the window, and its least weight: those of MONAI's sliding_window_inference.
SIGMA = 0.125
LEAST_WEIGHT = 1e-3
# From how many bytes on a block counts as large.
LARGE = 1 << 20


def slide(predict: Predict, voxels: Voxels, sweep: Sweep, classes: int, progress: Progress | None = None) -> Masks:
    """Return the labels (X, Y, Z) uint8 that `predict` gives a volume (C, X, Y, Z), window by window.

    `predict` takes windows (B, C, *roi) float32, B at most `sweep.batch`, and returns logits (B, classes, *roi). Where
    windows overlap, logits are averaged with Gaussian weights, and the largest wins (the lower label in a tie). A
    volume smaller than the window is padded with each channel's minimum and cropped back. The result is that of
    MONAI's sliding_window_inference(mode="gaussian"), whose sums of logits for the whole volume are never held; see
    `Blend`. `progress(done, total)` is called after each window.

    Raises ShapeError for an overlap outside 0..1 and for logits of another shape or that are not numbers.
    """
    return _slide(predict, voxels, sweep, classes, (), largest, progress)


def slide_regions(
    predict: Predict, voxels: Voxels, sweep: Sweep, regions: int, progress: Progress | None = None
) -> Masks:
    """Return the masks (regions, X, Y, Z) uint8 of regions that may overlap: 1 where the averaged logit is positive.

    Otherwise as `slide`: that is where the region is more likely than not.
    """
    return _slide(predict, voxels, sweep, regions, (regions,), positive, progress)


def slide_scan(predict: Predict, voxels: Voxels, sweep: Sweep) -> Floats:
    """Return the outputs (windows, K) of a model that answers for a whole window, on windows that cover the volume.

    `predict` takes windows (B, C, *roi) float32 and returns (B, K). Padding and overlap are those of `slide`; no window
    is skipped, and no body looked for. Raises ShapeError for outputs that are not (B, K), infinite, or not numbers.
    """
    whole, _ = padded(voxels, sweep.roi)
    corners = Layout(whole.shape[1:], sweep).corners
    found = [row for part in _batches(corners, sweep) for row in _predict(predict, _cut(whole, part, sweep), sweep)]
    shapes = {output.shape for output in found}
    if len(shapes) > 1 or found[0].ndim != 1:
        raise ShapeError(f"the model gave outputs of shape {min(shapes)} where one row of numbers is expected")
    outputs = np.stack(found).astype(np.float32)
    if not np.isfinite(outputs).all():
        raise ShapeError("the model's output is infinite or not a number (NaN); its weights or its input are damaged")
    return outputs


def _slide(
    predict: Predict,
    voxels: Voxels,
    sweep: Sweep,
    outputs: int,
    leading: tuple[int, ...],
    decide: Decide,
    progress: Progress | None,
) -> Masks:
    """Return what `decide` makes of the averaged logits, an array (*leading, X, Y, Z)."""
    whole, inside = padded(voxels, sweep.roi)
    box = body_box(whole, sweep.roi) if sweep.within_body else places((0, 0, 0), whole.shape[1:])
    layout = Layout([part.stop - part.start for part in box], sweep)
    blend = Blend(layout, outputs, leading, decide, sweep.threads)
    done = 0
    for part in _batches(layout.corners, sweep):
        windows = _cut(whole, part, sweep, box)
        seen = ~_constant(windows) if sweep.skip_constant else np.ones(len(part), bool)
        logits = iter(_predict(predict, windows[seen], sweep) if seen.any() else ())
        for corner, one in zip(part, seen, strict=True):
            blend.add(corner, next(logits) if one else None)
            done += 1
            if progress is not None:
                progress(done, len(layout.corners))
        # before the next ones are made
        del logits
    answer = _placed(blend.answer, box, whole.shape[1:]) if sweep.within_body else blend.answer
    # a crop of the padded answer, made contiguous so that the padding is freed
    _, along_x, along_y, along_z = inside
    return np.ascontiguousarray(answer[..., along_x, along_y, along_z])


def padded(voxels: Voxels, roi: Size) -> tuple[Voxels, Slices]:
    """Return voxels (C, X, Y, Z) padded with each channel's minimum to at least the window, and the way back.

    The way back are the slices that crop them. Voxels that need no padding are the very same; see `pad_to`.
    """
    if all(length >= window for length, window in zip(voxels.shape[1:], roi, strict=True)):
        return voxels, (slice(None),) * 4
    whole = voxels.whole() if isinstance(voxels, Slabbed) else voxels
    return pad_to(whole, roi, whole.min(axis=(1, 2, 3)))


def _placed(answer: Masks, box: Places, shape: Sequence[int]) -> Masks:
    """Return an answer (..., x, y, z) for a box in its place within 0."""
    whole = np.zeros((*answer.shape[:-3], *shape), np.uint8)
    whole[(..., *box)] = answer
    return whole


def _batches(corners: Sequence[Corner], sweep: Sweep) -> Iterator[Sequence[Corner]]:
    for first in range(0, len(corners), sweep.batch):
        yield corners[first : first + sweep.batch]


def _cut(voxels: Voxels, corners: Sequence[Corner], sweep: Sweep, box: Places | None = None) -> Floats:
    """Return the windows (B, C, *roi) at some corners, which are counted from that of the box."""
    x, y, z = (part.start for part in box) if box else (0, 0, 0)
    shifted = [(corner[0] + x, corner[1] + y, corner[2] + z) for corner in corners]
    return np.stack([voxels[(slice(None), *places(corner, sweep.roi))] for corner in shifted])


def _predict(predict: Predict, windows: Floats, sweep: Sweep) -> NDArray[Any]:
    """Return what is predicted of windows (B, C, *roi), the mean over their mirrored views."""
    found = _predict_once(predict, windows)
    turns = [axes for count in range(1, len(sweep.mirror) + 1) for axes in combinations(sweep.mirror, count)]
    if turns:
        # what is predicted may be read-only, and in half precision
        found = found.astype(np.float32)
    for axes in turns:
        # (B, C, X, Y, Z)
        reversed_axes = tuple(2 + axis for axis in axes)
        logits = _predict_once(predict, np.ascontiguousarray(np.flip(windows, reversed_axes)))
        if X in axes and sweep.swapped:
            logits = logits[:, sweep.swapped]
        found += np.flip(logits, reversed_axes) if logits.ndim == windows.ndim else logits
    if turns:
        found /= np.float32(1 + len(turns))
    return found


def _predict_once(predict: Predict, windows: Floats) -> NDArray[Any]:
    logits = np.asarray(predict(windows))
    if len(logits) != len(windows):
        raise ShapeError(f"the model gave {len(logits)} outputs for {len(windows)} windows")
    return logits


def _constant(windows: Floats) -> NDArray[np.bool_]:
    """Return which windows (B, C, *roi) have one value throughout each channel."""
    axes = (2, 3, 4)
    constant: NDArray[np.bool_] = (windows.min(axes) == windows.max(axes)).all(1)
    return constant


def gaussian(roi: Sequence[int]) -> Floats:
    """Return the weights (*roi) of a window's logits, 1 at the centre."""
    weights = np.ones((), np.float32)
    for length in roi:
        place = np.arange(length, dtype=np.float32) - (length - 1) / 2
        line = np.exp(place**2 / np.float32(-2 * (SIGMA * length) ** 2))
        weights = weights[..., None] * line
    return np.maximum(weights, max(float(weights.min()), LEAST_WEIGHT)).astype(np.float32)


class Blend:
    """The weighted sums of logits, block by block: begun by the first window on a block, decided after the last.

    `answer` (*leading, X, Y, Z) uint8 has what `decide` makes of the sums (outputs, x, y, z) of each block, and 0 where
    no window gave any. The weights themselves need not be summed: they scale all logits of a voxel alike, which leaves
    the largest the largest, and the positive positive.
    """

    def __init__(
        self, layout: Layout, outputs: int, leading: tuple[int, ...], decide: Decide, threads: int = 1
    ) -> None:
        self.layout, self.outputs, self.decide = layout, outputs, decide
        self.pool = ThreadPoolExecutor(threads)
        self.weights = gaussian(layout.roi)
        self.answer: Masks = np.zeros((*leading, *layout.shape), np.uint8)
        self.sums: dict[Index, Floats] = {}

    def add(self, corner: Corner, logits: NDArray[Any] | None) -> None:
        """Add a window's logits (outputs, *roi) at `corner`; None adds nothing, yet the window is done.

        Corners must come in the order of the layout.
        """
        if logits is not None and logits.shape != (self.outputs, *self.layout.roi):
            raise ShapeError(
                f"the model gave logits of shape {logits.shape} where {(self.outputs, *self.layout.roi)} is expected"
            )
        # Blocks share no voxel, and numpy computes on large ones beside other threads.
        for done in [self.pool.submit(self._touch, corner, logits, *block) for block in self.layout.touched(corner)]:
            done.result()

    def _touch(self, corner: Corner, logits: NDArray[Any] | None, index: Index, last: bool) -> None:
        place = self.layout.place(index)
        if logits is not None:
            within = tuple(slice(p.start - c, p.stop - c) for p, c in zip(place, corner, strict=True))
            self._add(index, logits[(slice(None), *within)], self.weights[within])
        if last and index in self.sums:
            self.answer[(..., *place)] = self.decide(self.sums.pop(index))

    def _add(self, index: Index, logits: NDArray[Any], weights: Floats) -> None:
        if index not in self.sums:
            self.sums[index] = _memory(logits.shape)
            np.multiply(logits, weights, out=self.sums[index], casting="same_kind")
            return
        sums, scratch = self.sums[index], np.empty(weights.shape, np.float32)
        for share, total in zip(logits, sums, strict=True):
            np.multiply(share, weights, out=scratch, casting="same_kind")
            total += scratch


def _memory(shape: Sequence[int]) -> Floats:
    """Return memory for the sums of a block.

    Large blocks are the system's own pages, which it has back at once: in a heap, blocks of many sizes leave holes.
    """
    size = 4 * prod(shape)
    # (bytes,) -> (outputs, x, y, z)
    return np.frombuffer(mmap(-1, size), np.float32).reshape(shape) if size >= LARGE else np.empty(shape, np.float32)


def largest(sums: Floats) -> Masks:
    """Return the class (x, y, z) with the largest of the sums (classes, x, y, z), the first in a tie."""
    best, labels = sums[0].copy(), np.zeros(sums.shape[1:], np.uint8)
    for number in range(1, len(sums)):
        np.copyto(labels, number, where=sums[number] > best)
        # unlike a plain comparison, this keeps a NaN in sight
        np.maximum(best, sums[number], out=best)
    _refuse_nan(best)
    return labels


def positive(sums: Floats) -> Masks:
    """Return 1 where a sum (regions, x, y, z) is positive, 0 elsewhere."""
    _refuse_nan(sums)
    return (sums > 0).astype(np.uint8)


def _refuse_nan(sums: Floats) -> None:
    if np.isnan(sums).any():
        raise ShapeError("the model's output is not a number (NaN); its weights or its input are damaged")
