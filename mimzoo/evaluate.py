"""How well a model does on a data set: `mimzoo evaluate RUN --data DIR`, by folds and against another run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimzoo.answers import Told
from mimzoo.blocks import Metric
from mimzoo.cards import Card, is_folder_reference, update_card, write_card
from mimzoo.data.cases import Dataset
from mimzoo.errors import CardError
from mimzoo.figures import draw_overlays
from mimzoo.files import replacing
from mimzoo.hub import find_model
from mimzoo.inference import answer_with
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.metrics import Paired, compare_paired
from mimzoo.models import load_card
from mimzoo.protocols import recipe_of, task_dataset, use_of
from mimzoo.report import report_run
from mimzoo.scoring import Result, Row, Scored, answer_cases, case_values, score_row, summarise_cases, summary_values
from mimzoo.tasks import Task
from mimzoo.volume import Volume

OVERLAYS = 6


@dataclass(frozen=True)
class Evaluation:
    """What was found for each case, its summary, and the protocol that produced it."""

    model: str
    data: str
    split: str
    protocol: str
    cases: Mapping[str, Scored]
    summary: Result


def evaluate(
    reference: str | Path, data: Path, *, split: str = "validation", out: Path | None = None, progress: Any = None
) -> tuple[Evaluation, Path]:
    """Return how well a model does on a split of `data`, and the folder of metrics.json (and overlays.png of masks).

    They go to `out`, by default the model's own folder, whose card then quotes the means. The data set is split as
    the card's recipe says.
    Raises CardError when the model has no task, DataError when the data do not serve it or the split is not there.
    """
    card = find_model(reference)
    answering = answer_with(load_card(card), card)
    dataset = task_dataset(card, data)
    cases, task, scoring = dataset.cases(split), card.block.task, recipe_of(card).scoring
    scored: dict[str, Scored] = {}
    shown: list[Row] = []
    for row in answer_cases(answering, cases, dataset, card, progress):
        scored[row.name] = score_row(row, task, scoring)
        shown = [*shown, row][:OVERLAYS]
    protocol = _protocol(card, dataset, split)
    result = Evaluation(card.name, dataset.name, split, protocol, scored, summarise_cases(scored, task))
    folder = out or default_folder(reference, card)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(result, folder)
    draw_rows(folder / "overlays.png", shown, task)
    if out is None and is_folder_reference(reference):
        quote_metrics(card, result, folder)
        report_run(folder)
    return result, folder


def default_folder(reference: str | Path, card: Card) -> Path:
    """Return where a report goes when nobody says: the model's own folder, or one below runs/."""
    return Path(reference) if is_folder_reference(reference) else Path("runs") / card.name


def _protocol(card: Card, dataset: Dataset, split: str) -> str:
    recipe, task = recipe_of(card), card.block.task
    part = f"fold {recipe.fold.fold} of {recipe.fold.folds}" if recipe.fold else f"{split} split"
    where = "" if task.of_scan else "scan's own grid, background excluded, "
    return f"{part}, n={len(dataset.cases(split))}, {where}{use_of(card, dataset, split)}"


def draw_rows(path: Path, rows: Sequence[Row], task: Task) -> None:
    """Write a picture of the cases: label maps as they are, regions as the finest region at each voxel.

    Nothing is drawn of what is told of whole scans.
    """
    shown = [(row.name, row.scan, _flat(row.truth, row.scan), _flat(row.answer, row.scan)) for row in rows]
    drawn = [(name, scan, truth, found) for name, scan, truth, found in shown if found is not None]
    if drawn:
        draw_overlays(path, drawn, task.labels if task.kind == "labels" else dict(enumerate(task.outputs, 1)))


