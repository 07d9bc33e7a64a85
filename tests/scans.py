"""Small made-up scans and data sets on disk."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from mimzoo.recipes import Input

MR = Input.model_validate(
    {"channels": ["MR"], "spacing_mm": (1, 1, 1), "intensity": {"mode": "zscore"}, "crop": (16, 16, 16)}
)


def save(path, voxels, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    return path


def make_pair(seed, shape=(20, 24, 18)):
    """Return noise with two boxes in it, and their labels 1 and 2."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for value in (1, 2):
        low = [int(rng.integers(0, n - n // 3)) for n in shape]
        labels[tuple(slice(a, a + n // 3) for a, n in zip(low, shape, strict=True))] = value
    return (rng.normal(100, 20, shape) + 40 * labels).astype(np.float32), labels


def make_dataset(folder: Path, training=3, validation=1, unlabelled=1, shape=(20, 24, 18)) -> Path:
    """Write a Decathlon data set with labels 1 Left and 2 Right."""
    table = {"name": "Boxes", "labels": {"0": "background", "1": "Left", "2": "Right"}}
    number = 0
    for split, count in (("training", training), ("validation", validation), ("unlabelled", unlabelled)):
        table[split] = []
        for _ in range(count):
            image, labels = make_pair(number, shape)
            name = f"case_{number:03d}.nii.gz"
            save(folder / "images" / name, image)
            if split == "unlabelled":
                table[split].append(f"images/{name}")
            else:
                save(folder / "labels" / name, labels)
                table[split].append({"image": f"./images/{name}", "label": f"./labels/{name}"})
            number += 1
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder
