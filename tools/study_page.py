"""The page of a study: tables and plots of the records of its runs, every number made from them."""

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from study_grid import Grid, Row, cells, read_grid, trainings

from mimzoo.errors import DataError
from mimzoo.figures.paper import QUIET, figure_at
from mimzoo.metrics import Scores, compare_paired, summarise
from mimzoo.palette import colour
from mimzoo.scoring import case_values
from mimzoo.tasks import make_task

DASH = "\u2013"
MINUS = "\u2212"


@dataclass(frozen=True)
class Record:
    """What is known of a run, as `study.py` wrote it."""

    told: Mapping[str, Any]

    @cached_property
    def scores(self) -> dict[str, dict[str, Scores | None]]:
        """Return case -> class -> scores on the cases that the run has not seen."""
        return {
            case: {name: None if found is None else Scores(**found) for name, found in classes.items()}
            for case, classes in self.told["cases"].items()
        }

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the cases of each class, then over the classes."""
        return summarise(self.scores).metrics[metric].mean

    @cached_property
    def case_dice(self) -> dict[str, float]:
        """Return the mean Dice over the classes that a case shows, by case."""
        labels = {int(value): name for value, name in self.told["recipe"]["labels"].items()}
        return case_values(self.scores, make_task(labels, None, None))

    @property
    def best_loss(self) -> float:
        """Return the least loss of a pretraining on the selection cases."""
        return min(loss for _, loss in self.told["curves"]["validation loss"])

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Return the Dice on the selection cases by step."""
        return [(int(step), dice) for step, dice in self.told["curves"]["validation dice"]]


@dataclass(frozen=True)
class Table:
    """A grid with those of its runs that are recorded."""

    name: str
    grid: Grid
    records: Mapping[str, Record]

    def found(self, row: str, column: str) -> dict[int, Record]:
        """Return the records of a place by seed."""
        return self._places.get((row, column), {})

    @cached_property
    def _places(self) -> dict[tuple[str, str], dict[int, Record]]:
        places: dict[tuple[str, str], dict[int, Record]] = {}
        for cell in cells(self.grid):
            record = self.records.get(cell.training.name)
            if record is not None:
                places.setdefault((cell.row, cell.column), {})[cell.seed] = record
        return places

    def pairs(self, row: Row, column: str) -> list[tuple[Record, Record]]:
        """Return the records of a row and of the one that it is held against, of the seeds that both have."""
        ours, theirs = self.found(row.name, column), self.found(row.against or "", column)
        return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]

    @property
    def tuned(self) -> list[Record]:
        """Return the records of the fine-tunings."""
        return [record for seeds in self._places.values() for record in seeds.values()]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return [column.name for column in self.grid.columns]


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by name."""
    return {path.stem: read_record(path) for path in sorted(folder.glob("*.json"))}


def read_record(path: Path) -> Record:
    """Return the record in a file; DataError when it is not there."""
    if not path.is_file():
        raise DataError(f"{path} is not there; only a run that is recorded can be held against another")
    return Record(json.loads(path.read_text(encoding="utf-8")))


# --- numbers ----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], form: str) -> str:
    """Return mean, standard deviation over seeds, and how many there are."""
    if not values:
        return DASH
    mean = f"{statistics.fmean(values):{form}}".replace("-", MINUS)
    if len(values) == 1:
        return f"{mean} (1)"
    return f"{mean} \u00b1 {statistics.stdev(values):{form.lstrip('+')}} ({len(values)})"


def difference(pairs: Sequence[tuple[Record, Record]]) -> str:
    """Return the mean difference of Dice over seeds, and its interval over cases, each case averaged over the seeds."""
    if not pairs:
        return DASH
    shown = spread([ours.mean("dice") - theirs.mean("dice") for ours, theirs in pairs], "+.4f")
    ours, theirs = (
        {case: statistics.fmean(pair[side].case_dice[case] for pair in pairs) for case in pairs[0][0].case_dice}
        for side in (0, 1)
    )
    found = compare_paired(ours, theirs)
    if found.low is None or found.high is None:
        return shown
    return f"{shown}; {found.low:+.4f} to {found.high:+.4f}, p {found.p_value:.2g}".replace("-", MINUS)


def steps_to(curve: Sequence[tuple[int, float]], dice: float) -> int | None:
    """Return the first validated step at which a curve is at least as high."""
    return next((step for step, value in curve if value >= dice), None)


def speed(pairs: Sequence[tuple[Record, Record]]) -> str:
    """Return after how many steps the other row's final Dice on the selection cases is reached, and its own steps."""
    if not pairs:
        return DASH
    aims = [(ours, theirs, theirs.curve[-1][1]) for ours, theirs in pairs]
    reached = [(steps_to(ours.curve, aim), steps_to(theirs.curve, aim)) for ours, theirs, aim in aims]
    done = [(mine, other) for mine, other in reached if mine is not None and other is not None]
    if not done:
        return f"never (0 of {len(pairs)})"
    mine, other = (statistics.fmean(pair[side] for pair in done) for side in (0, 1))
    return f"{mine:.0f} / {other:.0f} = 1 / {other / mine:.2f} ({len(done)} of {len(pairs)})"


