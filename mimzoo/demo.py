"""The whole road in one command: scans, pretraining, few labels, evaluation, ONNX, a mask, a picture: `mimzoo demo`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimzoo.cards import Card, find_card, read_card, update_card
from mimzoo.data.datasets import Case, Dataset, read_dataset
from mimzoo.deploy import Segmenter
from mimzoo.errors import DataError
from mimzoo.evaluate import evaluate
from mimzoo.export import export
from mimzoo.figures import Overlay, draw_summary
from mimzoo.finetune import finetune
from mimzoo.models import load_card
from mimzoo.phantoms import write_phantoms
from mimzoo.pretrain import prepare_scans, pretrain, reconstruct_example
from mimzoo.recipes import Input, ZScore
from mimzoo.reconstruct import load_objective
from mimzoo.scoring import summary_values
from mimzoo.volume import LabelMap, read_labels, read_scan, to_ras

ENCODER, SEGMENTER = "vit-mae-phantom", "vit-mae-phantom-seg"
LARGEST_CROP = 32
PHANTOMS = {"training": 24, "validation": 4, "unlabelled": 16}
LOOKED_AT = 20
AIR_HU = -500
Say = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """What the demo made: mean foreground Dice from pretrained and from random weights, and the picture's path."""

    dice_pretrained: float
    dice_scratch: float
    picture: Path


def demo(
    out: Path,
    data: Path | None = None,
    *,
    cards: tuple[Card, Card] | None = None,
    say: Say = print,
    progress: Any = None,
) -> Demo:
    """Return what the whole road gives on `data`, or on generated phantoms; everything it makes lies below `out`.

    `cards` are an encoder's and a segmenter's, by default the demo's own fitted to the data set.
    Raises DataError when `data` has too few labelled cases or `out` holds a demo already.
    """
    if (out / "encoder").exists():
        raise DataError(f"{out} holds a demo already; remove it, or name another folder with --out")
    begun = time.monotonic()
    if data is None:
        data = out / "phantoms"
        write_phantoms(data, PHANTOMS, seed=0)
        say(f"made {data}: CT-like phantoms, each with its own pose, contrast and noise")
    dataset = read_dataset(data)
    encoder_card, segmenter_card = cards or fit_cards(dataset)
    say(describe(segmenter_card, dataset))

    pretrain(encoder_card, data, out / "encoder", progress=progress)
    say(f"pretrained {out / 'encoder'}: masked image modelling, no labels read")
    dice = {start: fine_tuned_dice(segmenter_card, data, out, start, progress) for start in ("pretrained", "scratch")}
    few = segmenter_card.block.finetuning.labelled if segmenter_card.block.finetuning else None
    say(f"from {few} labels: Dice {dice['pretrained']:.3f} pretrained, {dice['scratch']:.3f} from scratch")

    case = dataset.validation[0]
    model, parities = export(out / "pretrained", scan=case.image)
    for parity in parities:
        say(f"exported {model}: on {parity}")
    mask = Segmenter(model)(case.image)
    mask.save(out / "mask.nii.gz")
    say(f"segmented {case.image.name} without torch into {out / 'mask.nii.gz'}, in the scan's own grid")
    picture = draw_picture(out, data, case, mask, dice)
    kept = load_card(read_card(out / "pretrained"))
    parameters = sum(parameter.numel() for parameter in kept.parameters())
    say(f"loaded {out / 'pretrained'} with mimzoo.load: {parameters / 1e6:.1f} M parameters, {kept.report}")
    say(f"look at {picture} (all of it took {time.monotonic() - begun:.0f} s)")
    return Demo(dice["pretrained"], dice["scratch"], picture)


