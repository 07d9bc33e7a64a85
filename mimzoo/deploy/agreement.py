"""Whether a graph that computes in bfloat16 answers as it does in float32, judged on the scan at hand."""

from dataclasses import replace

import numpy as np

from mimzoo.deploy.graph import Graph
from mimzoo.errors import ExportError
from mimzoo.grids import Floats
from mimzoo.sliding import Voxels, padded
from mimzoo.sweep import places
from mimzoo.tasks import Task

CLEAR_MARGIN = 0.05
# Of all answers in a window, the share that may differ although float32 leaves a clear margin.
MOST_DIFFERING = 1e-3


def check_agreement(graph: Graph, voxels: Voxels) -> str:
    """Return a sentence on how a graph agrees with itself in float32 on the middle window of a volume (C, X, Y, Z).

    Raises ExportError when more than one answer in a thousand differs that float32 gives with a clear margin (see
    `clear_disagreements`).
    """
    exact = Graph(graph.path, replace(graph.choice, engine=graph.engine.name, precision="float32"))
    whole, _ = padded(voxels, graph.metadata.roi)
    starts = [(length - window) // 2 for length, window in zip(whole.shape[1:], graph.metadata.roi, strict=True)]
    window = whole[(slice(None), *places(starts, graph.metadata.roi))][None]
    ours, theirs = graph.predict(window), exact.predict(window)
    answers = ours.size if graph.metadata.task.kind in ("regions", "value") else ours[:, 0].size
    share = clear_disagreements(ours, theirs, graph.metadata.task) / answers
    said = f"in {graph.choice.precision} {share:.3%} of the answers clearly differ from those in float32"
    if share > MOST_DIFFERING:
        raise ExportError(f"{graph.path}: {said}, where {MOST_DIFFERING:.1%} may; run it in float32")
    return said


def clear_disagreements(ours: Floats, exact: Floats, task: Task) -> int:
    """Return how many answers differ although the exact outputs (B, K, ...) leave a clear margin.

    Clear means, for classes, that the best two differ by more than 5 % of the standard deviation of all outputs; for
    regions, that the logit is that far from 0. A value differs where it is off by more than 5 % of its magnitude.
    """
    if task.kind == "value":
        return int((np.abs(ours - exact) > CLEAR_MARGIN * np.abs(exact)).sum())
    least = CLEAR_MARGIN * exact.std()
    if task.kind == "regions":
        return int(((np.abs(exact) > least) & ((ours > 0) != (exact > 0))).sum())
    ranked = np.sort(exact, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > least
    return int((clear & (ours.argmax(1) != exact.argmax(1))).sum())
