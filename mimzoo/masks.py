"""Label maps and region masks: in and out of NIfTI files, with the names of what they show. No torch."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from mimzoo.errors import ScanError
from mimzoo.grids import Array, Grid, Masks
from mimzoo.nifti import read_comments, read_voxels, stem_of, write_voxels
from mimzoo.tasks import slug

NAMES = "mimzoo_labels"


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels (X, Y, Z) uint8, their grid, the names of the classes (0 is background), and what errors call it."""

    voxels: Masks
    grid: Grid
    names: Mapping[int, str] = field(default_factory=dict)
    name: str = "the label map"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.voxels, dtype=dtype, copy=copy)

    def save(self, path: Path | str) -> None:
        """Write the labels and their names to a NIfTI file (see `write_labels`)."""
        write_labels(path, self)


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Masks (X, Y, Z) uint8 (0 or 1) of regions that may overlap, by name, all in one grid."""

    masks: Mapping[str, Masks]
    grid: Grid

    def save(self, path: Path | str) -> list[Path]:
        """Return the NIfTI files written, one for each region (see `region_paths`).

        Raises ScanError as `write_labels` does, and for regions that would have one file; then none is left behind.
        """
        paths = region_paths(Path(path), self.masks)
        if len(set(paths.values())) < len(paths):
            raise ScanError(f"{path}: the regions {list(paths)} would share a file; rename one")
        with ExitStack() as undo:
            for region, target in paths.items():
                write_labels(target, LabelMap(self.masks[region], self.grid, {1: region}))
                undo.callback(target.unlink, missing_ok=True)
            undo.pop_all()
        return list(paths.values())


def region_paths(path: Path, regions: Iterable[str]) -> dict[str, Path]:
    """Return the file of each region: `case.nii.gz` gives `case-<region>.nii.gz`."""
    stem = stem_of(path)
    return {region: path.with_name(f"{stem}-{slug(region)}{path.name[len(stem) :]}") for region in regions}


def read_labels(
    path: Path | str, names: Mapping[int, str] | None = None, values: Mapping[int, int] | None = None
) -> LabelMap:
    """Return the label map (X, Y, Z) uint8 of a file, with the names given, or else those stored in the file.

    `values` maps what the file holds to label values, 0 to 0 implied; without it values are taken as they are.
    Raises ScanError as `read_scan` does, and for values that are not whole, not in 0..255, or (with `names`) unnamed;
    with `values` for any that it does not map.
    """
    path = Path(path)
    raw, grid = read_voxels(path, 1)
    voxels = _as_they_are(raw[0], path) if not values else _mapped(raw[0], {0: 0, **values}, path)
    unknown = sorted(set(np.unique(voxels).tolist()) - {0, *names}) if names is not None else []
    if unknown:
        raise ScanError(f"{path}: label value(s) {unknown[:5]} are not among {[0, *sorted(names or ())]}")
    return LabelMap(voxels, grid, dict(_stored_names(path) if names is None else names), str(path))


def _as_they_are(raw: Array, path: Path) -> Masks:
    with np.errstate(invalid="ignore"):
        voxels: Masks = np.ascontiguousarray(raw).astype(np.uint8)
    if (voxels != raw).any():
        value = raw[voxels != raw][0]
        raise ScanError(f"{path}: label value {value:g} is not a whole number in 0..255; is this a label map?")
    return voxels


def _mapped(raw: Array, values: Mapping[int, int], path: Path) -> Masks:
    """Return the label values of what a file holds."""
    mapped, known = np.zeros(raw.shape, np.uint8), np.zeros(raw.shape, bool)
    for stored, value in values.items():
        here = raw == stored
        mapped[here] = value
        known |= here
    if not known.all():
        unknown = ", ".join(f"{value:g}" for value in np.unique(raw[~known])[:5])
        raise ScanError(f"{path}: label value(s) {unknown} are not among those of the data set, {sorted(values)}")
    return mapped


def _stored_names(path: Path) -> dict[int, str]:
    for text in read_comments(path):
        # other programs' comments are not JSON, or not ours
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            return {int(value): str(name) for value, name in json.loads(text)[NAMES].items()}
    return {}


def write_labels(path: Path | str, labels: LabelMap) -> None:
    """Write labels as NIfTI uint8 in their grid, their names as a JSON comment in the header.

    Raises ScanError when the path is no NIfTI name or cannot be written; then no file is left behind.
    """
    comment = json.dumps({NAMES: {str(value): name for value, name in sorted(labels.names.items())}})
    write_voxels(Path(path), labels.voxels, labels.grid, comment if labels.names else None)
