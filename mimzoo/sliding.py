"""A network with a fixed window over a volume of any size: Gaussian-blended sliding windows, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimzoo.errors import ShapeError
from mimzoo.grids import Floats, Masks, pad_to

Predict = Callable[[Floats], NDArray[Any]]
Progress = Callable[[int, int], object]
Corner = tuple[int, int, int]
Decide = Callable[[Floats], Masks]

# The width of the Gaussian as a share of the window, and its least weight: those of MONAI's sliding_window_inference.
SIGMA = 0.125
LEAST_WEIGHT = 1e-3


def slide(
    predict: Predict,
    voxels: Floats,
    roi: Sequence[int],
    overlap: float,
    classes: int,
    batch: int = 1,
    progress: Progress | None = None,
) -> Masks:
    """Return the labels (X, Y, Z) uint8 that `predict` gives a volume (C, X, Y, Z), window by window.

    `predict` takes windows (B, C, *roi) float32, B at most `batch`, and returns logits (B, classes, *roi). Windows
    overlap by the share `overlap`; where they do, logits are averaged with Gaussian weights, and the largest wins (the
    lower label in a tie). A volume smaller than `roi` is padded with each channel's minimum and cropped back. The
    result is that of MONAI's sliding_window_inference(mode="gaussian"); memory holds one window's length along X of
    logits instead of the whole volume's. `progress(done, total)` is called after each window.

    Raises ShapeError for an overlap outside 0..1 and for logits of another shape or that are not numbers.
    """
    return _slide(predict, voxels, roi, overlap, classes, largest, batch, progress)


def slide_regions(
    predict: Predict,
    voxels: Floats,
    roi: Sequence[int],
    overlap: float,
    regions: int,
    batch: int = 1,
    progress: Progress | None = None,
) -> Masks:
    """Return the masks (regions, X, Y, Z) uint8 of regions that may overlap: 1 where the averaged logit is positive.

    Otherwise as `slide`: that is where the region is more likely than not.
    """
    rows = _slide(predict, voxels, roi, overlap, regions, positive, batch, progress)
    # (X, regions, Y, Z) -> (regions, X, Y, Z)
    return np.ascontiguousarray(rows.swapaxes(0, 1))


def slide_scan(predict: Predict, voxels: Floats, roi: Sequence[int], overlap: float) -> Floats:
    """Return the outputs (windows, K) of a model that answers for a whole window, on windows that cover the volume.

    `predict` takes windows (1, C, *roi) float32 and returns (1, K). Padding and overlap are those of `slide`.
    Raises ShapeError for outputs that are not (1, K), and for infinite ones and those that are no numbers.
    """
    padded, _, corners = _windows(voxels, roi, overlap)
    found = [output for _, output in _predictions(predict, padded, corners, roi, 1)]
    shapes = {output.shape for output in found}
    if len(shapes) > 1 or found[0].ndim != 1:
        raise ShapeError(f"the model gave outputs of shape {min(shapes)} where one row of numbers is expected")
    outputs = np.stack(found).astype(np.float32)
    if not np.isfinite(outputs).all():
        raise ShapeError("the model's output is infinite or not a number (NaN); its weights or its input are damaged")
    return outputs


def _slide(
    predict: Predict,
    voxels: Floats,
    roi: Sequence[int],
    overlap: float,
    outputs: int,
    decide: Decide,
    batch: int,
    progress: Progress | None,
) -> Masks:
    """Return what `decide` makes of the averaged logits, X first."""
    padded, inside, corners = _windows(voxels, roi, overlap)
    slab = Slab(padded.shape[1:], roi, outputs, decide)
    for done, (corner, logits) in enumerate(_predictions(predict, padded, corners, roi, batch), 1):
        _check(logits, outputs, roi)
        slab.add(corner, logits)
        if progress is not None:
            progress(done, len(corners))
    # a crop of the padded answer, made contiguous so that the padding is freed
    _, along_x, along_y, along_z = inside
    return np.ascontiguousarray(slab.finish()[along_x, ..., along_y, along_z])


def _windows(voxels: Floats, roi: Sequence[int], overlap: float) -> tuple[Floats, tuple[slice, ...], list[Corner]]:
    """Return the padded volume, the slices that crop it back, and the corners of the windows that cover it."""
    if not 0 <= overlap < 1:
        raise ShapeError(f"overlap {overlap} is not allowed; it must be at least 0 and below 1")
    padded, inside = pad_to(voxels, roi, voxels.min(axis=(1, 2, 3)))
    steps = [max(int(r * (1 - overlap)), 1) for r in roi]
    starts = [_starts(*axis) for axis in zip(padded.shape[1:], roi, steps, strict=True)]
    return padded, inside, [(x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]]


def _starts(length: int, window: int, step: int) -> list[int]:
    """Return where windows begin along an axis; the last one ends with the axis."""
    return [*range(0, length - window, step), length - window]


def _predictions(
    predict: Predict, voxels: Floats, corners: Sequence[Corner], roi: Sequence[int], batch: int
) -> Iterator[tuple[Corner, NDArray[Any]]]:
    for first in range(0, len(corners), batch):
        part = corners[first : first + batch]
        logits = np.asarray(predict(np.stack([voxels[(slice(None), *_window(c, roi))] for c in part])))
        if len(logits) != len(part):
            raise ShapeError(f"the model gave {len(logits)} outputs for {len(part)} windows")
        yield from zip(part, logits, strict=True)


def _window(corner: Sequence[int], roi: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(corner, roi, strict=True))


def _check(logits: NDArray[Any], classes: int, roi: Sequence[int]) -> None:
    if logits.shape != (classes, *roi):
        raise ShapeError(f"the model gave logits of shape {logits.shape} where {(classes, *roi)} is expected")


def gaussian(roi: Sequence[int]) -> Floats:
    """Return the weights (*roi) of a window's logits, 1 at the centre."""
    weights = np.ones((), np.float32)
    for length in roi:
        place = np.arange(length, dtype=np.float32) - (length - 1) / 2
        line = np.exp(place**2 / np.float32(-2 * (SIGMA * length) ** 2))
        weights = weights[..., None] * line
    return np.maximum(weights, max(float(weights.min()), LEAST_WEIGHT)).astype(np.float32)


