"""A model for a card's task from its recipe: `mimzoo finetune NAME --data DIR`."""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimzoo.cards import Card, mimzoo_home, read_card
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import Case, Dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.evaluate import draw_rows
from mimzoo.inference import answer_with
from mimzoo.losses import task_loss
from mimzoo.metrics import Summary
from mimzoo.models import Scaled, TaskModel, build_model
from mimzoo.processes import company, in_turn, is_main, join, meeting, share_out
from mimzoo.protocols import recipe_of, training_dataset, truths, write_split
from mimzoo.recipes import Scoring
from mimzoo.report import report_run, settings
from mimzoo.runs import begin_run, keep_weights
from mimzoo.scoring import Scored, answer_cases, case_values, score_row, summarise_cases, summary_values
from mimzoo.starts import start_encoder
from mimzoo.training import Job, best_weights, check_shares, parameter_groups, train

LEAST_PROBABILITY = 1e-7
# As many validation cases are drawn in the end.
OVERLAYS = 3


@company()
def finetune(
    card: Card,
    data: Path,
    folder: Path,
    *,
    resume: bool = False,
    save_seconds: float = 60.0,
    workers: int = 0,
    trackers: Sequence[str] = (),
    progress: Any = None,
) -> Card:
    """Return the card of the finished run in `folder`: the weights that did best on the validation cases.

    Best is the highest mean Dice of masks, the least cross-entropy of classes, the least mean error of a value.
    `workers` processes load crops beside the training; `trackers` are named as in `mimzoo.tracking`.
    Raises CardError for a card without a fine-tuning recipe; DataError when the data set does not serve the task, or
    has no validation cases to select on.
    """
    machine = join()
    # What does not fit together is said before scans are prepared.
    with meeting():
        recipe = recipe_of(card)
        check_shares(recipe)
        dataset = training_dataset(card, data)
        model = make_model(card, dataset)
    store = in_turn(lambda: prepare_cases(card, dataset, progress), machine.is_local_main_process)
    # Who comes later finds the run begun.
    run = in_turn(lambda: begin_run(card, folder, resume or not is_main(), "finetune"), is_main())
    if is_main():
        write_split(dataset, folder)
    task = card.block.task
    job = Job(
        folder=folder,
        schedule=recipe,
        model=model,
        groups=parameter_groups(model, recipe.optimiser, layer_scale(model, recipe.optimiser.layer_decay)),
        data=training_crops(store, run),
        loss_of=task_loss(task, truths(dataset, task)),
        validate=validation(run, dataset),
        higher_is_better=not task.of_scan,
        title=card.name,
        save_seconds=save_seconds,
        workers=workers,
        trackers=trackers,
        settings=settings(run),
    )
    train(job)
    with meeting():
        if is_main():
            finish(run, dataset, folder)
    return read_card(folder)


def prepare_cases(card: Card, dataset: Dataset, progress: Any) -> Store:
    """Return the prepared store of a data set's cases and their labels."""
    return prepare_dataset(dataset, card.block.input, card.block.labels, mimzoo_home() / "prepared", progress)


def finish(run: Card, dataset: Dataset, folder: Path) -> None:
    """Write what a run ends with: its best weights, named in its card, pictures and the report."""
    model = build_model(run.block)
    model.load_state_dict(best_weights(folder))
    finished = keep_weights(run, folder, {"weights": model.state_dict()})
    draw_answers(model.to(join().device), finished, dataset, folder)
    report_run(folder)


def draw_answers(model: TaskModel, card: Card, dataset: Dataset, folder: Path) -> None:
    """Write `overlays.png` of a few validation cases as a model answers them, where the answers are masks."""
    task = card.block.task
    if not task.of_scan:
        rows = answer_cases(answer_with(model.eval(), card), dataset.validation, dataset, card)
        draw_rows(folder / "overlays.png", list(islice(rows, OVERLAYS)), task)


def make_model(card: Card, dataset: Dataset) -> TaskModel:
    """Return the card's encoder and head: the encoder from the `start` weights, the rest fresh under the seed.

    The outputs of a regressor are scaled to the mean and spread of the data set's training cases.
    Raises ShapeError when the start's encoder is not the card's, or a part does not suit the task.
    """
    recipe, task = recipe_of(card), card.block.task
    torch.manual_seed(recipe.seed)
    model = build_model(card.block)
    if recipe.start is not None:
        start_encoder(model.encoder, card, recipe.start)
    if isinstance(model.head, Scaled):
        known = truths(dataset, task)
        values = torch.tensor([known[case.id] for case in dataset.training], dtype=torch.float64)
        model.head.shift.copy_(values.mean())
        model.head.scale.copy_(values.std())
    return model


def layer_scale(model: TaskModel, decay: float) -> Callable[[str], float]:
    """Return the rate multiplier of a parameter: 1 for the head, times `decay` for each block below the last.

    Layer-wise decay as in BEiT (arXiv 2106.08254) and MAE (arXiv 2111.06377).
    """

    def scale_of(name: str) -> float:
        if not name.startswith("encoder."):
            return 1.0
        depth = model.encoder.depth_of(name.removeprefix("encoder."))
        return float(decay ** (model.encoder.depth + 1 - depth))

    return scale_of


def training_crops(store: Store, card: Card) -> CropDataset:
    """Return the crops of all optimiser steps, the stated share of them on labelled voxels where there are any."""
    recipe, input = recipe_of(card), card.block.input
    # Voxels have no labels where only the whole scan has.
    foreground = 0.0 if card.block.task.of_scan else recipe.foreground
    augment = build_augmentation(recipe.augmentation, input.spacing_mm)
    count = recipe.steps * recipe.batch
    return CropDataset(store.cases("training"), input.crop, count, recipe.seed, foreground, augment)


def validation(card: Card, dataset: Dataset) -> Callable[[nn.Module], dict[str, float]]:
    """Return the function that measures a model on the validation cases, the figure that selects first.

    That is Dice, then each class's, of masks in the scans' own grids; cross-entropy, then accuracy and the like, of
    classes; the mean absolute error, then others, of a value. Processes share the cases out.
    """
    task = card.block.task

    def validate(model: nn.Module) -> dict[str, float]:
        answering = answer_with(model, card)

        def score(cases: Sequence[Case]) -> list[Scored]:
            rows = answer_cases(answering, cases, dataset, card)
            return [score_row(row, task, Scoring(metrics=("dice",))) for row in rows]

        names = [case.id for case in dataset.validation]
        scored = dict(zip(names, share_out(dataset.validation, score), strict=True))
        result = summarise_cases(scored, task)
        if isinstance(result, Summary):
            classes = {f"dice {name}": found.metrics["dice"].mean for name, found in result.classes.items() if found.n}
            return {**summary_values(result), **classes}
        if task.kind == "value":
            return summary_values(result)
        return {"cross_entropy": cross_entropy(case_values(scored, task)), **summary_values(result)}

    return validate


def cross_entropy(probabilities: dict[str, float]) -> float:
    """Return the mean of the negative logarithms of the probabilities given to what is true, by case."""
    terms = [-math.log(max(value, LEAST_PROBABILITY)) for value in probabilities.values()]
    return math.fsum(terms) / len(terms)