def fit_cards(dataset: Dataset) -> tuple[Card, Card]:
    """Return the demo's two cards fitted to a data set: its labels, spacing, kind of intensity and size.

    The card's number of labelled cases is kept where the data set has as many.
    Raises DataError when there is nothing to train or to validate on.
    """
    if not dataset.training or not dataset.validation or not dataset.labels:
        raise DataError(
            f"{dataset.folder} has no labelled training and validation cases with a label table; the demo needs them"
        )
    encoder, segmenter = find_card(ENCODER), find_card(SEGMENTER)
    shown = {"input": fit_input(dataset, encoder.block.input).model_dump(mode="json")}
    pretraining, finetuning = encoder.block.pretraining, segmenter.block.finetuning
    assert pretraining is not None and finetuning is not None  # both cards are shipped
    few = min(finetuning.labelled or len(dataset.training), len(dataset.training))
    encoder = update_card(encoder, **shown, pretraining=pretraining.model_copy(update={"data": dataset.name}))
    changed = finetuning.model_copy(update={"data": dataset.name, "labelled": few, "start": None})
    return encoder, update_card(segmenter, **shown, labels=dataset.labels, finetuning=changed)


def fit_input(dataset: Dataset, template: Input) -> Input:
    """Return an input block for a data set: median spacing and size, a HU window where there is air, else z-scores."""
    scans = [read_scan(case.image) for case in dataset.training[:LOOKED_AT]]
    grids = [to_ras(scan.voxels, scan.grid)[1] for scan in scans]
    spacing = np.median([grid.spacing_mm for grid in grids], axis=0)
    sizes = np.median([np.array(grid.shape) * grid.spacing_mm / spacing for grid in grids], axis=0)
    # Patches are 8 voxels wide.
    crop = np.clip(8 * np.ceil(sizes / 8), 8, LARGEST_CROP).astype(int)
    is_ct = all(scan.voxels.min() <= AIR_HU for scan in scans)
    return Input(
        channels=("CT" if is_ct else "MR",),
        spacing_mm=tuple(np.round(spacing, 3).tolist()),
        intensity=template.intensity if is_ct else ZScore(mode="zscore"),
        crop=tuple(crop.tolist()),
    )


def describe(card: Card, dataset: Dataset) -> str:
    """Return one line on the data set and on how it will be seen."""
    counts = (
        f"{len(dataset.training)} training, {len(dataset.validation)} validation, {len(dataset.unlabelled)} unlabelled"
    )
    spacing = " x ".join(f"{mm:g}" for mm in card.block.input.spacing_mm)
    labels = ", ".join((card.block.labels or {}).values())
    return f"{dataset.name}: {counts} scans of {labels}; seen at {spacing} mm in crops of {card.block.input.crop}"


def fine_tuned_dice(card: Card, data: Path, out: Path, start: str, progress: Any) -> float:
    """Return the mean foreground Dice on the validation cases after fine-tuning into the folder `start` below `out`."""
    assert card.block.finetuning is not None  # the demo's segmenter card
    origin = str((out / "encoder").resolve()) if start == "pretrained" else None
    recipe = card.block.finetuning.model_copy(update={"start": origin})
    finetune(update_card(card, finetuning=recipe), data, out / start, progress=progress)
    result, _ = evaluate(out / start, data, progress=progress)
    return summary_values(result.summary)["dice"]


def draw_picture(out: Path, data: Path, case: Case, mask: LabelMap, dice: dict[str, float]) -> Path:
    """Return the path of the one picture of the demo: what pretraining saw and guessed, what the segmenter drew."""
    assert case.label is not None  # validation cases are labelled
    card = read_card(out / "encoder")
    _, reconstruction = reconstruct_example(load_objective(card), prepare_scans(card, data, None), card)
    overlay = Overlay(case.id, read_scan(case.image), read_labels(case.label), mask)
    found = f"{dice['pretrained']:.3f} pretrained, {dice['scratch']:.3f} from scratch"
    lines = [
        f"Mean foreground Dice on the validation cases: {found}.",
        "The mask was drawn by ONNX Runtime from the exported file, in the grid of the scan.",
    ]
    path = out / "demo.png"
    draw_summary(path, reconstruction, overlay, mask.names, lines, "mimzoo demo")
    return path
