"""Masks put right by what is known of anatomy: one piece, no holes, no specks. In the scan's own grid."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimzoo.deploy.statistics import voxel_ml
from mimzoo.errors import MimzooError, suggest
from mimzoo.grids import Masks
from mimzoo.masks import LabelMap, RegionMap

ALL = "all"
# Parts that touch at a corner are one; what surrounds a hole must have no gap, so that holes leak through faces alone.
WHOLE, THROUGH_FACES = 26, 6

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Polish:
    """What is done with each label of a mask, by name ("all" for every one), in this order.

    Pieces smaller than `minimum_ml` become background; of those of `largest_component` only the largest piece stays
    (the first in the mask among equals); background that a label of `fill_holes` encloses becomes that label: what
    cannot be left through faces of voxels without crossing it, nor on to the edge of the scan. Other labels inside a
    hole stay what they are. Pieces are connected through faces, edges and corners.
    """

    minimum_ml: Mapping[str, float] = field(default_factory=dict)
    largest_component: Collection[str] = ()
    fill_holes: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.minimum_ml or self.largest_component or self.fill_holes)

    def settings(self) -> dict[str, Any]:
        """Return what is done as JSON can hold it."""
        return {
            "minimum_ml": dict(sorted(self.minimum_ml.items())),
            "largest_component": sorted(self.largest_component),
            "fill_holes": sorted(self.fill_holes),
        }


def fitted(polish: Polish, names: Collection[str]) -> Polish:
    """Return what is done with each of a model's labels or regions `names`: "all" stands for those not named.

    Raises MimzooError for a name that the model does not have, and where the package that finds components is not
    installed although it is needed.
    """
    given = {
        "--minimum-ml": polish.minimum_ml,
        "--largest-component": polish.largest_component,
        "--fill-holes": polish.fill_holes,
    }
    for option, wanted in given.items():
        for name in wanted:
            if name != ALL and name not in names:
                raise MimzooError(f"{option}: the model has no label {name!r}; {suggest(name, [*names, ALL])}")
    if polish:
        _cc3d()
    return Polish(
        {name: ml for name in names if (ml := polish.minimum_ml.get(name, polish.minimum_ml.get(ALL, 0.0)))},
        _spelt_out(polish.largest_component, names),
        _spelt_out(polish.fill_holes, names),
    )


def _spelt_out(wanted: Collection[str], names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted or ALL in wanted)


def amounts(texts: Sequence[str]) -> dict[str, float]:
    """Return the millilitres for each name of texts such as "Liver=5", or "0.5" for all; MimzooError for any other."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, amount = text.rpartition("=")
        try:
            found[name if equals else ALL] = float(amount)
        except ValueError:
            found[ALL] = -1.0
        if not all(0 < ml < float("inf") for ml in found.values()):
            raise MimzooError(f"--minimum-ml {text!r} is no amount; write 0.5 for every label, or Liver=5 for one")
    return found


def _cc3d() -> Any:
    try:
        import cc3d
    except ImportError:
        raise MimzooError(
            "finding the components of a mask needs connected-components-3d; pip install 'mimzoo[deploy-components]'"
        ) from None
    return cc3d


def polished(drawn: LabelMap | RegionMap, polish: Polish) -> LabelMap | RegionMap:
    """Return a label map or regions, each by itself, put right as `Polish` says."""
    if isinstance(drawn, RegionMap):
        masks = {name: _polish(mask, {1: name}, polish, voxel_ml(drawn.grid)) for name, mask in drawn.masks.items()}
        return RegionMap(masks, drawn.grid)
    voxels = _polish(drawn.voxels, drawn.names, polish, voxel_ml(drawn.grid))
    return LabelMap(voxels, drawn.grid, drawn.names, drawn.name)


def _polish(voxels: Masks, names: Mapping[int, str], polish: Polish, ml: float) -> Masks:
    out = voxels.copy()
    for value, name in sorted(names.items()):
        least = polish.minimum_ml.get(name, 0) / ml
        box = _box(out == value)
        if box is None:
            continue
        part = out[box]
        if least or name in polish.largest_component:
            part[_lost(part == value, least, name in polish.largest_component)] = 0
        if name in polish.fill_holes:
            part[_holes(part == value) & (part == 0)] = value
    return out


def _box(mask: Bools) -> tuple[slice, ...] | None:
    """Return the box that holds all of a mask; None where it is empty."""
    found = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in found) if len(found[0]) else None


def _lost(mask: Bools, least: float, only_largest: bool) -> Bools:
    """Return the pieces of a mask smaller than `least` voxels, and all but the largest where that alone shall stay."""
    pieces, counts = _pieces(mask, WHOLE)
    kept = counts >= least
    if only_largest:
        kept &= np.arange(len(counts)) == counts.argmax()
    # what is no piece is not lost
    kept[0] = True
    lost: Bools = ~kept[pieces]
    return lost


def _holes(mask: Bools) -> Bools:
    """Return what a mask encloses, of a box that just holds the mask: what lies at its sides is not enclosed."""
    pieces, counts = _pieces(~mask, THROUGH_FACES)
    enclosed = np.ones(len(counts), bool)
    enclosed[0] = False
    for axis in range(3):
        for side in (0, -1):
            enclosed[np.unique(pieces.take(side, axis))] = False
    holes: Bools = enclosed[pieces]
    return holes


def _pieces(mask: Bools, connectivity: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the number of the piece that each voxel is part of, from 1 on, and how many voxels each has.

    0 stands for what is no piece, and counts none.
    """
    cc3d = _cc3d()
    pieces = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=connectivity)
    counts = cc3d.statistics(pieces)["voxel_counts"].astype(np.int64)
    counts[0] = 0
    return pieces, counts
