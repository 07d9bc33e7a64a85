"""A segmenter from a card's recipe: `mimzoo finetune NAME --data DIR`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from mimzoo.cards import Card, mimzoo_home
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import Dataset, few_labels, read_dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.errors import CardError, DataError, ShapeError
from mimzoo.evaluate import dice_of_cases, segment_with
from mimzoo.figures import draw_curves
from mimzoo.hub import find_model
from mimzoo.models import SegmentationModel, build_encoder, build_head, load
from mimzoo.recipes import Finetuning
from mimzoo.runs import begin_run, keep_weights
from mimzoo.training import Job, best_weights, parameter_groups, train
from mimzoo.weights import load_state


def finetune(
    card: Card, data: Path, folder: Path, *, resume: bool = False, save_seconds: float = 60.0, progress: Any = None
) -> Card:
    """Return the card of the finished run in `folder`: the weights with the best mean Dice on the validation cases.

    Raises CardError for a card without a fine-tuning recipe; DataError when the data set's labels are not the card's
    or it has no validation cases to select on.
    """
    recipe = _recipe(card)
    dataset = labelled_dataset(card, data)
    # What does not fit together is said before scans are prepared.
    model = make_segmenter(card)
    store = prepare_dataset(dataset, card.block.input, card.block.labels, mimzoo_home() / "prepared", progress)
    run = begin_run(card, folder, resume, "finetune")
    job = Job(
        folder=folder,
        schedule=recipe,
        model=model,
        groups=parameter_groups(model, recipe.optimiser, layer_scale(model, recipe.optimiser.layer_decay)),
        data=training_crops(store, run),
        loss_of=segmentation_loss(),
        validate=validation(run, dataset),
        higher_is_better=True,
        title=f"finetune {card.name}",
        save_seconds=save_seconds,
    )
    train(job)
    draw_curves(folder / "curves.png", folder / "history.csv")
    return keep_weights(run, folder, {"weights": best_weights(folder)})


def _recipe(card: Card) -> Finetuning:
    if card.block.finetuning is None:
        raise CardError(
            f"card {card.name} has no fine-tuning recipe; name a segmenter's card, such as {card.name}-seg, "
            "see `mimzoo list`"
        )
    return card.block.finetuning


def labelled_dataset(card: Card, data: Path) -> Dataset:
    """Return the data set reduced to its labelled cases, as few for training as the recipe says.

    Raises DataError when its label table differs from the card's, or when it has nothing to train or select on.
    """
    dataset, labels, recipe = read_dataset(data), dict(card.block.labels or {}), _recipe(card)
    if dataset.labels and dataset.labels != labels:
        raise DataError(
            f"{data} labels {dataset.labels}, card {card.name} labels {labels}; "
            "name a card with these labels, or set them with --set 'labels={1: name, ...}'"
        )
    if not dataset.training or not dataset.validation:
        missing = "training" if not dataset.training else "validation"
        raise DataError(f"{data} has no labelled {missing} cases; list them under {missing!r} in its dataset.json")
    chosen = few_labels(dataset, recipe.labelled, recipe.seed) if recipe.labelled else dataset
    return replace(chosen, unlabelled=(), labels=labels)


def make_segmenter(card: Card) -> SegmentationModel:
    """Return the card's encoder and head: the encoder from the `start` weights, the rest fresh under the seed.

    Raises ShapeError when the start's encoder is not the card's.
    """
    block, recipe = card.block, _recipe(card)
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(block.encoder, len(block.input.channels), block.input.crop)
    head = build_head(recipe.head, encoder, len(block.input.channels), 1 + len(block.labels or {}))
    if recipe.start is not None:
        start_from(encoder, card, recipe.start)
    return SegmentationModel(encoder, head)


def start_from(encoder: nn.Module, card: Card, reference: str) -> None:
    """Give the encoder the verified weights of another card.

    Raises ShapeError for another encoder, WeightsError unless every tensor is there and fits.
    """
    start, block = find_model(reference), card.block
    if start.block.encoder.name != block.encoder.name:
        raise ShapeError(
            f"card {card.name} has the encoder {block.encoder.name}, its start {reference} has "
            f"{start.block.encoder.name}; name a start with the same encoder, or `scratch`"
        )
    loaded = load(reference, crop=block.input.crop, in_channels=len(block.input.channels))
    load_state(encoder, getattr(loaded, "encoder", loaded).state_dict())


def layer_scale(model: SegmentationModel, decay: float) -> Callable[[str], float]:
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
    """Return the crops of all optimiser steps, the stated share of them on labelled voxels."""
    recipe, input = _recipe(card), card.block.input
    augment = build_augmentation(recipe.augmentation, input.spacing_mm)
    count = recipe.steps * recipe.batch
    return CropDataset(store.cases("training"), input.crop, count, recipe.seed, recipe.foreground, augment)


def segmentation_loss() -> Callable[[nn.Module, dict[str, Any], int], Tensor]:
    """Return the loss of a batch: soft Dice over the foreground classes plus cross-entropy over all (MONAI)."""
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        logits = model(batch["volume"])
        loss: Tensor = criterion(logits.float(), batch["labels"][:, None])
        return loss

    return loss_of


def validation(card: Card, dataset: Dataset) -> Callable[[nn.Module], dict[str, float]]:
    """Return the function that measures Dice on the validation cases in their own grids."""

    def validate(model: nn.Module) -> dict[str, float]:
        return dice_of_cases(segment_with(model, card), dataset.validation, card)

    return validate
