"""CSV files of datasets: read strictly, complained about by file and line."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import DataError
from understudy.index import inside

csv.field_size_limit(2**24)  # descriptions of albums are long


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record: its cells by column, and the `line` of the file (from 1) on which it ends."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV file with a header; cells are text without surrounding blanks."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def error(self, row: Row, column: str, wanted: str) -> DataError:
        """The error for a cell that is not what was wanted."""
        return DataError(f"{self.path}, line {row.line}: {column} '{row[column]}'; wanted {wanted}")

    def require(self, columns: Iterable[str]) -> None:
        """DataError where one of `columns` is missing."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            found = ", ".join(self.columns)
            raise DataError(f"{self.path}: no column {', '.join(missing)}; found {found}")

    def choice(self, row: Row, column: str, choices: Iterable[str]) -> str:
        """The cell, which must be one of `choices`."""
        choices = list(choices)
        if row[column] not in choices:
            listed = ", ".join(f"'{c}'" for c in choices[:20]) + (", ..." if choices[20:] else "")
            raise self.error(row, column, f"one of {listed}")
        return row[column]

    def integer(self, row: Row, column: str, low: int, high: int) -> int:
        """The cell as an integer from `low` to `high`, in plain ASCII digits."""
        text = row[column]
        if text.isascii() and text.isdigit() and len(text) < 18 and low <= int(text) <= high:
            return int(text)
        raise self.error(row, column, f"an integer from {low} to {high}")

    def number(self, row: Row, column: str, low: float, high: float) -> float:
        """The cell as a finite number from `low` to `high`."""
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise self.error(row, column, f"a number from {low} to {high}")
        return value

    def file(self, row: Row, column: str, root: Path, prefix: str = "") -> str:
        """The cell as a path inside `root`, behind `prefix`."""
        path = prefix + row[column]
        if not row[column]:
            raise self.error(row, column, "a path inside the root")
        try:
            inside(root, path)
        except DataError as error:
            raise DataError(f"{self.path}, line {row.line}: {error}") from None
        return path

    def distinct(self, column: str) -> None:
        """DataError where two rows have the same cell in `column`."""
        seen: dict[str, int] = {}
        for row in self.rows:
            first = seen.setdefault(row[column], row.line)
            if first != row.line:
                raise self.error(row, column, f"each once, but line {first} has it too")


def read_table(
    path: Path,
    required: Iterable[str] = (),
    *,
    delimiter: str = ",",
    header_lines: int = 1,
    others: bool = True,
) -> Table:
    """Reads a CSV file (UTF-8, header on top); blank lines are skipped.

    Args:
        path: The file.
        required: Columns that it must have.
        delimiter: Between cells.
        header_lines: Of several, a column's name is what they say of it, joined by "/".
        others: Keep the columns that are not required.

    Raises:
        DataError: Missing, not UTF-8 CSV, a missing or repeated column, or a row of another width.
    """
    required = tuple(required)
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            columns = _header(path, [next(reader, []) for _ in range(header_lines)])
            kept = [i for i, column in enumerate(columns) if others or column in required]
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    found = f"{len(cells)} cells, wanted {len(columns)}: {', '.join(columns)}"
                    raise DataError(f"{path}, line {reader.line_num}: {found}")
                values = {columns[i]: cells[i].strip() for i in kept}
                rows.append(Row(line=reader.line_num, cells=values))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    table = Table(path=path, columns=columns, rows=tuple(rows))
    table.require(required)
    if not rows:
        raise DataError(f"{path}: a header and no rows")
    return table


def _header(path: Path, lines: list[list[str]]) -> tuple[str, ...]:
    if not lines[0]:
        raise DataError(f"{path}: empty; wanted a header line")
    if len({len(line) for line in lines}) > 1:
        raise DataError(f"{path}: wanted {len(lines)} header lines of equal width")
    stripped = [[cell.strip() for cell in line] for line in lines]
    columns = tuple("/".join(filter(None, cells)) for cells in zip(*stripped, strict=True))
    if len(set(columns)) != len(columns) or "" in columns:
        raise DataError(f"{path}: header '{', '.join(columns)}'; wanted distinct column names")
    return columns
