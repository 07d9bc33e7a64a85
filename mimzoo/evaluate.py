"""Segmentation metrics of a model on a data set, in each scan's own grid: `mimzoo evaluate RUN --data DIR`."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from mimzoo.cards import Card, Metric, is_folder_reference, update_card, write_card
from mimzoo.data.datasets import Case, read_dataset
from mimzoo.errors import CardError
from mimzoo.figures import draw_overlays
from mimzoo.files import replacing
from mimzoo.hub import find_model
from mimzoo.metrics import Scores, Summary, score_case, summarise
from mimzoo.models import load
from mimzoo.sliding import slide
from mimzoo.volume import LabelMap, Volume, check_pair, prepare, read_labels, read_scan

SURFACE_TOLERANCE_MM = 1.0
OVERLAYS = 6
Segment = Callable[[Volume], LabelMap]


class Row(NamedTuple):
    """A case's scan with its truth and prediction, all in the scan's own grid."""

    name: str
    scan: Volume
    truth: LabelMap
    prediction: LabelMap


@dataclass(frozen=True)
class Evaluation:
    """Scores by case and class with their summary, and the protocol that produced them."""

    model: str
    data: str
    split: str
    protocol: str
    cases: dict[str, dict[str, Scores | None]]
    summary: Summary


def evaluate(
    reference: str | Path, data: Path, *, split: str = "validation", out: Path | None = None, progress: Any = None
) -> tuple[Evaluation, Path]:
    """Return the scores of a segmenter on a split of `data`, and the folder of metrics.json and overlays.png.

    They go to `out`, by default the model's own folder, whose card then quotes the means.
    Raises CardError when the model is no segmenter, DataError when the split is not there.
    """
    card = find_model(reference)
    if card.block.finetuning is None or card.block.labels is None:
        raise CardError(f"{card.name} is an encoder without labels; evaluate a segmenter, see `mimzoo list`")
    segment, dataset = segment_with(load(reference), card), read_dataset(data)
    cases = dataset.cases(split)
    scored: dict[str, dict[str, Scores | None]] = {}
    shown: list[Row] = []
    for row in segment_cases(segment, cases, card, progress):
        scored[row.name] = _score(row, card, distances=True)
        shown = [*shown, row][:OVERLAYS]
    used = "selected" if split == "validation" else "trained"
    protocol = (
        f"{split} split, n={len(cases)}, scan's own grid, background excluded, the weights were {used} on these cases"
    )
    result = Evaluation(card.name, dataset.name, split, protocol, scored, summarise(scored))
    folder = out or (Path(reference) if is_folder_reference(reference) else Path("runs") / card.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(result, folder)
    draw_overlays(folder / "overlays.png", shown, card.block.labels)
    if out is None and is_folder_reference(reference):
        quote_metrics(card, result, folder)
    return result, folder


def segment_with(model: nn.Module, card: Card) -> Segment:
    """Return the function from a scan to its label map, by the preparation and sliding window of deployment."""
    block = card.block
    if block.finetuning is None or block.labels is None:
        raise CardError(f"{card.name} is no segmenter: its card has no fine-tuning recipe or no labels")
    overlap, labels = block.finetuning.overlap, block.labels
    predict = numpy_predictor(model)

    def segment(scan: Volume) -> LabelMap:
        prepared = prepare(scan, block.input)
        voxels = slide(predict, prepared.voxels, block.input.crop, overlap, 1 + len(labels))
        return prepared.restore(voxels, labels)

    return segment


def numpy_predictor(model: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return the model as a function from windows (B, C, *roi) to logits (B, K, *roi) in numpy."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: torch.Tensor = model(torch.from_numpy(windows).to(device))
        return logits.float().cpu().numpy()

    return predict


def score_cases(
    segment: Segment, cases: Iterable[Case], card: Card, progress: Any = None, distances: bool = True
) -> Iterator[tuple[str, dict[str, Scores | None]]]:
    """Yield each case's id with its scores by class name."""
    for row in segment_cases(segment, cases, card, progress):
        yield row.name, _score(row, card, distances)


def segment_cases(segment: Segment, cases: Iterable[Case], card: Card, progress: Any = None) -> Iterator[Row]:
    """Yield each case's scan, truth and prediction, all in the scan's own grid."""
    known = list(cases)
    for done, case in enumerate(known, 1):
        scan = read_scan(case.image, len(card.block.input.channels))
        truth = read_labels(_label_of(case), card.block.labels)
        check_pair(scan, truth)
        yield Row(case.id, scan, truth, segment(scan))
        if progress is not None:
            progress(done, len(known), case.id)


def _score(row: Row, card: Card, distances: bool) -> dict[str, Scores | None]:
    tolerance = SURFACE_TOLERANCE_MM if distances else None
    spacing = row.truth.grid.spacing_mm
    return score_case(row.prediction.voxels, row.truth.voxels, spacing, card.block.labels or {}, tolerance)


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise CardError(f"case {case.id} has no label file to be scored against; name a labelled split")
    return case.label


def dice_of_cases(segment: Segment, cases: Iterable[Case], card: Card) -> dict[str, float]:
    """Return the mean foreground Dice over the cases, then each class's mean: what training selects on."""
    summary = summarise(dict(score_cases(segment, cases, card, distances=False)))
    classes = {f"dice {name}": found.dice for name, found in summary.classes.items() if found.dice is not None}
    return {"dice": summary.dice, **classes}


def write_report(result: Evaluation, folder: Path) -> None:
    """Write `metrics.json`: every case, every class, the summary and the protocol."""
    with replacing(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1) + "\n")


def scores_table(result: Evaluation) -> Table:
    """Return the summary as a table, one row per class."""
    table = Table("class", "Dice", "HD95 (mm)", "surface Dice", "cases", "absent", title=result.protocol)
    for name, found in result.summary.classes.items():
        figures = [
            (found.dice, found.dice_std),
            (found.hd95_mm, found.hd95_mm_std),
            (found.surface_dice, found.surface_dice_std),
        ]
        table.add_row(name, *(_spread(*pair) for pair in figures), str(found.n), str(found.n_absent))
    means = (result.summary.dice, result.summary.hd95_mm, result.summary.surface_dice)
    table.add_row("mean", *(_spread(mean, None) for mean in means), "", "", style="bold")
    return table


def _spread(mean: float | None, deviation: float | None) -> str:
    shown = "-" if mean is None else f"{mean:.3f}"
    return shown if deviation is None else f"{shown} ± {deviation:.3f}"


def quote_metrics(card: Card, result: Evaluation, folder: Path) -> None:
    """Write the means into the card in `folder`, in place of what it said of the same data and protocol."""
    kept = [metric for metric in card.block.metrics if (metric.data, metric.protocol) != (result.data, result.protocol)]
    named = {
        "dice": result.summary.dice,
        "hd95_mm": result.summary.hd95_mm,
        "surface_dice": result.summary.surface_dice,
    }
    fresh = [
        Metric(name=name, value=round(value, 4), data=result.data, protocol=result.protocol)
        for name, value in named.items()
        if value is not None
    ]
    write_card(update_card(card, metrics=[metric.model_dump() for metric in (*kept, *fresh)]), folder)
