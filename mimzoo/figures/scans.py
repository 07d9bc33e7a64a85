"""Figures of scans: reconstructions, label overlays, and the one-page summary of the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mimzoo.errors import DataError, ShapeError
from mimzoo.figures.page import (
    GAP,
    LEFT,
    LINE,
    LONGEST_LINE,
    RIGHT,
    WIDTH,
    column_left,
    column_width,
    head,
    legend,
    legend_height,
    side,
    write,
)
from mimzoo.figures.panels import (
    FILL_OPACITY,
    HIDDEN,
    Frame,
    add_fill,
    add_outline,
    add_panel,
    add_scale_bar,
    frame_of,
    show,
)
from mimzoo.figures.paper import INK, QUIET, figure_at
from mimzoo.palette import colour
from mimzoo.planes import AXIAL, PLANES, WINDOW_HU, Array, Plane, around, fullest, grey_range, present
from mimzoo.volume import LabelMap, Volume, to_ras

CONVENTION = "Patient's right is on the left of axial and coronal planes."


class Overlay(NamedTuple):
    """A scan with labels, each in the grid and orientation it came in; `truth` may be unknown."""

    name: str
    scan: Volume
    truth: LabelMap | None
    prediction: LabelMap


class Reconstruction(NamedTuple):
    """A crop (X, Y, Z) in RAS+ as it is, with hidden voxels NaN, and reconstructed; and its spacing."""

    original: Array
    masked: Array
    reconstructed: Array
    spacing_mm: tuple[float, float, float]


def draw_reconstruction(
    path: Path | str,
    original: Array,
    masked: Array,
    reconstructed: Array,
    title: str,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Write a PNG of the three middle planes of a crop (X, Y, Z) in RAS+: original, masked, reconstructed.

    All are shown in the grey range of the original; voxels of `masked` that are NaN are coloured as hidden.
    Raises ShapeError when the three differ in shape.
    """
    reconstruction = Reconstruction(original, masked, reconstructed, spacing_mm)
    _check_reconstruction(reconstruction)
    shape = original.shape
    width = column_width()
    frames = [Frame(frame_of(PLANES, shape, spacing_mm).width_mm, p.size_mm(shape, spacing_mm)[1]) for p in PLANES]
    top = 0.72
    height = top + sum(width * frame.ratio + GAP for frame in frames) + 0.36
    with figure_at(path, WIDTH, height) as figure:
        write(figure, LEFT, 0.22, title, fontsize=11, fontweight="bold")
        head(figure, top, ("Original", "Masked", "Reconstructed"))
        for plane, frame in zip(PLANES, frames, strict=True):
            side(figure, top, width * frame.ratio, plane.name)
            _reconstruction_row(figure, reconstruction, plane, frame, top)
            top += width * frame.ratio + GAP
        _key_of_masked(figure, top, masked)


def _key_of_masked(figure: Figure, top: float, masked: Array) -> None:
    if np.isnan(masked).any():
        legend(figure, top, [Patch(color=HIDDEN, label="hidden from the encoder")])
    write(figure, WIDTH - RIGHT, top + 0.13, CONVENTION, color=QUIET, fontsize=7.5, ha="right")


def _check_reconstruction(reconstruction: Reconstruction) -> None:
    shapes = {np.shape(volume) for volume in reconstruction[:3]}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ShapeError(f"original, masked and reconstructed must be (X, Y, Z) of one shape, got {sorted(shapes)}")


