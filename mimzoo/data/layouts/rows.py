"""Rows of the CSV files that are downloaded beside scans."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mimzoo.errors import DataError


@dataclass(frozen=True)
class Rows:
    """A CSV file, and its rows as texts by the names that an adapter gives the columns."""

    path: Path
    rows: tuple[dict[str, str], ...]


def read_rows(folder: Path, columns: Mapping[str, tuple[str, ...]], where: str) -> Rows:
    """Return the rows of the one CSV file in the folder that has the first of the columns.

    `columns` maps a name to what that column may be called in the file; `where` tells where such a file comes from.
    Raises DataError when there is no such file or more than one, and when it lacks another of the columns.
    """
    tables = {path: _lines(path) for path in sorted(folder.glob("*.csv")) if not path.name.startswith(".")}
    key = next(iter(columns.values()))
    found = [path for path, lines in tables.items() if lines and set(lines[0]) & set(key)]
    if len(found) != 1:
        seen = ", ".join(path.name for path in found or tables) or "none"
        raise DataError(
            f"{folder}: needs one CSV file with the column {_or(key)}, but has {len(found) or 'none'} (CSV "
            f"files: {seen}); {where}"
        )
    header, *lines = tables[found[0]]
    for names in columns.values():
        if not set(header) & set(names):
            raise DataError(f"{found[0]}: has no column {_or(names)} (it has {', '.join(header)}); {where}")
    cells = [dict(zip(header, line, strict=False)) for line in lines]
    return Rows(found[0], tuple(_named(row, columns) for row in cells))


def refuse_unknown(table: Rows, subjects: Iterable[str]) -> None:
    """Check that a CSV file knows each subject of whom there is an image; DataError names the first that it does not.

    Then it is the file of another download, and what it says of the others is not to be believed either.
    """
    unknown = sorted(set(subjects) - {row["subject"] for row in table.rows})
    if unknown:
        more = f" and {len(unknown) - 1} more subjects" if len(unknown) > 1 else ""
        raise DataError(
            f"{table.path}: does not list subject {unknown[0]!r}{more}, of whom there are images; put the CSV file of "
            f"these images into the folder, or move the images out of it"
        )


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def _lines(path: Path) -> list[list[str]]:
    """Return the cells of each line that is not blank; spaces around them are dropped."""
    # Names of sites and free text are not always UTF-8, but nothing that is used here is affected.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        lines = [[cell.strip() for cell in line] for line in csv.reader(stream)]
    return [line for line in lines if any(line)]


def _named(row: Mapping[str, str], columns: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: next((row[key] for key in keys if key in row), "") for name, keys in columns.items()}
