"""Masked image modelling from a card's recipe: `mimzoo pretrain NAME --data DIR`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.cards import Card, mimzoo_home, read_card
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.errors import CardError, DataError, WeightsError
from mimzoo.figures import Reconstruction, draw_curves, draw_reconstruction
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Pretraining
from mimzoo.runs import begin_run, keep_weights
from mimzoo.tokens import Loss, expand_mask
from mimzoo.training import Job, best_weights, parameter_groups, train
from mimzoo.weights import read_weights

VALIDATION_CROPS = 32
VALIDATION_SEED = 20_220_411


def pretrain(
    card: Card, data: Path, folder: Path, *, resume: bool = False, save_seconds: float = 60.0, progress: Any = None
) -> Card:
    """Return the card of the finished run in `folder`: encoder weights, decoder weights, history and figures.

    Trains on the training and unlabelled scans of `data`; keeps the weights with the lowest loss on fixed crops and
    masks of the validation scans.
    Raises CardError for a card without a pretraining recipe, DataError for a data set without scans to train on.
    """
    recipe = _recipe(card)
    store = prepare_scans(card, data, progress)
    objective = make_objective(card)
    run = begin_run(card, folder, resume, "pretrain")
    job = Job(
        folder=folder,
        schedule=recipe,
        model=objective,
        groups=parameter_groups(objective, recipe.optimiser),
        data=training_crops(store, run, recipe),
        loss_of=lambda model, batch, step: model(batch["volume"], step_generator(recipe.seed, step)).loss,
        validate=validation(store, run),
        higher_is_better=False,
        title=f"pretrain {card.name}",
        save_seconds=save_seconds,
    )
    train(job)
    objective.load_state_dict(best_weights(folder))
    draw_run(objective, store, run, folder)
    return keep_weights(run, folder, split_state(objective))


def _recipe(card: Card) -> Pretraining:
    if card.block.pretraining is None:
        raise CardError(f"card {card.name} has no pretraining recipe; name one that has, see `mimzoo list`")
    return card.block.pretraining


def prepare_scans(card: Card, data: Path, progress: Any) -> Store:
    """Return the prepared store of the scans to pretrain on; labels are not read."""
    dataset = read_dataset(data)
    if not dataset.training and not dataset.unlabelled:
        raise DataError(f"{data} has no training and no unlabelled scans to pretrain on")
    return prepare_dataset(dataset, card.block.input, None, mimzoo_home() / "prepared", progress)


def make_objective(card: Card) -> nn.Module:
    """Return the card's objective over freshly initialised components, the same for the same seed."""
    recipe, input = _recipe(card), card.block.input
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(card.block.encoder, len(input.channels), input.crop)
    return build_objective(recipe, encoder, card.block.encoder, input)


def training_crops(store: Store, card: Card, recipe: Pretraining) -> CropDataset:
    """Return the crops of all optimiser steps, drawn from training and unlabelled scans."""
    cases = [*store.cases("training"), *store.cases("unlabelled")]
    augment = build_augmentation(recipe.augmentation, card.block.input.spacing_mm)
    return CropDataset(cases, card.block.input.crop, recipe.steps * recipe.batch, recipe.seed, 0.0, augment)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that differs for each seed, step and process."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def validation_crops(store: Store, card: Card) -> CropDataset:
    """Return the fixed crops of validation scans (of training scans where there are none) that select the weights."""
    cases = store.cases("validation") or store.cases("training")
    return CropDataset(cases, card.block.input.crop, VALIDATION_CROPS, VALIDATION_SEED, 0.0, None)


def validation(store: Store, card: Card) -> Callable[[nn.Module], dict[str, float]]:
    """Return the function that measures the mean loss on fixed crops under fixed masks.

    Crops come in the recipe's batches, since contrastive objectives compare the crops of a batch. Where voxels are
    predicted, `baseline` is the loss of predicting each hidden unit's mean.
    """
    crops, batch = validation_crops(store, card), max(2, _recipe(card).batch)
    groups = [range(first, min(first + batch, len(crops))) for first in range(0, len(crops) - 1, batch)]

    def measure(model: nn.Module, group: range) -> Loss:
        volume = torch.stack([crops[index]["volume"] for index in group]).to(next(model.parameters()).device)
        return model(volume, step_generator(VALIDATION_SEED, group.start))  # type: ignore[no-any-return]

    def validate(model: nn.Module) -> dict[str, float]:
        found = [measure(model, group) for group in groups]
        figures = {"loss": float(torch.stack([each.loss for each in found]).mean())}
        baselines = [each.baseline for each in found if each.baseline is not None]
        return figures | ({"baseline": float(torch.stack(baselines).mean())} if baselines else {})

    return validate


def split_state(objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the encoder's tensors, and what else the objective learned, each for its own file."""
    state = objective.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("encoder.")}
    rest = {key: value for key, value in state.items() if key not in encoder}
    return {"weights": encoder, "pretraining_weights": rest}


@torch.inference_mode()
def reconstruct_example(objective: nn.Module, store: Store, card: Card) -> tuple[str, Reconstruction]:
    """Return the case of the first validation crop, and what the objective makes of it (first channel)."""
    crop = validation_crops(store, card)[0]
    volume = crop["volume"][None].to(next(objective.parameters()).device)
    reconstruct: Callable[..., tuple[Tensor, Tensor, Tensor]] = objective.eval().reconstruct  # type: ignore[assignment]
    _, reconstructed, mask = reconstruct(volume, step_generator(VALIDATION_SEED, 0))
    hidden = expand_mask(mask.to(volume.device), tuple(volume.shape[2:]))[:, None]
    shown = (volume, volume.masked_fill(hidden, math.nan), reconstructed)
    original, masked, guessed = (found[0, 0].float().cpu().numpy() for found in shown)
    return crop["case"], Reconstruction(original, masked, guessed, card.block.input.spacing_mm)


def load_objective(folder: Path) -> nn.Module:
    """Return the objective of a finished pretraining run with its verified weights."""
    card = read_card(folder)
    objective = make_objective(card)
    files = {"model.safetensors": card.block.weights, "pretraining.safetensors": card.block.pretraining_weights}
    tensors: dict[str, Tensor] = {}
    for name, artefact in files.items():
        if artefact is None:
            raise WeightsError(f"{folder} has no {name} yet; finish it with mimzoo pretrain ... --resume")
        tensors |= read_weights(folder / name, artefact.sha256)
    objective.load_state_dict(tensors)
    return objective


def draw_run(objective: nn.Module, store: Store, card: Card, folder: Path) -> None:
    """Write `curves.png`, and where voxels are predicted `reconstruction.png` of a validation crop."""
    if hasattr(objective, "reconstruct"):
        case, example = reconstruct_example(objective, store, card)
        draw_reconstruction(folder / "reconstruction.png", *example[:3], f"{card.name}: {case}", example.spacing_mm)
    draw_curves(folder / "curves.png", folder / "history.csv")
