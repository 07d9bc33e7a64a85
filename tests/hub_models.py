"""Models to be published and fetched: real cards, weights that need no training, and the command line beside them."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

from mimzoo.blocks import Artefact
from mimzoo.cards import find_card, override, read_card, update_card, write_card

TINY = [
    "encoder.args={patch: [4, 4, 4], width: 24, depth: 4, heads: 2, positions: learned}",
    "input.crop=[16, 16, 16]",
]
METRIC = {"name": "validation loss", "value": 0.25, "data": "Phantoms", "protocol": "mean over 2 crops"}
MADE = {"metrics": [METRIC], "command": "mimzoo pretrain tiny --data DIR"}


@lru_cache
def real_weights():
    """The content of a safetensors file that the card of `make_run` can be loaded with."""
    import safetensors.torch
    import torch

    from mimzoo.models import build_encoder

    block = override(find_card("vit-mae-phantom"), TINY).block
    torch.manual_seed(1)
    state = build_encoder(block.encoder, len(block.input.channels), block.input.crop).state_dict()
    return safetensors.torch.save({f"encoder.{key}": value.contiguous() for key, value in state.items()})


def make_run(folder, weights=b"weights", others=None, **changes):
    """The card of a finished run in `folder`: the shipped phantom encoder, made tiny, with files of these contents.

    `others` are further files that a card names, name of the key -> (file name, content).
    """
    files = {"weights": ("model.safetensors", weights), **(others or {})}
    card = override(find_card("vit-mae-phantom"), TINY)
    named = {key: artefact(content) for key, (_, content) in files.items()}
    card = update_card(card, **{**MADE, **named, **changes})
    write_card(replace(card, name=folder.name), folder)
    for name, content in files.values():
        (folder / name).write_bytes(content)
    (folder / "curves.png").write_bytes(b"a picture")
    (folder / "history.csv").write_text("step,loss\n")
    return read_card(folder)


def artefact(content, **where):
    """What a card says of a file with this content."""
    return Artefact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), **where)


def files_of(folder):
    """The files of a folder, name -> content, as a repository holds them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in {".md", ".safetensors", ".png"}}


def command(hub, home, *arguments, **environment):
    """The process of a command line in an environment of its own below `home`, which is sent to the Hub of a test."""
    own = {"HF_HOME": str(home / "hf"), "HF_HUB_CACHE": str(home / "hf" / "hub"), "MIMZOO_HOME": str(home / "mimzoo")}
    online = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_write", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mimzoo", *map(str, arguments)],
        env={**os.environ, **own, **online, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **environment):
    """The exit code of a command line as in `command`, the lines it printed, and those on the standard error."""
    process = command(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err.splitlines()
