"""Masked image modelling from a card's recipe: `mimzoo pretrain NAME --data DIR`."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.blocks import Metric
from mimzoo.cards import Card, mimzoo_home, read_card, update_card, write_card
from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.draws import Share
from mimzoo.errors import DataError
from mimzoo.figures import Reconstruction, draw_reconstruction, draw_stage
from mimzoo.figures.sheet import evenly
from mimzoo.planes import grey_range
from mimzoo.processes import company, in_turn, is_main, join, meeting, share_out
from mimzoo.recipes import Pretraining
from mimzoo.reconstruct import make_objective, pretraining_of, reconstruct_crop
from mimzoo.report import RECONSTRUCTIONS, report_run, settings
from mimzoo.runs import begin_run, keep_weights
from mimzoo.starts import start_objective
from mimzoo.tokens import Loss
from mimzoo.training import Job, best_path, best_weights, check_shares, parameter_groups, train
from mimzoo.weights import read_about

VALIDATION_CROPS = 32
VALIDATION_SEED = 20_220_411
# As many stages of a run are drawn.
STAGES = 10


@company()
def pretrain(
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
    """Return the card of the finished run in `folder`: encoder weights, decoder weights, history, figures, report.

    Trains on the training and unlabelled scans of `data`; keeps the weights with the lowest loss on fixed crops and
    masks of the validation scans. `workers` processes load crops beside the training; `trackers` are named as in
    `mimzoo.tracking`.
    Raises CardError for a card without a pretraining recipe, DataError for a data set without scans to train on.
    """
    machine = join()
    # What does not fit together is said before scans are prepared.
    with meeting():
        recipe = pretraining_of(card)
        check_shares(recipe)
        objective = make_objective(card)
        begun = None if recipe.start is None else start_objective(objective, card, recipe.start)
    store = in_turn(lambda: prepare_scans(card, data, progress), machine.is_local_main_process)
    # Who comes later finds the run begun.
    run = in_turn(lambda: begin_run(card, folder, resume or not is_main(), "pretrain"), is_main())
    if begun is not None and not resume and is_main():
        print(f"{card.name}: {begun}", file=sys.stderr)
    job = Job(
        folder=folder,
        schedule=recipe,
        model=objective,
        groups=parameter_groups(objective, recipe.optimiser),
        data=training_crops(store, run, recipe),
        loss_of=lambda model, batch, step: model(batch["volume"], share_generator(recipe, step, batch["first"])).loss,
        validate=validation(store, run),
        higher_is_better=False,
        title=card.name,
        save_seconds=save_seconds,
        workers=workers,
        draw=stages(store, run, folder) if hasattr(objective, "reconstruct") else None,
        trackers=trackers,
        settings=settings(run),
    )
    train(job)
    with meeting():
        if is_main():
            finish(run, store, folder)
    return read_card(folder)


def finish(run: Card, store: Store, folder: Path) -> None:
    """Write what a run ends with: its best weights, quoted in its card, pictures and the report."""
    objective = make_objective(run).to(join().device)
    objective.load_state_dict(best_weights(folder))
    draw_run(objective, store, run, folder)
    quote_loss(keep_weights(run, folder, split_state(objective)), store, folder)
    report_run(folder)


def prepare_scans(card: Card, data: Path, progress: Any) -> Store:
    """Return the prepared store of the scans to pretrain on; labels are not read."""
    dataset = read_dataset(data)
    if not dataset.training and not dataset.unlabelled:
        raise DataError(f"{data} has no training and no unlabelled scans to pretrain on")
    return prepare_dataset(dataset, card.block.input, None, mimzoo_home() / "prepared", progress)


def training_crops(store: Store, card: Card, recipe: Pretraining) -> CropDataset:
    """Return the crops of all optimiser steps, drawn from training and unlabelled scans."""
    cases = [*store.cases("training"), *store.cases("unlabelled")]
    augment = build_augmentation(recipe.augmentation, card.block.input.spacing_mm)
    return CropDataset(cases, card.block.input.crop, recipe.steps * recipe.batch, recipe.seed, 0.0, augment)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that differs for each seed and step, for a whole batch."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009)


def share_generator(recipe: Pretraining, step: int, first: int) -> torch.Generator:
    """Return the generator of a step for some crops of its batch, of which the first one is crop `first`."""
    return Share(step_generator(recipe.seed, step).initial_seed(), recipe.batch, first)


def validation_crops(store: Store, card: Card) -> CropDataset:
    """Return the fixed crops of validation scans (of training scans where there are none) that select the weights."""
    cases = store.cases("validation") or store.cases("training")
    return CropDataset(cases, card.block.input.crop, VALIDATION_CROPS, VALIDATION_SEED, 0.0, None)


def validation(store: Store, card: Card) -> Callable[[nn.Module], dict[str, float]]:
    """Return the function that measures the mean loss on fixed crops under fixed masks.

    Crops come in the recipe's batches, since contrastive objectives compare the crops of a batch; processes share the
    batches out. Where voxels are predicted, `baseline` is the loss of predicting each hidden unit's mean.
    """
    crops, batch = validation_crops(store, card), max(2, pretraining_of(card).batch)
    groups = [range(first, min(first + batch, len(crops))) for first in range(0, len(crops) - 1, batch)]

    def measure(model: nn.Module, group: range) -> dict[str, float]:
        volume = torch.stack([crops[index]["volume"] for index in group]).to(next(model.parameters()).device)
        found: Loss = model(volume, step_generator(VALIDATION_SEED, group.start))
        figures = {"loss": found.loss, "baseline": found.baseline}
        return {name: float(value) for name, value in figures.items() if value is not None}

    def validate(model: nn.Module) -> dict[str, float]:
        found = share_out(groups, lambda own: [measure(model, group) for group in own])
        # The last batch may be smaller, but a crop counts as much as any other.
        sizes = [len(group) for group in groups]
        sums = {name: math.fsum(n * each[name] for n, each in zip(sizes, found, strict=True)) for name in found[0]}
        return {name: value / sum(sizes) for name, value in sums.items()}

    return validate


def split_state(objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the encoder's tensors, and what else the objective learned, each for its own file."""
    state = objective.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("encoder.")}
    rest = {key: value for key, value in state.items() if key not in encoder}
    return {"weights": encoder, "pretraining_weights": rest}