class Slab:
    """The weighted sums of logits that later windows can still change; what lies before them is already decided.

    Windows must come with rising X. The weights themselves need not be summed: they scale all logits of a voxel
    alike, which leaves the largest the largest, and the positive positive. `decide` turns the sums (classes, Y, Z) of
    a row into its answer.
    """

    def __init__(self, shape: Sequence[int], roi: Sequence[int], classes: int, decide: Decide) -> None:
        self.roi, self.weights, self.decide = roi, gaussian(roi), decide
        self.length, self.answer = shape[0], np.zeros((0,), np.uint8)
        # X before the classes: rows are finished, and moved, one at a time
        self.sums = np.zeros((roi[0], classes, *shape[1:]), np.float32)
        self.scratch = np.empty(roi, np.float32)
        self.start = 0

    def add(self, corner: Corner, logits: NDArray[Any]) -> None:
        """Add a window's logits (classes, *roi) at `corner`."""
        self._advance(corner[0])
        _, along_y, along_z = _window(corner, self.roi)
        for number, share in enumerate(logits):
            np.multiply(share, self.weights, out=self.scratch, casting="same_kind")
            self.sums[:, number, along_y, along_z] += self.scratch

    def finish(self) -> Masks:
        """Return the answer for the whole volume, X first."""
        self._advance(self.length)
        return self.answer

    def _advance(self, start: int) -> None:
        """Decide the rows before `start` and move the others to the front."""
        step = start - self.start
        if step == 0:
            return
        length = len(self.sums)
        for row in range(min(step, length)):
            self._put(self.start + row, self.decide(self.sums[row]))
        for row in range(length):
            self.sums[row] = self.sums[row + step] if row + step < length else 0
        self.start = start

    def _put(self, row: int, decided: Masks) -> None:
        if self.answer.ndim == 1:
            self.answer = np.zeros((self.length, *decided.shape), np.uint8)
        self.answer[row] = decided


def largest(sums: Floats) -> Masks:
    """Return the class (Y, Z) with the largest of the sums (classes, Y, Z), the first in a tie."""
    best, labels = sums[0].copy(), np.zeros(sums.shape[1:], np.uint8)
    for number in range(1, len(sums)):
        np.copyto(labels, number, where=sums[number] > best)
        # unlike a plain comparison, this keeps a NaN in sight
        np.maximum(best, sums[number], out=best)
    _refuse_nan(best)
    return labels


def positive(sums: Floats) -> Masks:
    """Return 1 where a sum (regions, Y, Z) is positive, 0 elsewhere."""
    _refuse_nan(sums)
    return (sums > 0).astype(np.uint8)


def _refuse_nan(sums: Floats) -> None:
    if np.isnan(sums).any():
        raise ShapeError("the model's output is not a number (NaN); its weights or its input are damaged")
