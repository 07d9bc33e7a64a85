"""Turn a finished run into a shipped model folder: float16 storage, hashes, figures; says what the storage costs.

    python tools/ship.py RUN    writes model_cards/<card name>/

Float32 tensors are stored as float16 and come back as float32 when loaded. The text of the card is that of the shipped
card of the same name, so that a run's card never loses what people wrote.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from mimzoo.blocks import Artefact
from mimzoo.cards import find_card, read_card, update_card, write_card
from mimzoo.models import load
from mimzoo.weights import read_weights, save_weights

ROOT = Path(__file__).parents[1] / "model_cards"
FILES = {"weights": "model.safetensors", "pretraining_weights": "pretraining.safetensors"}
FIGURES = ("reconstruction.png", "curves.png", "overlays.png", "metrics.json")
LARGEST_BYTES = 12_000_000


def halve(run: Path, folder: Path, name: str, sha256: str, about: dict[str, str]) -> Artefact:
    """Return the artefact of a weights file of `run`, stored as float16 in `folder`."""
    state = read_weights(run / name, sha256)
    half = {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
    digest, size = save_weights(folder / name, half, about)
    if size > LARGEST_BYTES:
        raise SystemExit(f"{folder / name} has {size / 1e6:.1f} MB; at most {LARGEST_BYTES / 1e6:.0f} are shipped")
    return Artefact(sha256=digest, bytes=size)


def loss_of_storage(run: Path, folder: Path) -> float:
    """Return the largest relative difference of an output between the run's model and the shipped one."""
    crop = read_card(run).block.input.crop
    volume = torch.rand(1, len(read_card(run).block.input.channels), *crop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (load(model)(volume) for model in (run, folder))
    before, after = (found[-1] if isinstance(found, list) else found for found in (before, after))
    return float((before - after).abs().max() / before.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run.resolve()
    card = read_card(run)
    folder = ROOT / card.name
    shipped = find_card(card.name)
    about = {"card": card.name, "card_sha256": card.sha256()}
    artefacts = {key: getattr(card.block, key) for key in FILES}
    halved = {key: halve(run, folder, FILES[key], found.sha256, about) for key, found in artefacts.items() if found}
    write_card(replace(update_card(card, **halved), front=shipped.front, text=shipped.text), folder)
    for name in FIGURES:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    print(f"{folder}: outputs differ by at most {loss_of_storage(run, folder):.1e} of the largest from the run's")


if __name__ == "__main__":
    main()
