"""What a pretrained model makes of a scan, as a picture: `mimzoo reconstruct NAME SCAN`."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mimzoo.cards import Card
from mimzoo.errors import CardError, WeightsError
from mimzoo.figures import Reconstruction, draw_reconstruction
from mimzoo.hub import find_model
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Pretraining
from mimzoo.tokens import Size, spread_mask
from mimzoo.volume import pad_to, prepare, read_scan
from mimzoo.weights import read_weights


def reconstruct(reference: str | Path, scan: Path, out: Path, seed: int = 0) -> Path:
    """Return the path of the picture of a scan: original, masked and reconstructed in three planes.

    The crop lies in the middle of the scan; `seed` decides what is hidden.
    Raises WeightsError for a model without pretraining weights, CardError for one whose objective predicts no voxels.
    """
    card = find_model(reference)
    objective = load_objective(card)
    if not hasattr(objective, "reconstruct"):
        name = pretraining_of(card).objective.name
        raise CardError(f"{card.name} was pretrained by {name}, which predicts no voxels; name another model")
    prepared = prepare(read_scan(scan, len(card.block.input.channels)), card.block.input)
    volume = torch.from_numpy(middle_crop(prepared.voxels, card.block.input.crop))[None]
    found = reconstruct_crop(objective, volume, torch.Generator().manual_seed(seed), card)
    draw_reconstruction(out, *found[:3], f"{card.name}: {scan.name}", found.spacing_mm)
    return out


def pretraining_of(card: Card) -> Pretraining:
    """Return the card's pretraining recipe; raises CardError when it has none."""
    if card.block.pretraining is None:
        raise CardError(f"card {card.name} has no pretraining recipe; name one that has, see `mimzoo list`")
    return card.block.pretraining


def middle_crop(voxels: NDArray[np.float32], crop: Size) -> NDArray[np.float32]:
    """Return the middle (C, *crop) of voxels (C, X, Y, Z), padded with their least value where they are smaller."""
    for axis, size in enumerate(crop, 1):
        start = max(0, (voxels.shape[axis] - size) // 2)
        voxels = voxels.take(range(start, min(start + size, voxels.shape[axis])), axis)
    return np.ascontiguousarray(pad_to(voxels, crop, float(voxels.min()))[0], np.float32)


@torch.inference_mode()
def reconstruct_crop(objective: nn.Module, volume: Tensor, generator: torch.Generator, card: Card) -> Reconstruction:
    """Return what an objective makes of the first channel of a volume (1, C, X, Y, Z); hidden voxels are NaN."""
    run: Callable[..., tuple[Tensor, Tensor, Tensor]] = objective.eval().reconstruct  # type: ignore[assignment]
    seen, reconstructed, mask = run(volume, generator)
    hidden = spread_mask(mask, tuple(volume.shape[2:]), volume)
    shown = (volume, seen.masked_fill(hidden, math.nan), reconstructed)
    original, masked, guessed = (found[0, 0].float().cpu().numpy() for found in shown)
    return Reconstruction(original, masked, guessed, card.block.input.spacing_mm)


def make_objective(card: Card) -> nn.Module:
    """Return the card's objective over freshly initialised components, the same for the same seed."""
    recipe, input = pretraining_of(card), card.block.input
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(card.block.encoder, len(input.channels), input.crop)
    return build_objective(recipe, encoder, card.block.encoder, input)


def load_objective(card: Card) -> nn.Module:
    """Return the objective of a pretrained model with its verified weights.

    Raises WeightsError when the weights of the encoder, or of what else pretraining learnt, are not there.
    """
    objective = make_objective(card)
    files = {"model.safetensors": card.block.weights, "pretraining.safetensors": card.block.pretraining_weights}
    tensors: dict[str, Tensor] = {}
    for name, artefact in files.items():
        path = card.file(name)
        if artefact is None or path is None:
            raise WeightsError(f"{card.name} has no {name} yet; make it with: mimzoo pretrain {card.name} --data DIR")
        tensors |= read_weights(path, artefact.sha256)
    objective.load_state_dict(tensors)
    return objective
