"""A model for a card's task from its recipe: `mimzoo finetune NAME --data DIR`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimzoo.cards import Card, mimzoo_home
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import Dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.figures import draw_curves
from mimzoo.inference import answer_with
from mimzoo.losses import task_loss
from mimzoo.metrics import Summary
from mimzoo.models import Scaled, TaskModel, build_model
from mimzoo.protocols import recipe_of, training_dataset, truths
from mimzoo.recipes import Scoring
from mimzoo.runs import begin_run, keep_weights
from mimzoo.scoring import answer_cases, case_values, score_row, summarise_cases, summary_values
from mimzoo.starts import start_encoder
from mimzoo.training import Job, best_weights, parameter_groups, train

LEAST_PROBABILITY = 1e-7


def finetune(
    card: Card, data: Path, folder: Path, *, resume: bool = False, save_seconds: float = 60.0, progress: Any = None
) -> Card:
    """Return the card of the finished run in `folder`: the weights that did best on the validation cases.

    Best is the highest mean Dice of masks, the least cross-entropy of classes, the least mean error of a value.
    Raises CardError for a card without a fine-tuning recipe; DataError when the data set does not serve the task, or
    has no validation cases to select on.
    """
    recipe = recipe_of(card)
    dataset = training_dataset(card, data)
    # What does not fit together is said before scans are prepared.
    model = make_model(card, dataset)
    store = prepare_dataset(dataset, card.block.input, card.block.labels, mimzoo_home() / "prepared", progress)
    run = begin_run(card, folder, resume, "finetune")
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
        title=f"finetune {card.name}",
        save_seconds=save_seconds,
    )
    train(job)
    draw_curves(folder / "curves.png", folder / "history.csv")
    return keep_weights(run, folder, {"weights": best_weights(folder)})


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
    classes; the mean absolute error, then others, of a value.
    """
    task = card.block.task

    def validate(model: nn.Module) -> dict[str, float]:
        rows = answer_cases(answer_with(model, card), dataset.validation, dataset, card)
        scored = {row.name: score_row(row, task, Scoring(metrics=("dice",))) for row in rows}
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