def _flat(found: LabelMap | RegionMap | Told | float, scan: Volume) -> LabelMap | None:
    """Return a label map to be drawn, of overlapping regions with the later ones on top; None of what is no mask."""
    if isinstance(found, LabelMap):
        return found
    if not isinstance(found, RegionMap):
        return None
    flat = np.zeros(scan.grid.shape, np.uint8)
    for number, mask in enumerate(found.masks.values(), 1):
        flat[mask != 0] = number
    return LabelMap(flat, scan.grid)


def evaluate_folds(
    references: Sequence[str | Path], data: Path, out: Path, progress: Any = None
) -> tuple[Evaluation, Path]:
    """Return the figures over the validation parts of all folds together: each case is judged by its own fold's run.

    Raises CardError unless the runs are all folds of one recipe, each once; errors as `evaluate`.
    """
    cards = [find_model(reference) for reference in references]
    _check_folds(cards)
    scored: dict[str, Scored] = {}
    for reference, card in zip(references, cards, strict=True):
        result, _ = evaluate(reference, data, out=out / f"fold-{_fold(card)}", progress=progress)
        scored.update(result.cases)
    protocol = f"all {len(cards)} folds pooled, n={len(scored)}, each case by the run that was not trained on it"
    pooled = Evaluation(
        cards[0].name, result.data, "folds", protocol, scored, summarise_cases(scored, cards[0].block.task)
    )
    write_report(pooled, out)
    return pooled, out


def _fold(card: Card) -> int:
    fold = recipe_of(card).fold
    if fold is None:
        raise CardError(f"{card.name} ({card.folder}) is no fold; train folds with: mimzoo finetune NAME --fold 0/5")
    return fold.fold


def _check_folds(cards: Sequence[Card]) -> None:
    found = sorted(_fold(card) for card in cards)
    recipes = [recipe_of(card) for card in cards]
    alike = {update_card(card, finetuning=_unfolded(card)).sha256() for card in cards}
    if len(alike) > 1:
        raise CardError("these runs follow different recipes, so that their folds cannot be pooled; name runs of one")
    folds = recipes[0].fold.folds if recipes[0].fold else 0
    if found != list(range(folds)):
        raise CardError(f"the folds 0 to {folds - 1} are needed, each once, but these runs are the folds {found}")


def _unfolded(card: Card) -> Any:
    fold = recipe_of(card).fold
    assert fold is not None  # checked by _fold
    return recipe_of(card).model_copy(update={"fold": fold.model_copy(update={"fold": 0})})


def compare(
    first: str | Path, second: str | Path, data: Path, *, split: str = "validation", out: Path, progress: Any = None
) -> tuple[Paired, Path]:
    """Return two models held against each other case by case on a split of `data`, and the folder of the reports.

    What is compared for each case says `scoring.case_values`. Raises CardError for models of different tasks.
    """
    cards = [find_model(first), find_model(second)]
    if cards[0].block.task != cards[1].block.task:
        raise CardError(f"{cards[0].name} and {cards[1].name} have different tasks; compare models of one task")
    values = []
    for number, reference in enumerate((first, second), 1):
        result, _ = evaluate(
            reference, data, split=split, out=out / f"{number}-{cards[number - 1].name}", progress=progress
        )
        values.append(case_values(result.cases, cards[0].block.task))
    found = compare_paired(*values)
    with replacing(out / "comparison.json") as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return found, out


def write_report(result: Evaluation, folder: Path) -> None:
    """Write `metrics.json`: every case, every class, the summary and the protocol."""
    with replacing(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1) + "\n")


def quote_metrics(card: Card, result: Evaluation, folder: Path) -> None:
    """Write the means into the card in `folder`, in place of what it said of the same data and protocol."""
    kept = [metric for metric in card.block.metrics if (metric.data, metric.protocol) != (result.data, result.protocol)]
    fresh = [
        Metric(name=name, value=round(value, 4), data=result.data, protocol=result.protocol)
        for name, value in summary_values(result.summary).items()
    ]
    write_card(update_card(card, metrics=[metric.model_dump() for metric in (*kept, *fresh)]), folder)
