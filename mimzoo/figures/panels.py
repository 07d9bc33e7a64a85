"""Panels: a plane in grey on black in true proportions, with its edges named, and labels laid over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from mimzoo.palette import colour
from mimzoo.planes import Array, Plane

HIDDEN = "#3B5B92"
FILL_OPACITY = 0.45
# The largest share of a panel's width that its scale bar takes.
BAR_SHARE = 0.3


@dataclass(frozen=True)
class Frame:
    """What a panel shows, in mm: images smaller than it are centred on black."""

    width_mm: float
    height_mm: float

    @property
    def ratio(self) -> float:
        """Return height over width."""
        return self.height_mm / self.width_mm

    def widened(self, ratio: float) -> "Frame":
        """Return the smallest frame of another ratio that holds this one."""
        width = max(self.width_mm, self.height_mm / ratio)
        return Frame(width, width * ratio)


def frame_of(planes: Sequence[Plane], shape: Sequence[int], spacing_mm: Sequence[float]) -> Frame:
    """Return the smallest frame that holds each of the planes of a volume."""
    widths, heights = zip(*(plane.size_mm(shape, spacing_mm) for plane in planes), strict=True)
    return Frame(max(widths), max(heights))


def add_panel(figure: Figure, left: float, top: float, width: float, frame: Frame) -> Axes:
    """Return empty black axes for a frame, placed in inches from the figure's upper left corner."""
    page_width, page_height = figure.get_size_inches()
    height = width * frame.ratio
    box = (left / page_width, 1 - (top + height) / page_height, width / page_width, height / page_height)
    axes = figure.add_axes(box, facecolor="black")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def show(
    axes: Axes,
    plane: Plane,
    image: Array,
    spacing_mm: Sequence[float],
    frame: Frame,
    levels: tuple[float, float],
    smooth: bool,
) -> None:
    """Draw an image (rows, columns) of a plane between two levels; NaN gets the colour of hidden voxels."""
    width, height = _extent(plane, image, spacing_mm)
    style: dict[str, Any] = {"interpolation": "bilinear" if smooth else "nearest", "vmin": levels[0], "vmax": levels[1]}
    axes.imshow(image, cmap=_greys(), extent=(0, width, 0, height), **style)
    axes.set_xlim((width - frame.width_mm) / 2, (width + frame.width_mm) / 2)
    axes.set_ylim((height - frame.height_mm) / 2, (height + frame.height_mm) / 2)
    for letter, (x, y) in zip(plane.letters, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.965), (0.5, 0.035)), strict=True):
        look: dict[str, Any] = {"color": "white", "alpha": 0.75, "fontsize": 7}
        axes.text(x, y, letter, transform=axes.transAxes, ha="center", va="center", **look)


def _extent(plane: Plane, image: Array, spacing_mm: Sequence[float]) -> tuple[float, float]:
    return image.shape[1] * spacing_mm[plane.left], image.shape[0] * spacing_mm[plane.up]


def _greys() -> Colormap:
    return colormaps["gray"].with_extremes(bad=HIDDEN)


def add_fill(axes: Axes, plane: Plane, labels: Array, spacing_mm: Sequence[float], values: Sequence[int]) -> None:
    """Lay labels (rows, columns) over a panel, each value in the colour of its place in `values`."""
    width, height = _extent(plane, labels, spacing_mm)
    # (rows, columns) -> (rows, columns, RGBA)
    paint = np.zeros((*labels.shape, 4))
    for place, value in enumerate(values):
        paint[labels == value] = (*colour(place), FILL_OPACITY)
    axes.imshow(paint, extent=(0, width, 0, height), interpolation="nearest")


def add_outline(axes: Axes, plane: Plane, labels: Array, spacing_mm: Sequence[float], values: Sequence[int]) -> None:
    """Draw the outline of labels (rows, columns) on a panel, each value in the colour of its place in `values`."""
    # A rim of background closes outlines at the border of the image.
    labels = np.pad(labels, 1)
    dx, dy = spacing_mm[plane.left], spacing_mm[plane.up]
    x = (np.arange(labels.shape[1]) - 0.5) * dx
    y = (labels.shape[0] - 2 - (np.arange(labels.shape[0]) - 0.5)) * dy
    for place, value in enumerate(values):
        if (labels == value).any():
            axes.contour(x, y, labels == value, levels=[0.5], colors=[colour(place)], linewidths=1.3)


def add_scale_bar(axes: Axes, frame: Frame) -> None:
    """Draw a bar of a round length in mm in the lower left corner of a panel."""
    length = round_below(BAR_SHARE * frame.width_mm)
    left, bottom = axes.get_xlim()[0] + 0.04 * frame.width_mm, axes.get_ylim()[0] + 0.045 * frame.height_mm
    axes.plot([left, left + length], [bottom, bottom], color="white", linewidth=1.5, solid_capstyle="butt")
    middle, above = left + length / 2, bottom + 0.02 * frame.height_mm
    axes.text(middle, above, f"{length:g} mm", color="white", fontsize=7, ha="center", va="bottom")


def round_below(length: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, 50 ... (or of their tenths and so on) that is not above `length`."""
    power = float(10 ** np.floor(np.log10(length)))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))
