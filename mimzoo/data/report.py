"""What a look through a data set found, as tables for the eye."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import isfinite, nan
from statistics import median

from rich.table import Table
from rich.text import Text

from mimzoo.data.cases import SPLITS
from mimzoo.data.check import CaseReport, Intensity, Report

# A column of the table of targets with more values than this is summed up, not counted out.
COUNTED = 8


def report_tables(report: Report) -> list[Table]:
    """Return tables of the splits, labels, targets, cases and problems, without those that would be empty."""
    tables = (_splits(report), _labels(report), _targets(report), _cases(report), _problems(report))
    return [table for table in tables if table.row_count]


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _add(table: Table, *cells: object) -> None:
    # ids and names are shown as they are, square brackets too
    table.add_row(*(Text(str(cell)) for cell in cells))


def _of(report: Report, split: str) -> list[CaseReport]:
    return [case for case in report.cases if case.split == split]


def _splits(report: Report) -> Table:
    table = _table("Splits", "split", "cases", "subjects", "read", "with labels", "with targets", "shape", "spacing mm")
    for split in SPLITS:
        cases = _of(report, split)
        seen = [case for case in cases if case.shape is not None]
        if cases:
            _add(
                table,
                split,
                len(cases),
                len({case.case.subject for case in cases}),
                len(seen),
                sum(case.label_voxels is not None for case in cases),
                sum(bool(case.case.targets) for case in cases),
                _ranges([case.shape for case in seen if case.shape is not None]),
                _ranges([case.spacing_mm for case in seen]),
            )
    return table


def _ranges(rows: Sequence[Sequence[float]]) -> str:
    """Return least to largest along each axis."""
    return " x ".join(_range(column) for column in zip(*rows, strict=True))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _labels(report: Report) -> Table:
    table = _table("Labels", "value", "name", *(f"{split} cases" for split in SPLITS[:2]), "median ml", "ml")
    for value in label_names(report):
        volumes = {split: _volumes(_of(report, split), value) for split in SPLITS[:2]}
        every = [ml for found in volumes.values() for ml in found]
        counts = [len(found) for found in volumes.values()]
        middle, spread = (f"{median(every):.3g}", _range(every)) if every else ("", "")
        _add(table, value, label_names(report)[value], *counts, middle, spread)
    return table


def label_names(report: Report) -> dict[int, str]:
    """Return value -> name of all labels that have a name or are in a case, by value; those without are numbered."""
    found = {value for case in report.cases for value in case.label_voxels or ()}
    named = report.dataset.labels
    return {value: named.get(value, f"label {value}") for value in sorted(found | named.keys())}


def _volumes(cases: Iterable[CaseReport], value: int) -> list[float]:
    return [case.label_ml[value] for case in cases if case.label_ml is not None and value in case.label_ml]


def _targets(report: Report) -> Table:
    table = _table("Targets", "column", *SPLITS[:2])
    columns = dict.fromkeys(name for case in report.cases for name in case.case.targets)
    for column in columns:
        parts = ([case.case.targets for case in _of(report, split)] for split in SPLITS[:2])
        _add(table, column, *(_sum_up([row[column] for row in rows if column in row]) for rows in parts))
    return table


def _sum_up(values: Sequence[str]) -> str:
    """Return how often each value occurs, or where there are many the range of numbers, or how many there are."""
    counts = Counter(values)
    if len(counts) <= COUNTED:
        return ", ".join(f"{value or '(empty)'}: {count}" for value, count in sorted(counts.items()))
    numbers = [_number(value) for value in counts]
    if all(map(isfinite, numbers)):
        return f"{_range(numbers)}, median {median(map(_number, values)):.3g}"
    return f"{len(counts)} different values"


def _number(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    return nan


def _cases(report: Report) -> Table:
    table = _table(
        "Cases",
        "case",
        "split",
        "subject",
        "shape",
        "spacing mm",
        "axes",
        "min, 1 %, median, 99 %, max",
        "ml",
        "targets",
    )
    for case in report.cases:
        _add(
            table,
            case.case.id,
            case.split,
            case.case.subject if case.case.subject != case.case.id else "",
            " x ".join(map(str, case.shape)) if case.shape is not None else "not read",
            " x ".join(f"{mm:.3g}" for mm in case.spacing_mm) if case.shape is not None else "",
            case.orientation,
            "\n".join(map(_levels, case.intensities)),
            _pairs({str(value): f"{ml:.3g}" for value, ml in (case.label_ml or {}).items()}),
            _pairs(case.case.targets),
        )
    return table


def _levels(intensity: Intensity) -> str:
    values = (intensity.minimum, intensity.low, intensity.median, intensity.high, intensity.maximum)
    return ", ".join(f"{value:.4g}" for value in values)


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _problems(report: Report) -> Table:
    table = _table("Problems", "", "")
    for number, problem in enumerate(report.problems, 1):
        _add(table, number, problem)
    return table
