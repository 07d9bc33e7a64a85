"""Answers against the truth, case by case, for every kind of task, and their summary."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimzoo.answers import Answer, Told
from mimzoo.cards import Card
from mimzoo.data.cases import Case, Dataset
from mimzoo.data.reading import read_case, read_truth
from mimzoo.inference import Answering
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.metrics import (
    Classification,
    Regression,
    Scores,
    Summary,
    score_case,
    score_classification,
    score_masks,
    score_regression,
    summarise,
)
from mimzoo.protocols import truths
from mimzoo.recipes import Scoring
from mimzoo.tasks import Task
from mimzoo.volume import Volume

Result = Summary | Classification | Regression


@dataclass(frozen=True)
class Judged:
    """What was told of a scan beside what is true of it: the number of its class, or its value."""

    truth: float
    told: Told


# Of one case: the scores of each class or region, or what was told of the whole scan.
Scored = Mapping[str, Scores | None] | Judged


@dataclass(frozen=True, eq=False)
class Row:
    """A case with its scan, the truth and the answer; masks lie in the scan's own grid."""

    name: str
    scan: Volume
    truth: LabelMap | RegionMap | float
    answer: Answer


def answer_cases(
    answering: Answering, cases: Iterable[Case], dataset: Dataset, card: Card, progress: Any = None
) -> Iterator[Row]:
    """Yield each case's scan, truth and answer; `progress(done, total, case id)` is called after each."""
    known, task = list(cases), card.block.task
    told = truths(dataset, task)
    for done, case in enumerate(known, 1):
        scan = read_case(case, dataset, card.block.input)
        truth = told[case.id] if task.of_scan else _drawn_truth(case, scan, dataset, task)
        yield Row(case.id, scan, truth, answering(scan))
        if progress is not None:
            progress(done, len(known), case.id)


def _drawn_truth(case: Case, scan: Volume, dataset: Dataset, task: Task) -> LabelMap | RegionMap:
    labels = read_truth(case, scan, task.labels, dataset.values)
    if task.kind == "labels":
        return labels
    masks = {name: np.isin(labels.voxels, values).astype(np.uint8) for name, values in task.regions.items()}
    return RegionMap(masks, labels.grid)


def score_row(row: Row, task: Task, scoring: Scoring) -> Scored:
    """Return the scores of a case by class or region, or what was told of it beside the truth."""
    match row.truth, row.answer:
        case LabelMap(), LabelMap():
            spacing = row.truth.grid.spacing_mm
            return score_case(row.answer.voxels, row.truth.voxels, spacing, task.labels, scoring)
        case RegionMap(), RegionMap():
            found, true = ([one.masks[name] != 0 for name in task.outputs] for one in (row.answer, row.truth))
            return score_masks(found, true, task.outputs, row.truth.grid.spacing_mm, scoring)
        case float(), dict():
            return Judged(row.truth, row.answer)
    raise TypeError(f"{row.name}: a {type(row.answer).__name__} cannot be held against a {type(row.truth).__name__}")


def summarise_cases(scored: Mapping[str, Scored], task: Task) -> Result:
    """Return the summary of scored cases by case id; DataError where they allow none (see `mimzoo.metrics`)."""
    cases: Mapping[str, Any] = scored
    if task.kind in ("labels", "regions"):
        return summarise(cases)
    told = np.array([[case.told[name] for name in task.outputs] for case in cases.values()])
    true = np.array([case.truth for case in cases.values()])
    if task.kind == "classes":
        return score_classification(told, true.astype(int), task.outputs)
    return score_regression(told[:, 0], true)


def summary_values(result: Result) -> dict[str, float]:
    """Return the figures of a summary by name, the main one first, without those undefined."""
    match result:
        case Summary():
            return {name: figure.mean for name, figure in result.metrics.items()}
        case Classification():
            named = {name: getattr(result, name) for name in ("balanced_accuracy", "accuracy", "auc")}
        case Regression():
            names = ("mean_absolute_error", "root_mean_square_error", "r2", "pearson_r")
            named = {name: getattr(result, name) for name in names}
    return {name: found.value for name, found in named.items() if found.value is not None}


def case_values(scored: Mapping[str, Scored], task: Task) -> dict[str, float]:
    """Return one number for each case, by which two runs are compared.

    Masks: the mean Dice of the classes that the case shows, 1 where rightly none is drawn. Classes: the probability
    given to the true one. A value: its absolute error.
    """
    found: dict[str, float] = {}
    cases: Mapping[str, Any] = scored
    for name, case in cases.items():
        if task.kind == "classes":
            found[name] = case.told[task.outputs[int(case.truth)]]
        elif task.kind == "value":
            found[name] = abs(case.told[task.outputs[0]] - case.truth)
        else:
            shown = [scores.dice for scores in case.values() if scores is not None]
            found[name] = float(np.mean(shown)) if shown else 1.0
    return found
