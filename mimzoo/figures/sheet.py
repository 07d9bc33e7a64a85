"""The sheet of a data set: every scan in three planes with its labels, so that a glance finds the odd one out."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mimzoo.data.check import CaseReport, Report
from mimzoo.data.report import label_names
from mimzoo.errors import DataError
from mimzoo.figures.page import GAP, LEFT, RIGHT, WIDTH, legend, legend_height, write
from mimzoo.figures.panels import add_outline, add_panel, frame_of, show
from mimzoo.figures.paper import QUIET, figure_at
from mimzoo.figures.scans import CONVENTION
from mimzoo.palette import colour
from mimzoo.planes import PLANES, Array, fullest, grey_range
from mimzoo.volume import read_labels, read_scan, to_ras

T = TypeVar("T")

MOST = 60
# Cases beside each other, and inches: above the first, between the panels of a case, above them for its name.
ACROSS = 3
TOP = 0.1
CLOSE = 0.02
NAME = 0.2
LONGEST_NAME = 40
# Points: thinner than in larger figures, or small organs would be covered.
THIN = 0.7


def draw_sheet(path: Path | str, report: Report, most: int = MOST) -> None:
    """Write a PNG of the readable scans of a data set: three planes each, turned to RAS+, with labels as outlines.

    Each plane is the one that shows most of the labels, without labels the middle one. Of more scans than `most` as
    many are drawn, evenly chosen, which the caption says; one is in memory at a time. Labels that do not lie on their
    scan are not drawn.
    Raises DataError when no scan can be drawn.
    """
    readable = [case for case in report.cases if case.shape is not None]
    if not readable:
        raise DataError(f"{report.dataset.folder}: none of its {len(report.cases)} scans can be read, so none is drawn")
    chosen, names = evenly(readable, most), label_names(report)
    values = [value for value in names if any(value in (case.label_voxels or ()) for case in chosen if case.aligned)]
    keys = [Patch(color=colour(place), label=names[value]) for place, value in enumerate(values)]
    below = panel_corner(ACROSS * ceil(len(chosen) / ACROSS), 0)[1] - NAME
    with figure_at(path, WIDTH, below + legend_height(keys) + 0.3) as figure:
        for place, case in enumerate(chosen):
            _draw_case(figure, report, case, place, values)
        legend(figure, below, keys)
        caption = _caption(report, len(chosen), len(readable))
        write(figure, LEFT, below + legend_height(keys) + 0.12, caption, color=QUIET, fontsize=7.5)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / max(1, most - 1))] for place in range(most)]


def panel_side() -> float:
    """Return width and height of a panel in inches."""
    return ((WIDTH - RIGHT - GAP) / ACROSS - GAP - (len(PLANES) - 1) * CLOSE) / len(PLANES)


def panel_corner(place: int, plane: int) -> tuple[float, float]:
    """Return how far a panel is from the left and from the top of the page in inches, by its case's place."""
    row, column = divmod(place, ACROSS)
    case = len(PLANES) * (panel_side() + CLOSE) - CLOSE + GAP
    return GAP + column * case + plane * (panel_side() + CLOSE), TOP + NAME + row * (NAME + panel_side() + GAP)


def _draw_case(figure: Figure, report: Report, case: CaseReport, place: int, values: Sequence[int]) -> None:
    left, top = panel_corner(place, 0)
    name = case.case.id if len(case.case.id) <= LONGEST_NAME else f"{case.case.id[: LONGEST_NAME - 1]}\u2026"
    write(figure, left, top - NAME / 2, name, fontsize=7.5)
    voxels, labels, spacing_mm = _read(report, case)
    frame, levels = frame_of(PLANES, voxels.shape, spacing_mm).widened(1.0), grey_range(voxels)
    for number, plane in enumerate(PLANES):
        axes = add_panel(figure, *panel_corner(place, number), panel_side(), frame)
        index = voxels.shape[plane.axis] // 2 if labels is None else fullest(labels, plane.axis)
        show(axes, plane, plane.cut(voxels, index), spacing_mm, frame, levels, smooth=True)
        if labels is not None:
            add_outline(axes, plane, plane.cut(labels, index), spacing_mm, values)
        _lighten(axes)


def _read(report: Report, case: CaseReport) -> tuple[Array, Array | None, tuple[float, float, float]]:
    """Return the first channel (X, Y, Z) and the labels in RAS+, none where they do not lie on it, and the spacing."""
    scan = read_scan(case.case.images, len(case.intensities))
    voxels, grid, _ = to_ras(scan.voxels[0], scan.grid)
    if not case.aligned or case.case.label is None:
        return voxels, None, grid.spacing_mm
    labels = read_labels(case.case.label, values=report.dataset.values)
    return voxels, to_ras(labels.voxels, scan.grid)[0], grid.spacing_mm


def _lighten(axes: Axes) -> None:
    """Take away the letters of the edges, for which a panel this small has no room, and thin the outlines."""
    for letter in list(axes.texts):
        letter.remove()
    for line in axes.collections:
        line.set_linewidth(THIN)


def _caption(report: Report, drawn: int, readable: int) -> str:
    parts = [CONVENTION, "Front is on the left of sagittal ones."]
    if drawn < readable:
        parts.append(f"{drawn} of {readable} scans, evenly chosen.")
    if readable < len(report.cases):
        parts.append(f"{len(report.cases) - readable} could not be read.")
    if any(len(case.intensities) > 1 for case in report.cases):
        parts.append(f"First channel{f' ({report.dataset.channels[0]})' if report.dataset.channels else ''}.")
    return " ".join(parts)
