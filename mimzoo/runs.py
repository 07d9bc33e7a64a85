"""Run directories: a training's folder is a model folder, so that publishing it is copying it."""

import shlex
from pathlib import Path

from torch import Tensor

from mimzoo.blocks import Artefact
from mimzoo.cards import Card, read_card, update_card, write_card
from mimzoo.errors import CardError, DataError
from mimzoo.training import CHECKPOINTS
from mimzoo.weights import save_weights


def begin_run(card: Card, folder: Path, resume: bool, verb: str) -> Card:
    """Return the card of a run, written into its folder; with `resume`, the card that already lies there.

    `verb` is the command that makes such a run; the card states it in full, but not where on this machine the data lie.
    Raises DataError when the folder holds a run and `resume` is off, or holds none and it is on; CardError when the
    run there follows another recipe.
    """
    begun = (folder / "README.md").is_file()
    if resume and not begun:
        raise DataError(f"{folder} holds no run to resume; leave --resume out to begin one")
    if begun and not resume:
        raise DataError(f"{folder} holds a run already; add --resume to continue it, or choose another folder with -o")
    if begun:
        return _resumed(card, folder)
    changes = [word for text in card.block.overrides for word in ("--set", text)]
    command = shlex.join(["mimzoo", verb, card.name, "--data", "DIR", *changes])
    fresh = update_card(card, weights=None, pretraining_weights=None, onnx=None, metrics=(), command=command)
    write_card(fresh, folder)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    return read_card(folder)


def _resumed(card: Card, folder: Path) -> Card:
    there = read_card(folder)
    if there.sha256() != card.sha256():
        raise CardError(
            f"the run in {folder} follows another recipe than the card {card.name} with the options given; "
            "repeat the options it was begun with, or choose another folder with -o"
        )
    return there


def keep_weights(card: Card, folder: Path, files: dict[str, dict[str, Tensor]]) -> Card:
    """Return the card with the hashes of the safetensors files just written beside it.

    `files` maps "weights" (model.safetensors) and "pretraining_weights" (pretraining.safetensors) to tensors.
    """
    names = {"weights": "model.safetensors", "pretraining_weights": "pretraining.safetensors"}
    found = {}
    for key, tensors in files.items():
        digest, size = save_weights(folder / names[key], tensors, {"card": card.name, "card_sha256": card.sha256()})
        found[key] = Artefact(sha256=digest, bytes=size)
    finished = update_card(card, **found)
    write_card(finished, folder)
    return finished
