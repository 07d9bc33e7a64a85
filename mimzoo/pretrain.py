"""Masked image modelling from a card's recipe: `mimzoo pretrain NAME --data DIR`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.cards import Card, mimzoo_home
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.errors import CardError, DataError
from mimzoo.figures import draw_curves, draw_reconstruction
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Pretraining
from mimzoo.runs import begin_run, keep_weights
from mimzoo.training import Job, best_weights, parameter_groups, train

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
    run = begin_run(card, folder, resume)
    job = Job(
        folder=folder,
        schedule=recipe,
        model=objective,
        groups=parameter_groups(objective, recipe.optimiser),
        data=training_crops(store, run, recipe),
        loss_of=lambda model, batch, step: reconstruction_loss(model, batch["volume"], recipe.seed, step),
        validate=Validation(store, run),
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


def reconstruction_loss(model: nn.Module, volume: Tensor, seed: int, step: int) -> Tensor:
    """Return the objective's loss of one micro-batch; the mask depends on seed, step and process alone."""
    return model(volume, mask_generator(seed, step)).loss  # type: ignore[no-any-return]


def mask_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that differs for each seed, step and process."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


class Validation:
    """The reconstruction loss on fixed crops under fixed masks, beside the loss of predicting the mean."""

    def __init__(self, store: Store, card: Card) -> None:
        cases = store.cases("validation") or store.cases("training")
        self.crops = CropDataset(cases, card.block.input.crop, VALIDATION_CROPS, VALIDATION_SEED, 0.0, None)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the mean validation loss."""
        device = next(model.parameters()).device
        losses = [self._loss(model, index, device) for index in range(len(self.crops))]
        return {"loss": sum(losses) / len(losses)}

    def _loss(self, model: nn.Module, index: int, device: torch.device) -> float:
        volume = self.crops[index]["volume"][None].to(device)
        return reconstruction_loss(model, volume, VALIDATION_SEED, index).item()


def split_state(objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the encoder's tensors, and what else the objective learned, each for its own file."""
    state = objective.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("encoder.")}
    rest = {key: value for key, value in state.items() if key not in encoder}
    return {"weights": encoder, "pretraining_weights": rest}


@torch.inference_mode()
def draw_run(objective: nn.Module, store: Store, card: Card, folder: Path) -> None:
    """Write `reconstruction.png` of a validation crop, and `curves.png`."""
    objective.eval()
    crop = Validation(store, card).crops[0]
    device = next(objective.parameters()).device
    masked, reconstructed, _ = objective.reconstruct(crop["volume"][None].to(device), mask_generator(0, 0))
    planes = [volume[0, 0].float().cpu().numpy() for volume in (crop["volume"][None], masked, reconstructed)]
    draw_reconstruction(folder / "reconstruction.png", *planes, title=f"{card.name}: {crop['case']}")
    draw_curves(folder / "curves.png", folder / "history.csv")