def _reconstruction_row(figure: Figure, reconstruction: Reconstruction, plane: Plane, frame: Frame, top: float) -> None:
    levels = grey_range(reconstruction.original)
    for column, volume in enumerate(reconstruction[:3]):
        axes = add_panel(figure, column_left(column), top, column_width(), frame)
        image = plane.cut(volume, volume.shape[plane.axis] // 2)
        show(axes, plane, image, reconstruction.spacing_mm, frame, levels, smooth=False)
        if column == 0 and plane is AXIAL:
            add_scale_bar(axes, frame)


@dataclass(frozen=True)
class Case:
    """An overlay in RAS+, cut to the surroundings of its labels, with the plane to show across each axis."""

    name: str
    scan: Array
    truth: Array | None
    prediction: Array
    spacing_mm: tuple[float, float, float]
    levels: tuple[float, float]
    indices: tuple[int, int, int]

    def labels(self) -> list[Array]:
        """Return the label maps there are."""
        return [self.prediction] if self.truth is None else [self.truth, self.prediction]


def _case(overlay: Overlay) -> Case:
    scan, grid, _ = to_ras(overlay.scan.voxels[0], overlay.scan.grid)
    maps = [_labels(overlay, labels) for labels in (overlay.truth, overlay.prediction) if labels is not None]
    box = around(np.logical_or.reduce(maps), grid.spacing_mm)
    truth, prediction = (maps[0][box] if len(maps) == 2 else None), maps[-1][box]
    reference = prediction if truth is None or not truth.any() else truth
    x, y, z = (fullest(reference, axis) for axis in range(3))
    levels = grey_range(scan)
    return Case(overlay.name, scan[box], truth, prediction, grid.spacing_mm, levels, (x, y, z))


def _labels(overlay: Overlay, labels: LabelMap) -> Array:
    if labels.voxels.shape != overlay.scan.voxels.shape[1:]:
        raise ShapeError(
            f"{overlay.name}: labels {labels.voxels.shape} do not lie on the scan {overlay.scan.voxels.shape[1:]}; "
            f"draw both in the scan's own grid"
        )
    return to_ras(labels.voxels, overlay.scan.grid)[0]


def draw_overlays(
    path: Path | str, cases: Sequence[tuple[str, Volume, LabelMap | None, LabelMap]], labels: Mapping[int, str]
) -> None:
    """Write a PNG with a row per case: its three planes, the truth as lines and the prediction as fill.

    Each plane is the one that shows most of the classes of the truth (of the prediction where there is no truth), cut
    to their surroundings. Scans and labels come in any orientation and are turned to RAS+ here.
    Raises DataError without cases, ShapeError for labels that do not lie on their scan.
    """
    if not cases:
        raise DataError("there is no case to draw; give at least one")
    rows = [_case(Overlay(*case)) for case in cases]
    frames = [frame_of(PLANES, row.scan.shape, row.spacing_mm) for row in rows]
    ratio = max(frame.ratio for frame in frames)
    values = present([voxels for row in rows for voxels in row.labels()], labels)
    keys, top, step = [*_keys(labels, values), *_overlay_keys(rows)], 0.32, column_width() * ratio + GAP
    with figure_at(path, WIDTH, top + len(rows) * step + legend_height(keys) + 0.3) as figure:
        head(figure, top, [plane.name for plane in PLANES])
        for row, frame in zip(rows, frames, strict=True):
            side(figure, top, step - GAP, row.name)
            for column, plane in enumerate(PLANES):
                _overlay_panel(figure, row, plane, frame.widened(ratio), (column_left(column), top), values)
            top += step
        legend(figure, top, keys)
        write(figure, LEFT, top + legend_height(keys) + 0.12, _caption(rows), color=QUIET, fontsize=7.5)


def _overlay_panel(
    figure: Figure, case: Case, plane: Plane, frame: Frame, place: tuple[float, float], values: Sequence[int]
) -> None:
    axes = add_panel(figure, *place, column_width(), frame)
    index, spacing_mm = case.indices[plane.axis], case.spacing_mm
    show(axes, plane, plane.cut(case.scan, index), spacing_mm, frame, case.levels, smooth=True)
    add_fill(axes, plane, plane.cut(case.prediction, index), spacing_mm, values)
    if case.truth is not None:
        add_outline(axes, plane, plane.cut(case.truth, index), spacing_mm, values)
    if plane is AXIAL:
        add_scale_bar(axes, frame)


def _caption(rows: Sequence[Case]) -> str:
    ct = any(row.levels == WINDOW_HU for row in rows)
    return CONVENTION + (f" CT shown from {WINDOW_HU[0]:g} to {WINDOW_HU[1]:g} HU." if ct else "")


def _keys(labels: Mapping[int, str], values: Sequence[int]) -> list[Artist]:
    return [Patch(color=colour(place), label=labels[value]) for place, value in enumerate(values)]


def _overlay_keys(rows: Sequence[Case]) -> list[Artist]:
    fill = Patch(color=INK, alpha=FILL_OPACITY, label="fill: prediction")
    line = Line2D([], [], color=INK, label="line: truth")
    return [fill] if all(row.truth is None for row in rows) else [fill, line]


def draw_summary(
    path: Path | str,
    reconstruction: Reconstruction,
    overlay: Overlay,
    labels: Mapping[int, str],
    lines: Sequence[str],
    title: str,
) -> None:
    """Write a PNG of one page: original, masked, reconstructed; below it scan, truth, prediction; then lines of text.

    Both rows show axial planes. Raises ShapeError as the other figures do, DataError for a case without truth.
    """
    _check_reconstruction(reconstruction)
    case = _case(overlay)
    if case.truth is None:
        raise DataError(f"{overlay.name} has no truth to set beside the prediction; draw a labelled case")
    values = present(case.labels(), labels)
    upper = frame_of([AXIAL], reconstruction.original.shape, reconstruction.spacing_mm)
    lower = frame_of([AXIAL], case.scan.shape, case.spacing_mm)
    keys = _keys(labels, values)
    first = 0.8
    second = first + column_width() * upper.ratio + 0.42
    below = second + column_width() * lower.ratio
    text = [part for line in lines for part in wrap(line, LONGEST_LINE)]
    foot = below + legend_height(keys) + 0.22
    with figure_at(path, WIDTH, foot + LINE * len(text) + 0.3) as figure:
        write(figure, LEFT, 0.24, title, fontsize=13, fontweight="bold")
        head(figure, first, ("Original", "Masked", "Reconstructed"))
        side(figure, first, column_width() * upper.ratio, "Pretraining")
        _reconstruction_row(figure, reconstruction, AXIAL, upper, first)
        head(figure, second, ("Scan", "Truth", "Prediction"))
        side(figure, second, column_width() * lower.ratio, "Segmentation")
        _segmentation_row(figure, case, lower, second, values)
        legend(figure, below + 0.04, keys)
        for number, line in enumerate(text):
            write(figure, LEFT, foot + LINE * number, line)
        write(figure, LEFT, foot + LINE * len(text) + 0.06, _caption([case]), color=QUIET, fontsize=7.5)


def _segmentation_row(figure: Figure, case: Case, frame: Frame, top: float, values: Sequence[int]) -> None:
    index, spacing_mm = case.indices[AXIAL.axis], case.spacing_mm
    for column, labels in enumerate((None, case.truth, case.prediction)):
        axes = add_panel(figure, column_left(column), top, column_width(), frame)
        show(axes, AXIAL, AXIAL.cut(case.scan, index), spacing_mm, frame, case.levels, smooth=True)
        if labels is None:
            add_scale_bar(axes, frame)
        else:
            add_fill(axes, AXIAL, AXIAL.cut(labels, index), spacing_mm, values)
            add_outline(axes, AXIAL, AXIAL.cut(labels, index), spacing_mm, values)
