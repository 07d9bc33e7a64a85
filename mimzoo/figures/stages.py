"""Narrow pictures of one crop, its planes below each other, that stand side by side: what training makes of it."""

from pathlib import Path

from mimzoo.errors import ShapeError
from mimzoo.figures.page import GAP, write
from mimzoo.figures.panels import Frame, add_panel, add_scale_bar, frame_of, show
from mimzoo.figures.paper import figure_at
from mimzoo.planes import AXIAL, PLANES, Array

# Inches.
WIDTH = 1.8
HEAD = 0.32


def draw_stage(
    path: Path | str,
    crop: Array,
    words: str,
    levels: tuple[float, float],
    spacing_mm: tuple[float, float, float],
) -> None:
    """Write a PNG of the three middle planes of a crop (X, Y, Z) in RAS+ below each other, under a few words.

    Values are shown between two levels, the same for all stages of a crop; NaN gets the colour of what is hidden.
    Raises ShapeError for a crop that is no volume.
    """
    if crop.ndim != 3:
        raise ShapeError(f"a crop must be (X, Y, Z), got {crop.shape}")
    width = frame_of(PLANES, crop.shape, spacing_mm).width_mm
    frames = [Frame(width, plane.size_mm(crop.shape, spacing_mm)[1]) for plane in PLANES]
    with figure_at(path, WIDTH, HEAD + sum(WIDTH * frame.ratio + GAP for frame in frames) - GAP) as figure:
        write(figure, WIDTH / 2, HEAD / 2, words, ha="center", fontsize=11)
        top = HEAD
        for plane, frame in zip(PLANES, frames, strict=True):
            axes = add_panel(figure, 0.0, top, WIDTH, frame)
            image = plane.cut(crop, crop.shape[plane.axis] // 2)
            show(axes, plane, image, spacing_mm, frame, levels, smooth=False)
            if plane is AXIAL:
                add_scale_bar(axes, frame)
            top += WIDTH * frame.ratio + GAP
