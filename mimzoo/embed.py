"""Vectors of whole scans from an encoder: `mimzoo embed NAME SCAN... -o features.safetensors`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimzoo.cards import Card
from mimzoo.deploy import split_files
from mimzoo.errors import DataError
from mimzoo.grids import Floats
from mimzoo.hub import find_model
from mimzoo.inference import numpy_predictor
from mimzoo.models import load_card
from mimzoo.nifti import stem_of
from mimzoo.recipes import Input
from mimzoo.sliding import slide_scan
from mimzoo.sweep import Sweep
from mimzoo.tokens import Encoder
from mimzoo.volume import Volume, prepare, read_scan
from mimzoo.weights import save_weights

OVERLAP = 0.5


class Pooled(torch.nn.Module):
    """An encoder whose coarsest map is averaged: one vector (B, D) for each window."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, volume: Tensor) -> Tensor:
        """Return vectors (B, D) of windows (B, C, X, Y, Z)."""
        found: Tensor = self.encoder(volume)[-1].mean(dim=(2, 3, 4))
        return found


def embed(reference: str | Path, scans: Sequence[str], out: Path, progress: Any = None) -> int:
    """Return the length of the vectors written to `out`, a safetensors file with one for each scan, under its stem.

    A scan of several files is written `first.nii.gz,second.nii.gz`, in the order of the card's channels, and is called
    after the first. Raises DataError when two scans have one name, ScanError for one that cannot be used; then nothing
    is written.
    """
    files = {stem_of(split_files(scan)[0]): split_files(scan) for scan in scans}
    if len(files) < len(scans):
        raise DataError("two scans have one name, and their vectors would have too; rename one, or embed them apart")
    card, vector = encoder_of(reference)
    vectors: dict[str, Tensor] = {}
    for done, (name, paths) in enumerate(files.items(), 1):
        vectors[name] = torch.from_numpy(vector(read_scan(paths, len(card.block.input.channels))))
        if progress is not None:
            progress(done, len(files), name)
    about = {"card": card.name, "card_sha256": card.sha256(), "pooling": "mean of the coarsest map, then over windows"}
    save_weights(out, vectors, about)
    return len(next(iter(vectors.values())))


def encoder_of(reference: str | Path) -> tuple[Card, Callable[[Volume], Floats]]:
    """Return a model's card, and the function from a scan to the vector (D,) that its encoder makes of it."""
    model = load_card(find_model(reference))
    encoder: Encoder = getattr(model, "encoder", model)
    return model.card, lambda scan: scan_vector(encoder, scan, model.card.block.input)


def scan_vector(encoder: Encoder, scan: Volume, input: Input) -> Floats:
    """Return the vector (D,) of a scan: the coarsest map averaged, over windows that cover the scan."""
    predict = numpy_predictor(Pooled(encoder))
    windows = slide_scan(predict, prepare(scan, input).voxels, Sweep(input.crop, OVERLAP))
    vector: Floats = windows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return vector
