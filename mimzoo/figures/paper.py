"""What all figures share: one style whatever the user's matplotlibrc, one palette, one way to save."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mimzoo.files import replacing

DPI = 150
INK = "#222222"
QUIET = "#767676"
# Okabe and Ito's palette, told apart under the common colour blindnesses, without black; ordered for dark ground.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
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


def colour(place: int) -> tuple[float, float, float]:
    """Return the RGB of the place-th label; past the palette's end its colours come again paler, then darker."""
    rounds, index = divmod(place, len(PALETTE))
    keep, ground = ((1.0, 0.0), (0.45, 1.0), (0.55, 0.0))[rounds % 3]
    red, green, blue = (keep * part + (1 - keep) * ground for part in to_rgb(PALETTE[index]))
    return red, green, blue