def reconstruct_example(objective: nn.Module, store: Store, card: Card) -> tuple[str, Reconstruction]:
    """Return the case of the first validation crop, and what the objective makes of it (first channel)."""
    crop = validation_crops(store, card)[0]
    volume = crop["volume"][None].to(next(objective.parameters()).device)
    return crop["case"], reconstruct_crop(objective, volume, step_generator(VALIDATION_SEED, 0), card)


def stages(store: Store, card: Card, folder: Path) -> Callable[[nn.Module, int], list[Path]]:
    """Return what draws the first validation crop at up to ten validations, evenly spaced, always under one mask.

    It returns the paths of original, masked and reconstructed below `reconstructions/`, none at other steps.
    """
    recipe, where = pretraining_of(card), folder / RECONSTRUCTIONS
    chosen = set(evenly([*range(recipe.validate_every, recipe.steps, recipe.validate_every), recipe.steps], STAGES))

    def draw(model: nn.Module, step: int) -> list[Path]:
        if step not in chosen:
            return []
        found = reconstruct_example(model, store, card)[1]
        crops = {"original": found.original, "masked": found.masked, f"step_{step:06}": found.reconstructed}
        for name, crop in crops.items():
            words = f"step {step}" if crop is found.reconstructed else name
            draw_stage(where / f"{name}.png", crop, words, grey_range(found.original), found.spacing_mm)
        return [where / f"{name}.png" for name in crops]

    return draw


def quote_loss(card: Card, store: Store, folder: Path) -> Card:
    """Return the card with the loss of its weights as a metric, and where units are hidden that of their means."""
    about, recipe = read_about(best_path(folder)), pretraining_of(card)
    split = "validation" if store.cases("validation") else "training"
    masks, baseline = "", ""
    if "baseline" in about:
        masks, baseline = " under fixed masks", "; the baseline predicts each hidden unit's mean"
    crops = f"{VALIDATION_CROPS} fixed crops{masks} of the {split} scans"
    protocol = f"mean over {crops}; selected on them at step {about['step']}{baseline}"
    names = {"loss": f"{split} loss", "baseline": "baseline loss"}
    found = [
        Metric(name=name, value=about[key], data=recipe.data, protocol=protocol)
        for key, name in names.items()
        if key in about
    ]
    quoted = update_card(card, metrics=found)
    write_card(quoted, folder)
    return quoted


def draw_run(objective: nn.Module, store: Store, card: Card, folder: Path) -> None:
    """Write `reconstruction.png` of a validation crop where voxels are predicted."""
    if hasattr(objective, "reconstruct"):
        case, example = reconstruct_example(objective, store, card)
        draw_reconstruction(folder / "reconstruction.png", *example[:3], f"{card.name}: {case}", example.spacing_mm)
