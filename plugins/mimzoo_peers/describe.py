"""What the card of an import says of an encoder whose numbers are known, and of scans of which a file tells nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from mimzoo.recipes import Component, Input, WindowHU, ZScore
from mimzoo.registry import find
from mimzoo.tokens import Size


def nearest(encoders: Sequence[str], args: Mapping[str, Any]) -> Component:
    """Return the encoder, of those named, whose defaults are nearest to these arguments, with those that differ.

    Raises ShapeError for arguments that make no encoder.
    """
    choices = []
    for name in encoders:
        spec = find("encoder", name)
        usual, wanted = (spec.check(given).model_dump(mode="json") for given in ({}, args))
        differing = {key: wanted[key] for key in args if wanted[key] != usual[key]}
        apart = abs(usual.get("width", 0) - wanted.get("width", 0))
        choices.append((len(differing), apart, Component(name=name, args=differing)))
    return min(choices, key=lambda choice: choice[:2])[2]


def name_channels(channels: int, single: str) -> tuple[str, ...]:
    """Return names for so many channels: `single` for one, else channel 1, channel 2 ..."""
    return (single,) if channels == 1 else tuple(f"channel {number}" for number in range(1, channels + 1))


def guess_input(channels: int, crop: Size) -> Input:
    """Return how scans of so many channels are prepared: one as the CT of BTCV, several as the MR of BraTS.

    So do MIM-Med3D (code/configs/ssl/btcv), SelfMedMAE (configs/mae3d_btcv_1gpu.yaml, and for MR
    configs/mae3d_msdbrats_1gpu.yaml) and MONAI's UNETR (Project-MONAI/research-contributions, UNETR/BTCV).
    """
    if channels == 1:
        intensity = WindowHU(mode="window_hu", window_hu=(-175.0, 250.0))
        return Input(channels=("CT",), spacing_mm=(1.5, 1.5, 2.0), intensity=intensity, crop=crop)
    z_score = ZScore(mode="zscore", voxels="nonzero")
    return Input(channels=name_channels(channels, "MR"), spacing_mm=(1.0, 1.0, 1.0), intensity=z_score, crop=crop)
