"""Generated downloads with something to learn: brain tumours in four sequences, brains with large ventricles."""

import csv

import numpy as np
from scans import save

SEQUENCES = ("flair", "t1", "t1ce", "t2")
# How bright necrotic core (1), edema (2) and enhancing tumour (4) are in each sequence, beside a brain of 100.
SHADES = {"flair": (70, 190, 150), "t1": (60, 80, 90), "t1ce": (60, 85, 210), "t2": (180, 170, 130)}
TUMOUR = (24, 24, 24)
HEAD = (24, 28, 24)


def distances(shape, centre, radii):
    """How far each voxel lies from a centre, in radii."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)))


def write_tumours(folder, patients):
    """Write a download of BraTS 2021: in each brain a tumour with a core, a rim that takes up contrast, and edema."""
    for number in range(patients):
        rng = np.random.default_rng(number)
        brain = distances(TUMOUR, np.array(TUMOUR) / 2, np.array(TUMOUR) / 2.2) < 1
        where = distances(TUMOUR, rng.uniform(0.35, 0.65, 3) * TUMOUR, rng.uniform(4.5, 6.5, 3))
        truth = np.select([where < 0.45, where < 0.75, where < 1.1], [1, 4, 2], 0).astype(np.uint8) * brain
        name = f"BraTS2021_{number:05d}"
        for sequence in SEQUENCES:
            shades = np.array([100, *SHADES[sequence]])[np.searchsorted([0, 1, 2, 4], truth)]
            voxels = np.where(brain, shades + rng.normal(0, 12, TUMOUR), 0) * rng.uniform(0.7, 1.4)
            save(folder / name / f"{name}_{sequence}.nii.gz", voxels.astype(np.float32))
        save(folder / name / f"{name}_seg.nii.gz", truth)
    return folder


def write_ventricles(folder, subjects):
    """Write a download of ADNI: the ventricles of subjects with the diagnosis AD are wide, and age widens them too."""
    rows = [("Image Data ID", "Subject", "Group", "Sex", "Age")]
    for number in range(subjects):
        rng = np.random.default_rng(number)
        group, age = ("CN", "AD")[number % 2], int(rng.integers(60, 90))
        subject, image = f"{number:03d}_S_{1000 + number}", f"I{5000 + number}"
        width = (3.0 if group == "CN" else 5.0) + 0.03 * (age - 75) + rng.normal(0, 0.25)
        brain = distances(HEAD, np.array(HEAD) / 2, np.array(HEAD) / 2.2) < 1
        fluid = distances(HEAD, np.array(HEAD) / 2 + rng.uniform(-2, 2, 3), (width, 1.3 * width, width)) < 1
        voxels = np.where(brain, np.where(fluid, 40, 100) + rng.normal(0, 10, HEAD), 0) * rng.uniform(0.7, 1.4)
        path = folder / "ADNI" / subject / "MP-RAGE" / "2006-04-18" / image / f"ADNI_{subject}_MR_{image}.nii"
        save(path, voxels.astype(np.float32))
        rows.append((image, subject, group, "F", str(age)))
    with (folder / "collection.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder
