"""The page of a figure of scans: three columns of panels under headings, with names at the side and a legend."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure

# Inches.
WIDTH = 8.4
LEFT = 0.42
RIGHT = 0.12
GAP = 0.07
LINE = 0.2
# Characters.
LONGEST_NAME = 32
LONGEST_LINE = 110


def column_width() -> float:
    """Return the width of a column in inches."""
    return (WIDTH - LEFT - RIGHT - 2 * GAP) / 3


def column_left(column: int) -> float:
    """Return how far a column's left edge is from the page's, in inches."""
    return LEFT + column * (column_width() + GAP)


def head(figure: Figure, top: float, names: Sequence[str]) -> None:
    """Write a heading over each column whose panels begin at `top`."""
    for column, name in enumerate(names):
        write(figure, column_left(column) + column_width() / 2, top - 0.12, name, ha="center", fontsize=10)


def side(figure: Figure, top: float, height: float, name: str) -> None:
    """Write a name upwards along the left of a row of panels, shortened where it is too long."""
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
    write(figure, 0.22, top + height / 2, short, ha="center", rotation=90, fontsize=9)


def write(figure: Figure, left: float, top: float, words: str, **look: Any) -> None:
    """Write at a place in inches from the upper left corner, centred on it vertically."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, words, **{"ha": "left", "va": "center", **look})


def _columns(keys: Sequence[Artist]) -> int:
    widest = max((len(str(key.get_label())) for key in keys), default=0)
    return max(1, int((WIDTH - LEFT - RIGHT) / (0.5 + 0.075 * widest)))


def legend_height(keys: Sequence[Artist]) -> float:
    """Return how high a legend will be, in inches."""
    return LINE * ceil(len(keys) / _columns(keys)) + 0.08


def legend(figure: Figure, top: float, keys: Sequence[Artist]) -> None:
    """Draw a legend below `top`, in as many columns as the page holds."""
    place = (LEFT / WIDTH, 1 - (top + 0.02) / figure.get_size_inches()[1])
    look: dict[str, Any] = {
        "frameon": False,
        "borderpad": 0.2,
        "borderaxespad": 0,
        "handlelength": 1.4,
        "fontsize": 8.5,
    }
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=place, ncols=_columns(keys), **look)
