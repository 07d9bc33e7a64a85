"""Pictures of runs and results, as PNG files: the same input gives the same bytes, and no pyplot state is touched."""

from mimzoo.figures.curves import draw_curves
from mimzoo.figures.scans import Overlay, Reconstruction, draw_overlays, draw_reconstruction, draw_summary
from mimzoo.figures.stages import draw_stage

__all__ = [
    "Overlay",
    "Reconstruction",
    "draw_curves",
    "draw_overlays",
    "draw_reconstruction",
    "draw_stage",
    "draw_summary",
]
