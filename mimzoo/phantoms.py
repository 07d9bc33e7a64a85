"""Seeded CT-like torsos with labelled organs, for trying things out where no scan is at hand. No torch.

A phantom is a body of fat and muscle with spine, ribs, lungs and vessels. Its organs vary in pose, shape, contrast
phase and texture, and lie among structures of the same Hounsfield units (stomach, bowel, psoas), so that neither
intensity nor place alone tells them apart; left and right kidney differ by place only.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from mimzoo.errors import DataError, suggest
from mimzoo.files import replacing
from mimzoo.nifti import write_voxels
from mimzoo.volume import Grid, LabelMap, Volume

LABELS = {1: "Liver", 2: "Spleen", 3: "LeftKidney", 4: "RightKidney"}
SPLITS = ("training", "validation", "unlabelled")
# Every other case is stored as scanners often do, and not in RAS+.
STORED_AS = ("RAS", "LPS", "RAS", "PSR")
AIR_HU = -1000.0
FAT_HU = -100.0

Point = tuple[float, float, float]
Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Blob:
    """A deformed ellipsoid: centre and radii in mm (right, anterior, superior), HU without and gained by contrast."""

    centre_mm: Point
    radii_mm: Point
    hu: float
    gain: float


LUNGS = (Blob((62, 0, 150), (48, 66, 74), -850, 0), Blob((-62, 0, 158), (48, 66, 78), -850, 0))
VESSELS = (Blob((-8, -24, 0), (10, 10, 400), 45, 190), Blob((16, -20, 0), (12, 10, 400), 42, 110))
SOFT = (
    Blob((34, -42, -80), (16, 15, 95), 52, 12),  # psoas
    Blob((-34, -42, -80), (16, 15, 95), 52, 12),
    Blob((-52, 26, 50), (36, 32, 44), 45, 70),  # stomach
    Blob((-6, 4, 12), (52, 13, 14), 42, 62),  # pancreas
    Blob((42, 42, 4), (15, 15, 24), 10, 0),  # gallbladder
)
LIVER = (Blob((58, 8, 52), (60, 62, 56), 56, 55), Blob((6, 36, 58), (52, 26, 30), 56, 55))
SPLEEN = (Blob((-76, -28, 56), (26, 36, 44), 48, 75),)
LEFT_KIDNEY = (Blob((-56, -44, -14), (27, 24, 50), 33, 135),)
RIGHT_KIDNEY = (Blob((56, -44, -30), (27, 24, 50), 33, 135),)
ORGANS = (LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY)


def make_phantom(
    seed: int | Sequence[int] = 0,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: Point = (5.2, 5.2, 6.0),
) -> tuple[Volume, LabelMap]:
    """Return a CT-like scan (1, X, Y, Z) in whole HU and its labels (X, Y, Z), in RAS+, the same for the same seed.

    The air around the body is exactly -1000 HU. `spacing_mm` is varied by a few percent from seed to seed.
    Raises DataError for a shape, spacing or seed that cannot be.
    """
    _check_numbers(seed, shape, spacing_mm)
    rng = np.random.default_rng(seed)
    grid = _random_grid(rng, shape, spacing_mm)
    painter = Painter(rng, _body_coordinates(rng, grid), grid.spacing_mm)
    painter.paint_body()
    painter.paint_bones()
    painter.paint_loose()
    for value, organ in enumerate(ORGANS, start=1):
        painter.paint_organ(value, organ)
    name = f"phantom {seed}"
    return Volume(painter.scan()[None], grid, name), LabelMap(painter.labels, grid, LABELS, name)


def _check_numbers(seed: int | Sequence[int], shape: Sequence[int], spacing_mm: Sequence[float]) -> None:
    if min(np.atleast_1d(seed)) < 0:
        raise DataError(f"the seed of a phantom is 0 or more, got {seed}")
    real = all(math.isfinite(mm) and mm > 0 for mm in spacing_mm)
    if len(shape) != 3 or len(spacing_mm) != 3 or min(shape) < 8 or not real:
        raise DataError(f"a phantom needs at least 8 voxels of positive size per axis, got {shape} at {spacing_mm} mm")


def _random_grid(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Point) -> Grid:
    sizes = np.round(np.array(spacing_mm) * rng.uniform(0.95, 1.05, 3), 2)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = np.round(-sizes * (np.array(shape) - 1) / 2 + rng.uniform(-60, 60, 3), 1)
    return Grid(shape, affine)


def _body_coordinates(rng: np.random.Generator, grid: Grid) -> Field:
    """Return the place of each voxel (3, X, Y, Z) in mm in the body, which is shifted, turned and of its own size."""
    lines = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    places = np.stack(np.meshgrid(*lines, indexing="ij")).astype(np.float32)
    centred = places - _column(rng.uniform(-1, 1, 3) * (10, 10, 16))
    turned = np.tensordot(_rotation(np.deg2rad(rng.uniform(-1, 1, 3) * (4, 4, 9))), centred, 1)
    return (turned / _column(rng.uniform(0.9, 1.06, 3))).astype(np.float32)


def _column(values: Sequence[float] | NDArray[Any]) -> Field:
    # (3,) -> (3, 1, 1, 1)
    return np.asarray(values, np.float32).reshape(3, 1, 1, 1)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) by `angles` (radians) about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


class Painter:
    """A phantom in the making: Hounsfield units and labels over body coordinates (3, X, Y, Z) in mm."""

    def __init__(self, rng: np.random.Generator, places: Field, spacing_mm: Point) -> None:
        self.rng, self.places, self.spacing_mm = rng, places, spacing_mm
        self.hu: Field = np.full(places.shape[1:], AIR_HU, np.float32)
        self.labels: NDArray[np.uint8] = np.zeros(places.shape[1:], np.uint8)
        self.contrast = rng.uniform(0.15, 1.0)
        self.texture = 6 * self.smooth(14)

    def paint_body(self) -> None:
        """Paint fat under the skin, the muscle wall, and fat in the cavity."""
        x, y, z = self.places
        taper = 1 + 0.06 * np.cos(z / 90) + 0.02 * self.smooth(40)
        depth = np.sqrt((x / 136) ** 2 + (y / 98) ** 2) / taper
        wall = self.rng.uniform(0.84, 0.93)
        self.body, self.cavity = depth < 1, depth < wall - 0.09
        self.wall = (depth < wall) & ~self.cavity
        self.hu[self.body] = FAT_HU
        self.hu[self.wall] = 52
        self.hu[self.cavity] = FAT_HU + self.texture[self.cavity]

    def paint_bones(self) -> None:
        """Paint slanting ribs in the upper wall, back muscle, and vertebrae with discs and canal."""
        x, y, z = self.places
        ribs = np.cos(2 * np.pi * (z - 0.35 * y + 0.1 * np.abs(x)) / 32) > 0.45
        self.hu[self.wall & ribs & (z > -20 - 0.5 * y)] = self.rng.uniform(250, 420)
        back = self.body & (((np.abs(x) - 30) / 28) ** 2 + ((y + 74) / 17) ** 2 < 1)
        self.hu[back] = 52
        bone = self.rng.uniform(160, 300)
        disc = np.cos(2 * np.pi * (z + self.rng.uniform(0, 34)) / 34) > 0.75
        column = (x / 21) ** 2 + ((y + 46) / 17) ** 2 < 1
        self.hu[column] = np.where(disc, 85, bone)[column]
        self.hu[(np.abs(x) < 6) & (y < -60) & (y > -86) & ~disc] = bone
        self.hu[x**2 + (y + 69) ** 2 < 64] = 30

    def paint_loose(self) -> None:
        """Paint lungs, vessels, soft structures, and bowel loops of any organ's HU."""
        for blob in LUNGS + VESSELS + SOFT:
            self.paint_blob(blob, self.pose(6), 0.12)
        for _ in range(self.rng.integers(7, 12)):
            centre = tuple(self.rng.uniform((-85, -20, -130), (85, 65, 10)).tolist())
            like = ORGANS[self.rng.integers(len(ORGANS))][0]
            radii = tuple(self.rng.uniform(12, 26, 3).tolist())
            self.paint_blob(Blob(centre, radii, like.hu + self.rng.normal(0, 10), like.gain), self.pose(0), 0.3)

    def paint_organ(self, value: int, organ: Sequence[Blob]) -> None:
        """Paint the blobs of an organ in one common pose, with their label."""
        pose, shift = self.pose(7), self.rng.normal(0, 6)
        for blob in organ:
            inside = self.paint_blob(Blob(blob.centre_mm, blob.radii_mm, blob.hu + shift, blob.gain), pose, 0.17)
            self.labels[inside] = value

    def pose(self, shift_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return a random rotation, shift (mm) and scale."""
        turn = _rotation(np.deg2rad(self.rng.normal(0, 9, 3)))
        return turn, self.rng.normal(0, shift_mm, 3), self.rng.uniform(0.82, 1.18, 3)

    def paint_blob(self, blob: Blob, pose: Sequence[NDArray[np.float64]], roughness: float) -> Mask:
        """Return where the deformed ellipsoid lies in the cavity, and paint it with its texture."""
        turn, shift, scale = pose
        offset = self.places - _column(np.array(blob.centre_mm) + shift)
        local = np.tensordot(turn.astype(np.float32), offset, 1) / _column(scale * np.array(blob.radii_mm))
        inside: Mask = ((local**2).sum(0) < 1 + roughness * self.smooth(30)) & self.cavity
        self.hu[inside] = blob.hu + blob.gain * self.contrast + self.texture[inside]
        return inside

    def smooth(self, length_mm: float) -> Field:
        """Return Gaussian noise of unit deviation that varies over about `length_mm`."""
        shape, (dx, dy, dz) = self.hu.shape, self.spacing_mm
        lines = np.fft.fftfreq(shape[0], dx), np.fft.fftfreq(shape[1], dy), np.fft.rfftfreq(shape[2], dz)
        x, y, z = np.meshgrid(*lines, indexing="ij", sparse=True)
        damping = np.exp(-2 * (np.pi * length_mm) ** 2 * (x**2 + y**2 + z**2))
        field = np.fft.irfftn(np.fft.rfftn(self.rng.standard_normal(shape)) * damping, shape, (0, 1, 2))
        return np.asarray(field / field.std(), np.float32)

    def scan(self) -> Field:
        """Return the whole HU (X, Y, Z) after partial-volume blur, with noise wherever there is not air alone."""
        blurred = self.hu
        for axis in range(3):
            before, after = (np.take(blurred, _neighbours(blurred.shape[axis], step), axis) for step in (-1, 1))
            blurred = 0.7 * blurred + 0.15 * (before + after)
        noise = self.rng.normal(0, self.rng.uniform(14, 26), blurred.shape)
        noisy = np.where(blurred > AIR_HU + 1, np.clip(blurred + noise, AIR_HU, 3000), AIR_HU)
        return np.asarray(noisy.round(), np.float32)


def _neighbours(length: int, step: int) -> NDArray[np.int64]:
    return np.clip(np.arange(length) + step, 0, length - 1)


def write_phantoms(
    folder: Path,
    cases: Mapping[str, int],
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: Point = (5.2, 5.2, 6.0),
) -> Path:
    """Return the `dataset.json` of a new data set in the Decathlon layout, all of it decided by the arguments.

    `cases` says how many scans of each split: training and validation have labels, unlabelled have none. A case
    depends on seed, split and number alone, so that asking for more cases keeps the earlier ones. Scans are int16 HU;
    every other one is stored in another orientation than RAS+. `dataset.json` is written last.
    Raises DataError for unknown splits or counts, and for a folder that holds a different data set.
    """
    _check_cases(cases)
    table = _table(cases, seed, shape, spacing_mm)
    path = Path(folder) / "dataset.json"
    _check_folder(path, table)
    for name in ("imagesTr", "labelsTr", "imagesUn"):
        (path.parent / name).mkdir(parents=True, exist_ok=True)
    for split, number, entry in _entries(cases):
        scan, labels = make_phantom((seed, SPLITS.index(split), number), shape, spacing_mm)
        _write(path.parent / entry["image"], scan.voxels[0].astype(np.int16), scan.grid, number)
        if "label" in entry:
            _write(path.parent / entry["label"], labels.voxels, labels.grid, number)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return path


def _check_cases(cases: Mapping[str, int]) -> None:
    for split, count in cases.items():
        if split not in SPLITS:
            raise DataError(f"phantoms have no split {split!r}; {suggest(split, SPLITS)}")
        if count < 0:
            raise DataError(f"the number of {split} phantoms is 0 or more, got {count}")
    if not sum(cases.values()):
        raise DataError("no phantoms were asked for; give a number of training, validation or unlabelled cases")


def _check_folder(path: Path, table: Mapping[str, Any]) -> None:
    if path.parent.exists() and not path.parent.is_dir():
        raise DataError(f"{path.parent} is a file; give a folder for the phantoms")
    if path.exists() and path.read_text(encoding="utf-8") != json.dumps(table, indent=1) + "\n":
        raise DataError(f"{path.parent} holds a different data set; give another folder for the phantoms")


def _table(cases: Mapping[str, int], seed: int, shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[str, Any]:
    listed: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    for split, _, entry in _entries(cases):
        listed[split].append({key: f"./{place}" for key, place in entry.items()})
    return {
        "name": "Phantoms",
        "description": "CT-like torsos drawn by mimzoo; not of any patient",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(value): name for value, name in LABELS.items()}},
        "drawn": {"seed": seed, "shape": list(shape), "spacing_mm": list(spacing_mm)},
        "numTraining": len(listed["training"]),
        "numTest": 0,
        **listed,
        "test": [],
    }


def _entries(cases: Mapping[str, int]) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Yield split, number and files of each case, in a fixed order."""
    for split in SPLITS:
        for number in range(cases.get(split, 0)):
            name = f"{split}_{number:03d}.nii.gz"
            labelled = {"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"}
            yield split, number, {"image": f"imagesUn/{name}"} if split == "unlabelled" else labelled


def _write(path: Path, voxels: NDArray[Any], grid: Grid, number: int) -> None:
    """Write voxels (X, Y, Z) in RAS+ in the orientation of the case with that number."""
    wanted = orientations.axcodes2ornt(STORED_AS[number % len(STORED_AS)])
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), wanted)
    affine = grid.affine @ orientations.inv_ornt_aff(change, grid.shape)
    turned = np.ascontiguousarray(orientations.apply_orientation(voxels, change))
    write_voxels(path, turned, Grid(turned.shape, affine))
