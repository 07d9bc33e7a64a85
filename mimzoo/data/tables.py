"""Tables of targets: a CSV with a row for each case or subject, and the checks of a column that is to be predicted."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from mimzoo.data.cases import LABELLED, Case, Dataset, nearest
from mimzoo.errors import DataError, suggest

# What the first column may be called, and so what it holds.
KEYS = ("case", "subject", "id")


@dataclass(frozen=True)
class Table:
    """A table by the first column's name (`key`): its rows map a case or subject id to column -> text."""

    path: Path
    key: str
    rows: dict[str, dict[str, str]]

    def key_of(self, case: Case) -> str:
        """Return which row is the case's: that of its id or its subject; under `id`, of its id where there is one."""
        if self.key == "case" or (self.key == "id" and case.id in self.rows):
            return case.id
        return case.subject


# --- reading ----------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> Table:
    """Return the table of a CSV file in UTF-8, separated by commas; spaces around the text of a cell are dropped.

    Raises DataError for a file that is missing, empty, or not CSV in UTF-8, for a header that does not begin with
    case, subject or id, for unnamed or doubled columns, for rows of another length, and for doubled rows.
    """
    lines = _lines(path)
    number, header = next(lines, (0, []))
    if not header:
        raise DataError(f"{path}: is empty; write a header such as case,diagnosis and a row for each case")
    _check_header(path, header)
    rows: dict[str, dict[str, str]] = {}
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {number} has {len(cells)} cell(s), its header {len(header)}; make them equal"
            )
        if cells[0] in rows or not cells[0]:
            what = f"a second row of {cells[0]!r}" if cells[0] else f"a row without a {header[0]}"
            raise DataError(f"{path}: line {number} is {what}; write one row for each {header[0]}")
        rows[cells[0]] = dict(zip(header[1:], cells[1:], strict=True))
    return Table(path, header[0], rows)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is not blank."""
    try:
        # spreadsheets begin UTF-8 with a byte order mark
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the table cannot be read ({error.strerror}); restore it") from error
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text in UTF-8; save it as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}); mend it") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    if header[0] not in KEYS:
        raise DataError(
            f"{path}: the first column is called {header[0]!r}, but must be called case, subject or id; add a header "
            f"with columns separated by commas, such as case,diagnosis"
        )
    for place, name in enumerate(header, 1):
        if not name or name in header[: place - 1]:
            what = f"is called {name!r} as one before it" if name else "has no name"
            raise DataError(f"{path}: column {place} {what}; give each column a name of its own")
    if len(header) < 2:
        raise DataError(f"{path}: has only the column {header[0]!r}; add a column for each target")


def fill(table: Table, cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases with their rows as targets; what a case itself states comes first.

    In a table by case or id, a column `subject` tells whose scan a case is, unless the case states that itself.
    """
    return tuple(_filled(table.rows.get(table.key_of(case), {}), case) for case in cases)


def _filled(row: dict[str, str], case: Case) -> Case:
    stated = case.subject if case.subject != case.id else ""
    return replace(case, subject=stated or row.get("subject", ""), targets={**row, **case.targets})


def mismatches(table: Table, labelled: Sequence[Case], others: Sequence[Case]) -> Iterator[str]:
    """Yield a sentence for each row that is no case's, and for each labelled case (before `fill`) without a row."""
    wanted = {table.key_of(case) for case in (*labelled, *others)}
    for name in table.rows:
        if name not in wanted:
            yield f"{table.path}: the {table.key} {name!r} is not in the data set; {nearest(name, wanted)}"
    for case in labelled:
        key = table.key_of(case)
        if key not in table.rows and not case.targets:
            yield f"{table.path}: there is no row of case {case.id!r}; {nearest(key, table.rows)}"


# --- checks -----------------------------------------------------------------------------------------------------------


def target_of(dataset: Dataset, case: Case, column: str) -> str:
    """Return a case's text in a column, "" where its cell is empty.

    Raises DataError when no labelled case has the column, or when this one has not.
    """
    if column not in case.targets:
        columns = {name for split in LABELLED for other in getattr(dataset, split) for name in other.targets}
        if column not in columns:
            raise DataError(f"{dataset.folder}: its table has no column {column!r}; {suggest(column, columns)}")
        raise DataError(f"{dataset.folder}: case {case.id!r} has no {column!r} among its targets; add it to its entry")
    return case.targets[column]


def check_targets(dataset: Dataset, column: str, classes: Sequence[str] | None) -> None:
    """Check that a column of the labelled cases can be predicted: `classes` names its values, None means a number.

    Raises DataError for an unknown column, for a value outside the classes or no finite number (with the case), and
    for a training or validation part whose cases all have one value: nothing could be learnt or measured there.
    """
    for split in LABELLED:
        values = [_checked(dataset, case, column, classes) for case in getattr(dataset, split)]
        if values and len(set(values)) == 1:
            shown = repr(values[0]) if classes is not None else f"{values[0]:g}"
            raise DataError(
                f"{dataset.folder}: every {split} case has the {column} {shown} ({len(values)} case(s)); at least two "
                f"{'classes' if classes is not None else 'values'} are needed in each part"
            )


def _checked(dataset: Dataset, case: Case, column: str, classes: Sequence[str] | None) -> str | float:
    text = target_of(dataset, case, column)
    if classes is not None:
        if text not in classes:
            raise DataError(
                f"{dataset.folder}: case {case.id!r} has the {column} {text!r}, which is no class; "
                f"{suggest(text, classes)}"
            )
        return text
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DataError(f"{dataset.folder}: case {case.id!r} has the {column} {text!r}, which is no finite number")
    return value