# --- tables -----------------------------------------------------------------------------------------------------------


def matrix(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(values)} |" for name, values in rows)])


def by_place(table: Table, corner: str, told: Callable[[dict[int, Record]], str]) -> str:
    rows = [(row.name, [told(table.found(row.name, column)) for column in table.columns]) for row in table.grid.rows]
    return matrix(corner, table.columns, rows)


def against(table: Table, corner: str, told: Callable[[Sequence[tuple[Record, Record]]], str]) -> str:
    """Return a table of the rows that are held against another one; nothing where there are none."""
    rows = [
        (f"{row.name} {MINUS} {row.against}", [told(table.pairs(row, column)) for column in table.columns])
        for row in table.grid.rows
        if row.against is not None
    ]
    return matrix(corner, table.columns, rows) if rows else ""


def pretrainings(table: Table) -> str:
    """Return a table of the pretrainings of a grid; nothing where there are none."""
    rows = []
    for training in trainings(table.grid):
        record = table.records.get(training.name)
        if training.verb == "pretrain" and record is not None:
            changes = ", ".join(f"`{text}`" for text in training.assignments) or "as its card"
            figures = [
                f"{record.told['steps']}",
                f"{record.best_loss:.4f}",
                f"{record.told['between_scans']:.2f}",
                cost(record),
            ]
            rows.append((f"`{training.card}`", [changes, *figures]))
    columns = ["changed", "steps", "best loss", "variance between scans", "processor s per step, MB at most"]
    return matrix("pretraining", columns, rows) if rows else ""


def cost(record: Record) -> str:
    """Return processor seconds per step, validation included, and the most memory that the process took."""
    seconds, memory = record.told["cpu_seconds"], record.told["peak_bytes"] / 1e6
    each = DASH if seconds is None else f"{seconds / record.told['steps']:.3f}"
    return f"{each}, {memory:.0f}"


def costs(found: dict[int, Record]) -> str:
    known = [r.told["cpu_seconds"] / r.told["steps"] for r in found.values() if r.told["cpu_seconds"] is not None]
    memory = max((record.told["peak_bytes"] / 1e6 for record in found.values()), default=0)
    return f"{statistics.fmean(known):.3f}, {memory:.0f}" if known else DASH


# --- plots ------------------------------------------------------------------------------------------------------------


def draw_curves(path: Path, table: Table) -> None:
    """Write a PNG with a panel per column: Dice on the selection cases by step, a line for each row, mean of seeds."""
    width = 2.0 + 3.0 * len(table.columns)
    with figure_at(path, width, 3.2) as figure:
        figure.set_layout_engine("constrained")
        lines: dict[str, Any] = {}
        for place, column in enumerate(table.columns):
            axes = figure.add_subplot(1, len(table.columns), place + 1)
            for number, row in enumerate(table.grid.rows):
                found = list(table.found(row.name, column).values())
                if found:
                    lines[row.name] = draw_curve(axes, number, row, found)
            axes.set_title(column, loc="left")
            axes.set_xlabel("optimiser step")
            axes.grid(axis="y", color=QUIET, alpha=0.2, linewidth=0.6)
            if place == 0:
                axes.set_ylabel("Dice on the selection cases")
        if lines:
            figure.legend(lines.values(), lines.keys(), frameon=False, fontsize=7, loc="outside right upper")


