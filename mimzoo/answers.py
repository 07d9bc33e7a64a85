"""From what a network predicts in windows to the answer for a scan: the same for training and deployment. No torch."""

import numpy as np

from mimzoo.errors import ShapeError
from mimzoo.grids import Floats
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.sliding import Predict, slide, slide_regions, slide_scan
from mimzoo.sweep import Sweep
from mimzoo.tasks import Task
from mimzoo.volume import Prepared, Streamed

# By name: the probability of each class, or the one number that was asked for.
Told = dict[str, float]
Answer = LabelMap | RegionMap | Told


def answer(task: Task, predict: Predict, prepared: Prepared | Streamed, sweep: Sweep) -> Answer:
    """Return the answer for a prepared scan: a label map, region masks, or what is told of the whole of it.

    `predict` takes windows (B, C, *sweep.roi) float32 and returns logits, (B, K, *sweep.roi) or (B, K).
    Raises ShapeError for outputs that do not fit.
    """
    return tell(task, predict, prepared, sweep) if task.of_scan else draw(task, predict, prepared, sweep)


def draw(task: Task, predict: Predict, prepared: Prepared | Streamed, sweep: Sweep) -> LabelMap | RegionMap:
    """Return the label map or region masks of a prepared scan, in the scan's own grid; see `answer`."""
    count = len(task.outputs)
    if task.kind == "labels":
        return prepared.restore(slide(predict, prepared.voxels, sweep, count), task.labels)
    masks = slide_regions(predict, prepared.voxels, sweep, count)
    return prepared.restore_regions(dict(zip(task.outputs, masks, strict=True)))


def tell(task: Task, predict: Predict, prepared: Prepared | Streamed, sweep: Sweep) -> Told:
    """Return the probability of each class, or the number asked for: the mean over the windows; see `answer`."""
    found = slide_scan(predict, prepared.voxels, sweep)
    if found.shape[1] != len(task.outputs):
        raise ShapeError(f"the model gave {found.shape[1]} numbers where {len(task.outputs)} are expected")
    means = (found if task.kind == "value" else softmax(found)).mean(axis=0, dtype=float)
    return dict(zip(task.outputs, means.tolist(), strict=True))


def softmax(logits: Floats) -> Floats:
    """Return probabilities (N, K) that are positive and add up to 1 in every row."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    normed: Floats = shares / shares.sum(axis=1, keepdims=True)
    return normed
