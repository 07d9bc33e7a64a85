"""What every model that mimzoo loads can do: tell its card, prepare a scan for itself, give features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mimzoo.cards import Card
from mimzoo.errors import CardError
from mimzoo.recipes import Input
from mimzoo.volume import Volume, pad_to, prepare, read_scan

if TYPE_CHECKING:
    from mimzoo.weights import LoadReport


class Loadable(nn.Module):
    """Base of encoders and task models; `card`, `report` and `input` are there once weights were loaded.

    `input` is what this module sees of a scan: that of the card, with the channels and the crop that were asked for.
    """

    card: Card | None = None
    report: LoadReport | None = None
    input: Input | None = None

    def features(self, volume: Tensor) -> list[Tensor]:
        """Return the encoder's maps (B, channels[i], X / sx, Y / sy, Z / sz) of a volume (B, C, X, Y, Z)."""
        maps: list[Tensor] = getattr(self, "encoder", self)(volume)
        return maps

    def preprocess(self, scan: str | Path | Sequence[str | Path] | Volume) -> Tensor:
        """Return a scan as this model sees it, (1, C, X, Y, Z) on its device, in RAS+ at the card's spacing.

        `scan` is a NIfTI file, or one for each channel. What is smaller than the crop, or not divisible by
        `crop_multiple`, is padded on both sides with the least value of each channel.
        Raises CardError for a module without a card, ScanError for a scan that cannot be used.
        """
        if self.input is None:
            raise CardError("this module has no card that says how to prepare a scan; load one with mimzoo.load")
        seen, crop = self.input, self.input.crop
        volume = scan if isinstance(scan, Volume) else read_scan(scan, len(seen.channels))
        voxels = prepare(volume, seen).voxels
        encoder: Any = getattr(self, "encoder", self)
        sizes = zip(voxels.shape[1:], crop, encoder.crop_multiple, strict=True)
        x, y, z = (max(least, -(-given // multiple) * multiple) for given, least, multiple in sizes)
        padded = torch.from_numpy(pad_to(voxels, (x, y, z), voxels.min((1, 2, 3)))[0])[None]
        return padded.to(cast(Tensor, next(self.parameters())))
