"""Training curves from the history of a run."""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mimzoo.errors import DataError
from mimzoo.figures.paper import INK, QUIET, figure_at

COLUMNS = ["step", "split", "name", "value"]
ORDER = ("loss", "dice", "learning_rate")
COLOURS = {"training": "#0072B2", "validation": "#D55E00", "baseline": QUIET}
LESS_IS_BETTER = {"loss", "cross_entropy", "mean_absolute_error", "root_mean_square_error"}
# Colours of classes: Okabe and Ito's that are seen on white and taken by no split.
CLASSES = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#7A7A3C", "#8C564B", "#5B5EA6", "#44AA99")
PANEL = (3.6, 2.9)
ACROSS = 3
# Validations are marked one by one up to this many.
FEW_STEPS = 60


@dataclass
class Curve:
    """One line of a panel: a split's figure, or that of one class, over the optimiser steps."""

    split: str
    of: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def draw_curves(path: Path | str, history: Path | str) -> None:
    """Write a PNG with a panel per figure in a history CSV (columns step, split, name, value): loss, Dice, rate ...

    A name of several words, such as `dice Liver`, is a thin line in the panel of its first word; a `baseline` stands
    with the loss. Three panels are beside each other.
    Raises DataError for a file that is missing, empty or not of that form.
    """
    panels = _read(Path(history))
    names = sorted(panels, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    rows, columns = math.ceil(len(names) / ACROSS), min(len(names), ACROSS)
    with figure_at(path, PANEL[0] * columns, PANEL[1] * rows) as figure:
        figure.set_layout_engine("constrained")
        for place, name in enumerate(names, 1):
            _draw(figure.add_subplot(rows, columns, place), name, panels[name])


def _read(history: Path) -> dict[str, list[Curve]]:
    try:
        with history.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{history}: the history cannot be read ({error}); train first") from None
    if not rows or rows[0] != COLUMNS:
        raise DataError(
            f"{history}: a history begins with {','.join(COLUMNS)}, got {','.join(rows[0]) if rows else ''!r}"
        )
    if len(rows) == 1:
        raise DataError(f"{history}: nothing is recorded yet; let the run take a few steps")
    return _curves(history, rows[1:])


def _curves(history: Path, rows: list[list[str]]) -> dict[str, list[Curve]]:
    found: dict[tuple[str, str], Curve] = {}
    panels: dict[str, list[Curve]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        try:
            step, split, name, value = row
            point = int(step), float(value)
        except ValueError:
            raise DataError(
                f"{history}: line {number} is not a step, split, name and value: {','.join(row)!r}"
            ) from None
        # What a guess without learning would lose belongs beside what is lost.
        if name == "baseline":
            split, name = "baseline", "loss"
        panel, _, of = name.partition(" ")
        if (split, name) not in found:
            found[split, name] = Curve(split, of)
            panels[panel].append(found[split, name])
        found[split, name].steps.append(point[0])
        found[split, name].values.append(point[1])
    return panels


def _draw(axes: Axes, name: str, curves: list[Curve]) -> None:
    whole, parts = [c for c in curves if not c.of], [c for c in curves if c.of]
    for place, part in enumerate(parts):
        axes.plot(part.steps, part.values, **_look_of_part(part, place, len(parts)))
    for curve in whole:
        marker = "o" if curve.split == "validation" and len(curve.steps) < FEW_STEPS else None
        look: dict[str, Any] = {
            "color": COLOURS.get(curve.split, INK),
            "linewidth": 1.8,
            "linestyle": "--" if curve.split == "baseline" else "-",
            "marker": marker,
            "markersize": 3,
        }
        axes.plot(curve.steps, curve.values, label="mean" if parts else curve.split, **look)
        if curve.split == "validation":
            _mark_best(axes, name, curve)
    axes.set_title(_title(name, whole, parts), loc="left")
    axes.set_xlabel("optimiser step")
    axes.grid(axis="y", color=QUIET, alpha=0.2, linewidth=0.6)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=7.5)


def _look_of_part(part: Curve, place: int, count: int) -> dict[str, Any]:
    """Return colour and legend of a class's line; more classes than colours are all drawn alike."""
    if count > len(CLASSES):
        return {"color": QUIET, "linewidth": 0.8, "alpha": 0.5, "label": None if place else f"each of {count} classes"}
    return {"color": CLASSES[place], "linewidth": 1, "label": part.of}


def _title(name: str, whole: list[Curve], parts: list[Curve]) -> str:
    splits = {curve.split for curve in (*whole, *parts)}
    words = name.replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}" + (f" ({splits.pop()})" if splits == {"validation"} else "")


def _mark_best(axes: Axes, name: str, curve: Curve) -> None:
    known = [(value, step) for value, step in zip(curve.values, curve.steps, strict=True) if math.isfinite(value)]
    if known:
        value, step = min(known) if name in LESS_IS_BETTER else max(known, key=lambda pair: pair[0])
        axes.annotate(
            f"{value:.3f}",
            (step, value),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=INK,
        )
