"""A fine-tuned segmenter as one ONNX file with all that deployment needs: `mimzoo export RUN`."""

import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from mimzoo.blocks import Artefact
from mimzoo.cards import Card, is_folder_reference, update_card, write_card
from mimzoo.deploy import Metadata, Scan
from mimzoo.deploy.agreement import clear_disagreements
from mimzoo.errors import CardError, ExportError
from mimzoo.files import replacing
from mimzoo.hub import find_model
from mimzoo.models import load_card
from mimzoo.phantoms import make_phantom
from mimzoo.sliding import slide, slide_regions, slide_scan
from mimzoo.sweep import Sweep
from mimzoo.tasks import Task
from mimzoo.volume import Grid, Volume, prepare, read_scan

OPSET = 20
DICE_AT_LEAST = 0.999
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """How an exported graph agrees with the float64 original on one volume.

    `differing` counts the voxels, or the windows of a model that tells of whole scans, that are answered otherwise
    although the original leaves a clear margin; `lowest_dice` is None where no masks are drawn.
    """

    volume: str
    largest_difference: float
    lowest_dice: float | None
    differing: int

    def holds(self) -> bool:
        """Return whether every mask agrees and nothing with a clear margin is answered otherwise."""
        return (self.lowest_dice is None or self.lowest_dice >= DICE_AT_LEAST) and self.differing == 0

    def __str__(self) -> str:
        said = f"{self.volume}: outputs differ by at most {self.largest_difference:.1e}"
        if self.lowest_dice is None:
            return f"{said}, {self.differing} clear windows differ"
        return f"{said}, lowest Dice {self.lowest_dice:.5f}, {self.differing} clear voxels differ"


def export(reference: str | Path, out: Path | None = None, scan: Scan | None = None) -> tuple[Path, list[Parity]]:
    """Return the path of the ONNX file and how it agrees with torch on a CT-like phantom and on `scan`.

    The graph has a fixed roi (the card's crop) and a free batch; its metadata holds input, labels, overlap and card.
    Raises ExportError when the graph does not agree with the model; then nothing is written.
    """
    card = find_model(reference)
    if card.block.finetuning is None:
        raise CardError(f"{card.name} is an encoder; export a model with a task, see `mimzoo list`")
    model = load_card(card)
    path = out or default_path(reference, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = onnx_bytes(model, card)
    parities = list(compare(model, content, card, scan))
    for parity in parities:
        if not parity.holds():
            raise ExportError(f"the exported graph of {card.name} is not its model: {parity}; nothing was written")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    if out is None and is_folder_reference(reference):
        artefact = Artefact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        write_card(update_card(card, onnx=artefact), path.parent)
    return path, parities


def default_path(reference: str | Path, card: Card) -> Path:
    """Return where the ONNX file goes when nobody says: beside the card of a run, else below runs/."""
    folder = Path(reference) if is_folder_reference(reference) else Path("runs") / card.name
    return folder / "model.onnx"


def onnx_bytes(model: nn.Module, card: Card) -> bytes:
    """Return the serialised graph of a model with a task, checked, with its metadata."""
    block = card.block
    sample = torch.zeros(2, len(block.input.channels), *block.input.crop)
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            (sample,),
            input_names=["volume"],
            output_names=["logits"],
            dynamic_shapes={"volume": {0: torch.export.Dim("batch", min=1, max=64)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError(f"torch could not export {card.name}; try a smaller crop or another head")
    graph = program.model_proto
    onnx.helper.set_model_props(graph, metadata(card).to_props())
    onnx.checker.check_model(graph, full_check=True)
    buffer = io.BytesIO()
    onnx.save_model(graph, buffer)
    return buffer.getvalue()


def _quiet_exporter() -> "Quiet":
    return Quiet(logging.getLogger("torch.onnx"))


class Quiet:
    """A context in which a logger says nothing below errors: the exporter reports its own progress."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger, self.level = logger, logger.level

    def __enter__(self) -> None:
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        self.logger.setLevel(self.level)


def metadata(card: Card) -> Metadata:
    """Return what deployment needs to know of a card."""
    block = card.block
    assert block.finetuning is not None  # checked by export
    return Metadata(
        format=1,
        card=card.name,
        card_sha256=card.sha256(),
        input=block.input,
        labels=block.labels,
        regions=block.regions,
        target=block.target,
        flip_axes=block.finetuning.augmentation.flip_axes,
        roi=block.input.crop,
        overlap=block.finetuning.overlap,
    )


def compare(model: nn.Module, content: bytes, card: Card, scan: Scan | None) -> Iterator[Parity]:
    """Yield the agreement of graph and float64 model on a CT-like phantom with constant air, and on a real scan."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    exported = lambda windows: session.run(None, {"volume": windows})[0]  # noqa: E731
    exact = _exact_predictor(model)
    volumes = {"CT-like phantom": phantom_for(card)}
    if scan is not None:
        read = scan if isinstance(scan, Volume) else read_scan(scan, len(card.block.input.channels))
        volumes[Path(read.name).name] = read
    for name, volume in volumes.items():
        yield parity(name, exported, exact, middle(prepare(volume, card.block.input).voxels, card), card)


def phantom_for(card: Card) -> Volume:
    """Return a CT-like scan with constant air on a grid of the card's own spacing, alike in all its channels."""
    input = card.block.input
    voxels = make_phantom(seed=7)[0].voxels
    grid = Grid((voxels.shape[1], voxels.shape[2], voxels.shape[3]), np.diag([*input.spacing_mm, 1.0]))
    return Volume(np.repeat(voxels, len(input.channels), axis=0), grid, "the CT-like phantom")


def middle(voxels: NDArray[np.float32], card: Card) -> NDArray[np.float32]:
    """Return the middle of a volume (C, X, Y, Z), at most twice the crop along each axis, for float64 is slow."""
    starts = [max(0, (n - 2 * r) // 2) for n, r in zip(voxels.shape[1:], card.block.input.crop, strict=True)]
    parts = (slice(start, start + 2 * r) for start, r in zip(starts, card.block.input.crop, strict=True))
    return voxels[(slice(None), *parts)]


def _exact_predictor(model: nn.Module) -> Predict:
    reference = copy.deepcopy(model).cpu().double()

    @torch.inference_mode()
    def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return reference(torch.from_numpy(windows).double()).numpy()  # type: ignore[no-any-return]

    return predict


def parity(name: str, exported: Predict, exact: Predict, voxels: NDArray[np.float32], card: Card) -> Parity:
    """Return how two predictors agree: their outputs window by window, and their masks over the whole volume."""
    task = card.block.task
    sweep = Sweep(card.block.input.crop, card.block.finetuning.overlap if card.block.finetuning else 0.5)
    differences, unclear = [], []

    def both(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        ours, theirs = exported(windows), exact(windows)
        differences.append(float(np.abs(ours - theirs).max()))
        unclear.append(clear_disagreements(ours, theirs, task))
        return theirs.astype(np.float32)

    if task.of_scan:
        slide_scan(both, voxels, sweep)
        return Parity(name, max(differences), None, sum(unclear))
    masks = [_masks(predict, voxels, sweep, task) for predict in (exported, both)]
    lowest = min(dice(ours, theirs) for ours, theirs in zip(*masks, strict=True))
    return Parity(name, max(differences), lowest, sum(unclear))


def _masks(predict: Predict, voxels: NDArray[np.float32], sweep: Sweep, task: Task) -> list[NDArray[np.bool_]]:
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
