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

from mimzoo.cards import Artefact, Card, is_folder_reference, update_card, write_card
from mimzoo.deploy import Metadata
from mimzoo.errors import CardError, ExportError
from mimzoo.files import replacing
from mimzoo.hub import find_model
from mimzoo.models import load
from mimzoo.phantoms import make_phantom
from mimzoo.sliding import slide
from mimzoo.volume import Grid, Volume, prepare, read_scan

OPSET = 20
DICE_AT_LEAST = 0.999
CLEAR_MARGIN = 0.05
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """How an exported graph agrees with the float64 original on one volume."""

    volume: str
    largest_difference: float
    lowest_dice: float
    clear_voxels_differing: int

    def holds(self) -> bool:
        """Return whether every class agrees and no voxel with a clear margin differs."""
        return self.lowest_dice >= DICE_AT_LEAST and self.clear_voxels_differing == 0

    def __str__(self) -> str:
        return (
            f"{self.volume}: logits differ by at most {self.largest_difference:.1e}, lowest Dice "
            f"{self.lowest_dice:.5f}, {self.clear_voxels_differing} clear voxels differ"
        )


def export(reference: str | Path, out: Path | None = None, scan: Path | None = None) -> tuple[Path, list[Parity]]:
    """Return the path of the ONNX file and how it agrees with torch on a CT-like phantom and on `scan`.

    The graph has a fixed roi (the card's crop) and a free batch; its metadata holds input, labels, overlap and card.
    Raises ExportError when the graph does not agree with the model; then nothing is written.
    """
    card = find_model(reference)
    if card.block.finetuning is None:
        raise CardError(f"{card.name} is an encoder; export a segmenter, see `mimzoo list`")
    model = load(reference)
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
    """Return the serialised graph of a segmenter, checked, with its metadata."""
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
    assert block.finetuning is not None and block.labels is not None  # a segmenter's card, checked by export
    return Metadata(
        format=1,
        card=card.name,
        card_sha256=card.sha256(),
        input=block.input,
        labels=block.labels,
        roi=block.input.crop,
        overlap=block.finetuning.overlap,
    )


def compare(model: nn.Module, content: bytes, card: Card, scan: Path | None) -> Iterator[Parity]:
    """Yield the agreement of graph and float64 model on a CT-like phantom with constant air, and on a real scan."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    exported = lambda windows: session.run(None, {"volume": windows})[0]  # noqa: E731
    exact = _exact_predictor(model)
    volumes = {"CT-like phantom": phantom_for(card)}
    if scan is not None:
        volumes[scan.name] = read_scan(scan, len(card.block.input.channels))
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
    """Return how two predictors agree: their logits window by window, their label maps over the whole volume."""
    roi, classes = card.block.input.crop, 1 + len(card.block.labels or {})
    differences, unclear = [], []

    def both(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        ours, theirs = exported(windows), exact(windows)
        differences.append(float(np.abs(ours - theirs).max()))
        unclear.append(clear_disagreements(ours, theirs))
        return theirs.astype(np.float32)

    overlap = card.block.finetuning.overlap if card.block.finetuning else 0.5
    truth = slide(both, voxels, roi, overlap, classes)
    labels = slide(exported, voxels, roi, overlap, classes)
    return Parity(name, max(differences), lowest_dice(labels, truth, classes), sum(unclear))


def clear_disagreements(ours: NDArray[np.float32], exact: NDArray[np.float32]) -> int:
    """Return how many voxels take another class although the exact logits leave a clear margin.

    Clear means: the best two differ by more than 5 % of the standard deviation of all logits of the window.
    """
    ranked = np.sort(exact, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > CLEAR_MARGIN * exact.std()
    return int((clear & (ours.argmax(1) != exact.argmax(1))).sum())


def lowest_dice(labels: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> float:
    """Return the Dice of the class that agrees least, background included; classes in neither map count as 1."""

    def dice(value: int) -> float:
        ours, theirs = labels == value, truth == value
        total = int(ours.sum()) + int(theirs.sum())
        return 2 * int((ours & theirs).sum()) / total if total else 1.0

    return min(dice(value) for value in range(classes))