def draw_curve(axes: Any, number: int, row: Row, found: Sequence[Record]) -> Any:
    """Return the line that was drawn: of the steps that all records validated at."""
    steps = sorted(set.intersection(*(set(dict(record.curve)) for record in found)))
    means = [statistics.fmean(dict(record.curve)[step] for record in found) for step in steps]
    (line,) = axes.plot(steps, means, color=colour(number), linewidth=1.6, linestyle="-" if row.against else "--")
    return line


# --- the page ---------------------------------------------------------------------------------------------------------


def section(table: Table, picture: str) -> str:
    """Return what the page says of a grid."""
    grid = table.grid
    wanted = trainings(grid)
    known = [table.records[one.name] for one in wanted if one.name in table.records]
    if not table.tuned:
        return f"## {grid.title}\n\n{grid.text.strip()}\n\nNo run is recorded yet."
    first = table.tuned[0].told
    chosen, scored = len(first["split"]["validation"]), len(first["cases"])
    protocol = (
        f"{len(known)} of {len(wanted)} runs on {grid.data}. {chosen} training cases are set apart to select weights, "
        f"{scored} others give the figures. Seeds: {', '.join(map(str, grid.seeds))}. Behind \u00b1 stands the "
        "standard deviation over seeds, in brackets how many there are."
    )
    parts = [
        f"## {grid.title}",
        grid.text.strip(),
        protocol,
        by_place(table, "Dice", lambda found: spread([record.mean("dice") for record in found.values()], ".4f")),
        by_place(
            table, "HD95 (mm)", lambda found: spread([record.mean("hd95_mm") for record in found.values()], ".2f")
        ),
        against(table, "difference of Dice; 95 % over cases, Wilcoxon's p", difference),
        against(table, "steps to the other's final Dice / its own", speed),
        f"![Dice by step]({picture})",
        by_place(table, "processor s per step, MB at most", costs),
        pretrainings(table),
    ]
    return "\n\n".join(part for part in parts if part)


def page_of(folder: Path, pictures: Path) -> str:
    """Return the page of the grids and records in a folder, and draw its plots into another."""
    records = read_records(folder / "records")
    parts = [(folder / "head.md").read_text(encoding="utf-8").strip()]
    for path in sorted(folder.glob("*.toml")):
        table = Table(path.stem, read_grid(path), records)
        if table.tuned:
            draw_curves(pictures / f"{path.stem}.png", table)
        parts.append(section(table, f"{folder.name}/{path.stem}.png"))
    return "\n\n".join(parts) + "\n"


def write_page(folder: Path) -> None:
    """Write the page beside the folder of grids and records, and its plots into the folder."""
    page = folder.with_suffix(".md")
    page.write_text(page_of(folder, folder), encoding="utf-8")


def differences(folder: Path) -> list[str]:
    """Return in what a page and its plots differ from what the records give, and which records no grid asks for."""
    page = folder.with_suffix(".md")
    with tempfile.TemporaryDirectory() as made:
        fresh, there = page_of(folder, Path(made)), page.read_text(encoding="utf-8")
        found = [
            f"{page}, line {number}: says {is_!r}, the records give {should!r}"
            for number, (is_, should) in enumerate(zip_longest(there.splitlines(), fresh.splitlines(), fillvalue=""), 1)
            if is_ != should
        ]
        for plot in sorted(Path(made).glob("*.png")):
            shown = folder / plot.name
            if not shown.is_file() or shown.read_bytes() != plot.read_bytes():
                found.append(f"{shown}: is not the plot that the records give")
    wanted = {one.name for path in folder.glob("*.toml") for one in trainings(read_grid(path))}
    strays = sorted(path for path in (folder / "records").glob("*.json") if path.stem not in wanted)
    return [*found, *(f"{path}: no grid asks for this run any more; remove it" for path in strays)]
