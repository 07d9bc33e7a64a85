"""What all figures share: one style whatever the user's matplotlibrc, one palette, one way to save."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from mimzoo.files import replacing

DPI = 150
INK = "#222222"
QUIET = "#767676"
STYLE = {
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    # Names of cases and classes are shown as they are, dollar signs too.
    "text.parse_math": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


@contextmanager
def figure_at(path: Path | str, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches; when the block ends it takes the place of the file at `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(["default", STYLE]), replacing(path) as temporary:
        figure = Figure(figsize=(width, height), dpi=DPI)
        yield figure
        # Without a Software entry the bytes do not depend on more than the pixels.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
