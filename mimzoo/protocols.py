"""Which cases a recipe trains and validates on, checked against its task before anything is prepared."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mimzoo.cards import Card
from mimzoo.data.cases import LABELLED, Case, Dataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.reading import pick_channels
from mimzoo.data.splits import few_labels, fixed_split, label_fraction, take_fold
from mimzoo.data.tables import check_targets, target_of
from mimzoo.errors import CardError, DataError
from mimzoo.files import replacing
from mimzoo.recipes import Finetuning
from mimzoo.tasks import Task

# What a run was trained and selected on, beside its card, as `mimzoo finetune --split` takes it.
SPLIT = "split.json"


def recipe_of(card: Card) -> Finetuning:
    """Return the fine-tuning recipe of a card; CardError when it has none."""
    if card.block.finetuning is None:
        raise CardError(
            f"card {card.name} has no fine-tuning recipe; name a card that has a task, such as {card.name}-seg, "
            "see `mimzoo list`"
        )
    return card.block.finetuning


def task_dataset(card: Card, data: Path) -> Dataset:
    """Return the labelled cases of a data set, split as the card's recipe says, with the card's labels.

    Raises DataError when they do not serve the task: other labels, channels or targets, cases without a label, a split
    that shares a subject, or a part with a single class.
    """
    recipe, task = recipe_of(card), card.block.task
    dataset = _split(_wanted(read_dataset(data), task), recipe, task)
    if not dataset.training and not dataset.validation:
        raise DataError(f"{data} has no labelled cases; list them under 'training' and 'validation' in dataset.json")
    pick_channels(dataset, card.block.input)
    if task.target is not None:
        check_targets(dataset, task.target.column, task.target.classes)
    else:
        _check_labels(dataset, card, data)
    return replace(dataset, unlabelled=(), labels=dict(task.labels))


def _wanted(dataset: Dataset, task: Task) -> Dataset:
    """Return the data set without the cases whose target is to be left out."""
    if task.target is None or not task.target.leave_out:
        return dataset
    column, unwanted = task.target.column, task.target.leave_out

    def kept(cases: tuple[Case, ...]) -> tuple[Case, ...]:
        return tuple(case for case in cases if target_of(dataset, case, column) not in unwanted)

    return replace(dataset, training=kept(dataset.training), validation=kept(dataset.validation))


def _split(dataset: Dataset, recipe: Finetuning, task: Task) -> Dataset:
    if recipe.split is not None:
        return fixed_split(dataset, recipe.split.training, recipe.split.validation)
    if recipe.fold is not None:
        column = task.target.column if task.target is not None and task.kind == "classes" else None
        return take_fold(dataset, recipe.fold.folds, recipe.fold.fold, column=column)
    return dataset


def _check_labels(dataset: Dataset, card: Card, data: Path) -> None:
    labels = dict(card.block.labels or {})
    if dataset.labels and dataset.labels != labels:
        raise DataError(
            f"{data} labels {dataset.labels}, card {card.name} labels {labels}; "
            "name a card with these labels, or set them with --set 'labels={1: name, ...}'"
        )
    for case in (case for part in LABELLED for case in getattr(dataset, part)):
        if case.label is None:
            raise DataError(
                f"{data}: case {case.id!r} has no label map, but the card draws masks; add it, or unlist it"
            )


def training_dataset(card: Card, data: Path) -> Dataset:
    """Return `task_dataset` with as few training cases as the recipe says, and something to select the weights on.

    Raises DataError as `task_dataset`, and when there are no training or no validation cases, or not enough.
    """
    dataset, recipe = task_dataset(card, data), recipe_of(card)
    for part in LABELLED:
        if not getattr(dataset, part):
            raise DataError(f"{data} has no labelled {part} cases; list them under {part!r} in its dataset.json")
    if recipe.labelled is None:
        return dataset
    if isinstance(recipe.labelled, int):
        few = few_labels(dataset, recipe.labelled, recipe.seed)
    else:
        few = label_fraction(dataset, recipe.labelled, recipe.seed)
    target = card.block.target
    if target is not None:
        # The few may be of one class, from which nothing can be learned.
        check_targets(few, target.column, target.classes)
    return few


def truths(dataset: Dataset, task: Task) -> Mapping[str, float]:
    """Return what is true of each labelled scan, by case id: the number of its class, or its value.

    Raises DataError for a case without that target.
    """
    if task.target is None:
        return {}
    column, classes = task.target.column, task.target.classes
    texts = {case.id: target_of(dataset, case, column) for part in LABELLED for case in getattr(dataset, part)}
    return {name: float(classes.index(text)) if classes else float(text) for name, text in texts.items()}


def write_split(dataset: Dataset, folder: Path) -> None:
    """Write which cases a run trains on and which select its weights, by id, into its folder."""
    ids = {part: [case.id for case in getattr(dataset, part)] for part in LABELLED}
    with replacing(folder / SPLIT) as temporary:
        temporary.write_text(json.dumps({"data": dataset.name, **ids}, indent=1) + "\n", encoding="utf-8")


def use_of(card: Card, dataset: Dataset, split: str) -> str:
    """Return what the cases of a split were to the training of a card: the run's own record decides where it has one.

    Without one, cases are taken to be those that the recipe was trained on. Raises DataError for a damaged record.
    """
    path = card.file(SPLIT)
    if path is None:
        return f"the weights were {'selected' if split == 'validation' else 'trained'} on these cases"
    try:
        used = json.loads(path.read_text(encoding="utf-8"))
        same, trained, selected = used["data"] == dataset.name, {*used["training"]}, {*used["validation"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: says not which cases were used ({error!r}); remove it") from None
    cases = {case.id for case in dataset.cases(split)}
    counts = {"trained": len(cases & trained) * same, "selected": len(cases & selected) * same}
    for verb, count in counts.items():
        if count and count == len(cases):
            return f"the weights were {verb} on these cases"
    if not any(counts.values()):
        return "the weights were neither trained nor selected on these cases"
    return f"the weights were trained on {counts['trained']} and selected on {counts['selected']} of these cases"
