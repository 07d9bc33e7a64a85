"""What shipped models compute of fixed inputs, kept in tests/goldens so that a change of any of them is seen."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mimzoo.deploy import Segmenter
from mimzoo.models import load

FOLDER = Path(__file__).parents[1] / "tests" / "goldens"
# The date of every entry, so that equal contents make equal files.
DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Golden:
    """`activation` as `activation_of` gives it; of a segmenter also the labels of a scan below the test data."""

    activation: NDArray[np.float32]
    scan: str | None = None
    mask: NDArray[np.uint8] | None = None


def activation_of(folder: Path) -> NDArray[np.float32]:
    """Return mean and deviation of each channel of every map that a shipped encoder has of `waves`, one after another.

    Of a segmenter it is the encoder's. Shape (2 * channels of all maps,).
    """
    model = load(folder)
    volume = torch.from_numpy(waves(len(model.card.block.input.channels), model.card.block.input.crop))
    with torch.inference_mode():
        maps = model.features(volume)
    return np.concatenate([told.numpy() for map in maps for told in (map.mean((0, 2, 3, 4)), map.std((0, 2, 3, 4)))])


def waves(channels: int, crop: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return a volume (1, channels, *crop) of waves in 0..1, of another length along each axis and in each channel."""
    x, y, z = np.meshgrid(*(np.arange(length, dtype=np.float64) for length in crop), indexing="ij")
    found = [np.sin(x / (3 + n)) * np.cos(y / (5 + n)) + np.sin(z / (4 + n)) for n in range(channels)]
    return ((np.stack(found)[None] + 2) / 4).astype(np.float32)


def mask_of(folder: Path, scan: Path) -> NDArray[np.uint8]:
    """Return the labels (X, Y, Z) that a shipped ONNX file gives a scan."""
    return Segmenter(folder)(scan).voxels


def write_golden(name: str, golden: Golden) -> None:
    """Write what a model computes to its file."""
    FOLDER.mkdir(exist_ok=True)
    arrays = {"activation": golden.activation}
    if golden.mask is not None:
        arrays["mask"] = golden.mask
    with zipfile.ZipFile(path_of(name), "w", zipfile.ZIP_DEFLATED) as file:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{key}.npy", DATE), content.getvalue(), zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo("scan.json", DATE), json.dumps(golden.scan))


def read_golden(name: str) -> Golden:
    """Return what a model was found to compute when it was shipped."""
    with zipfile.ZipFile(path_of(name)) as file:
        arrays = {
            key: np.load(io.BytesIO(file.read(f"{key}.npy")), allow_pickle=False)
            for key in ("activation", "mask")
            if f"{key}.npy" in file.namelist()
        }
        return Golden(arrays["activation"], json.loads(file.read("scan.json")), arrays.get("mask"))


def path_of(name: str) -> Path:
    """Return where the golden of a model lies."""
    return FOLDER / f"{name}.zip"
