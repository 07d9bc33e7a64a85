"""How large what was found is, and how bright: each label of a mask, in millilitres and in the scan's own units."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimzoo.deploy.records import Maker, Measured, Record
from mimzoo.errors import DataError
from mimzoo.files import replacing
from mimzoo.grids import Array, Grid, Masks
from mimzoo.volume import LabelMap, Volume

TABLE, TREE = "statistics.csv", "statistics.json"
# Label values are bytes.
VALUES = 256
ML_PER_MM3 = 1e-3


def voxel_ml(grid: Grid) -> float:
    """Return the volume of a voxel in millilitres."""
    return float(abs(np.linalg.det(grid.affine[:3, :3]))) * ML_PER_MM3


def measure(mask: str, labels: LabelMap, scan: Volume) -> tuple[Measured, ...]:
    """Return what a mask holds of each of its named labels, those without voxels too.

    `labels` lie on the scan's own grid. The deviation is that of all voxels of a label, not of a sample.
    """
    counts = sum((np.bincount(part.ravel(), minlength=VALUES) for part in labels.voxels), np.zeros(VALUES, int))
    moments = [_moments(labels.voxels, channel, counts) for channel in scan.voxels]
    ml = voxel_ml(labels.grid)
    return tuple(
        Measured(
            mask=mask,
            label=name,
            value=value,
            voxels=int(counts[value]),
            ml=float(counts[value]) * ml,
            mean=tuple(_known(means[value]) for means, _ in moments),
            std=tuple(_known(deviations[value]) for _, deviations in moments),
        )
        for value, name in sorted(labels.names.items())
    )


def _moments(labels: Masks, channel: Array, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Return the mean and the deviation of a channel (X, Y, Z) in each label value, NaN in those without voxels."""
    with np.errstate(invalid="ignore"):
        means = _sums(labels, channel, np.zeros(VALUES)) / counts
        # In two turns: squares of large numbers whose mean is taken off afterwards would lose digits.
        return means, np.sqrt(_sums(labels, channel, np.nan_to_num(means), power=2) / counts)


def _sums(labels: Masks, channel: Array, means: NDArray[np.float64], power: int = 1) -> NDArray[np.float64]:
    """Return the sum over each label of how far voxels lie from its mean, to a power; plane by plane to save memory."""
    sums = np.zeros(VALUES)
    for part, values in zip(labels, channel, strict=True):
        sums += np.bincount(part.ravel(), ((values - means[part]) ** power).ravel(), VALUES)
    return sums


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def write_statistics(folder: Path, maker: Maker, records: Iterable[Record]) -> None:
    """Write statistics.csv and statistics.json of all scans that `maker` made the masks of.

    The CSV has a row for each label of each scan; intensities stand under "mean <channel>" and "std <channel>".
    Raises DataError when they cannot be written; each is then as it was.
    """
    ours = [record for record in records if record.maker == maker and record.failure is None]
    tree = {**maker.model_dump(mode="json"), "scans": [_branch(record) for record in ours]}
    try:
        with replacing(folder / TREE) as temporary:
            temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        with replacing(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            channels = ours[0].channels if ours else ()
            of_channels = [f"{what} {channel}" for channel in channels for what in ("mean", "std")]
            table.writerow(["scan", "mask", "label", "value", "voxels", "ml", *of_channels])
            table.writerows(_rows(ours))
    except OSError as error:
        raise DataError(f"{folder / TABLE}: the statistics cannot be written ({error.strerror})") from error


def _branch(record: Record) -> Mapping[str, object]:
    labels = [
        {
            **label.model_dump(mode="json", exclude={"mean", "std"}),
            "mean": dict(zip(record.channels, label.mean, strict=True)),
            "std": dict(zip(record.channels, label.std, strict=True)),
        }
        for label in record.labels
    ]
    return {
        "scan": record.scan,
        "files": [file.path for file in record.files],
        "warnings": list(record.warnings),
        "labels": labels,
    }


def _rows(records: Iterable[Record]) -> Iterator[Sequence[object]]:
    for record in records:
        for label in record.labels:
            of_channels = [part for pair in zip(label.mean, label.std, strict=True) for part in pair]
            told = ("" if number is None else f"{number:.6g}" for number in of_channels)
            yield [record.scan, label.mask, label.label, label.value, label.voxels, f"{label.ml:.6g}", *told]
