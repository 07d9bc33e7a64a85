"""From what a network predicts in windows to the answer for a scan: the same for training and deployment. No torch."""

import numpy as np

from mimzoo.errors import ShapeError
from mimzoo.grids import Floats
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.recipes import Input
from mimzoo.sliding import Predict, slide, slide_regions, slide_scan
from mimzoo.tasks import Task
from mimzoo.volume import Volume, prepare

# By name: the probability of each class, or the one number that was asked for.
Told = dict[str, float]
Answer = LabelMap | RegionMap | Told


def answer(task: Task, predict: Predict, scan: Volume, input: Input, overlap: float) -> Answer:
    """Return the answer for a scan: a label map, region masks, or what is told of the whole of it.

    `predict` takes prepared windows (1, C, *input.crop) float32 and returns logits, (1, K, *input.crop) or (1, K).
    Raises ScanError for a scan that cannot be used, ShapeError for outputs that do not fit.
    """
    if task.of_scan:
        return tell(task, predict, scan, input, overlap)
    return draw(task, predict, scan, input, overlap)


def draw(task: Task, predict: Predict, scan: Volume, input: Input, overlap: float) -> LabelMap | RegionMap:
    """Return the label map or region masks of a scan, in its own grid; see `answer`."""
    prepared = prepare(scan, input)
    window = (predict, prepared.voxels, input.crop, overlap, len(task.outputs))
    if task.kind == "labels":
        return prepared.restore(slide(*window), task.labels)
    return prepared.restore_regions(dict(zip(task.outputs, slide_regions(*window), strict=True)))


def tell(task: Task, predict: Predict, scan: Volume, input: Input, overlap: float) -> Told:
    """Return the probability of each class, or the number asked for: the mean over the windows; see `answer`."""
    found = slide_scan(predict, prepare(scan, input).voxels, input.crop, overlap)
    if found.shape[1] != len(task.outputs):
        raise ShapeError(f"the model gave {found.shape[1]} numbers where {len(task.outputs)} are expected")
    means = (found if task.kind == "value" else softmax(found)).mean(axis=0, dtype=float)
    return dict(zip(task.outputs, means.tolist(), strict=True))


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, K) that are positive and add up to 1 in every row."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    normed: Floats = shares / shares.sum(axis=1, keepdims=True)
    return normed
