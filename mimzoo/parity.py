"""How an exported graph agrees with its model: outputs and masks, against float64, in batches of any size."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from mimzoo.blocks import Parity
from mimzoo.cards import Card
from mimzoo.deploy import VOLUME, Scan
from mimzoo.deploy.agreement import clear_disagreements
from mimzoo.errors import ExportError
from mimzoo.grids import Floats
from mimzoo.phantoms import make_phantom
from mimzoo.recipes import Input
from mimzoo.sliding import slide, slide_regions, slide_scan
from mimzoo.sweep import Sweep
from mimzoo.tasks import Task
from mimzoo.volume import Grid, Volume, prepare, read_scan

# Batches for which a graph is run before it is given away: a single window, several, and another number of them.
BATCHES = (1, 2, 3)
Predict = Callable[[Floats], NDArray[np.floating]]


def compare(model: nn.Module, content: bytes, card: Card, input: Input, scans: Iterable[Scan]) -> Iterator[Parity]:
    """Yield the agreement of a graph and its float64 model on each scan, in the middle of it.

    `input` is what the graph sees, the card's own but for the crop, which is the graph's window.
    Raises ExportError when the graph does not run, or answers a batch otherwise than its windows one by one.
    """
    exported, exact = run_by_onnxruntime(content), _exact_predictor(model)
    overlap = card.block.finetuning.overlap if card.block.finetuning else 0.5
    for scan in scans:
        volume = scan if isinstance(scan, Volume) else read_scan(scan, len(input.channels))
        voxels = middle(prepare(volume, input).voxels, input.crop)
        check_batches(exported, voxels, input.crop, card.block.task)
        yield parity(Path(volume.name).name, exported, exact, voxels, card.block.task, Sweep(input.crop, overlap))


def run_by_onnxruntime(content: bytes) -> Predict:
    """Return a graph run by ONNX Runtime on the processor, which every deployment has; it raises ExportError."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(windows: Floats) -> NDArray[np.floating]:
        try:
            found: NDArray[np.floating] = session.run(None, {VOLUME: windows})[0]
        # ONNX Runtime's errors share no base class but this one.
        except Exception as error:
            raise ExportError(f"the exported graph fails on {len(windows)} windows: {error}") from error
        if not np.isfinite(found).all():
            raise ExportError("the exported graph gives numbers that are infinite or none at all (NaN)")
        return found

    return predict


def check_batches(exported: Predict, voxels: Floats, roi: Sequence[int], task: Task) -> None:
    """Raise ExportError when a graph answers for a batch of windows otherwise than for each of them alone."""
    padding = [(0, 0), *((0, max(0, window - length)) for window, length in zip(roi, voxels.shape[1:], strict=True))]
    x, y, z = (slice(length) for length in roi)
    window = np.pad(voxels, padding, mode="edge")[:, x, y, z]
    # the window itself and two mirror images (3, C, *roi)
    windows = np.stack([window, window[:, ::-1], window[:, :, ::-1]])
    alone = np.concatenate([exported(one[None]) for one in windows])
    for count in BATCHES[1:]:
        found = exported(windows[:count])
        if found.shape != alone[:count].shape or clear_disagreements(found, alone[:count], task):
            raise ExportError(f"the exported graph answers for {count} windows otherwise than for each of them alone")


def phantom_for(input: Input) -> Volume:
    """Return a CT-like scan with constant air on a grid of the model's own spacing, alike in all its channels."""
    voxels = make_phantom(seed=7)[0].voxels
    grid = Grid((voxels.shape[1], voxels.shape[2], voxels.shape[3]), np.diag([*input.spacing_mm, 1.0]))
    return Volume(np.repeat(voxels, len(input.channels), axis=0), grid, "CT-like phantom")


def middle(voxels: Floats, roi: Sequence[int]) -> Floats:
    """Return the middle of a volume (C, X, Y, Z), at most twice the window along each axis, for float64 is slow."""
    starts = [max(0, (n - 2 * r) // 2) for n, r in zip(voxels.shape[1:], roi, strict=True)]
    parts = (slice(start, start + 2 * r) for start, r in zip(starts, roi, strict=True))
    return voxels[(slice(None), *parts)]


def _exact_predictor(model: nn.Module) -> Predict:
    reference = copy.deepcopy(model).cpu().double()

    @torch.inference_mode()
    def predict(windows: Floats) -> NDArray[np.floating]:
        return reference(torch.from_numpy(windows).double()).numpy()  # type: ignore[no-any-return]

    return predict


def parity(name: str, exported: Predict, exact: Predict, voxels: Floats, task: Task, sweep: Sweep) -> Parity:
    """Return how two predictors agree: their outputs window by window, and their masks over the whole volume."""
    differences, unclear = [], []

    def both(windows: Floats) -> Floats:
        ours, theirs = exported(windows), exact(windows)
        differences.append(float(np.abs(ours - theirs).max()))
        unclear.append(clear_disagreements(ours, theirs, task))
        return theirs.astype(np.float32)

    if task.of_scan:
        slide_scan(both, voxels, sweep)
        lowest = None
    else:
        masks = [_masks(predict, voxels, sweep, task) for predict in (exported, both)]
        lowest = min(dice(ours, theirs) for ours, theirs in zip(*masks, strict=True))
    return Parity(volume=name, largest_difference=max(differences), lowest_dice=lowest, differing=sum(unclear))


def _masks(predict: Predict, voxels: Floats, sweep: Sweep, task: Task) -> list[NDArray[np.bool_]]:
    """Return a mask (X, Y, Z) for each output, the background included."""
    count = len(task.outputs)
    if task.kind == "regions":
        return [mask != 0 for mask in slide_regions(predict, voxels, sweep, count)]
    labels = slide(predict, voxels, sweep, count)
    return [labels == value for value in range(count)]


def dice(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks; 1 where both are empty."""
    total = int(ours.sum()) + int(theirs.sum())
    return 2 * int((ours & theirs).sum()) / total if total else 1.0
