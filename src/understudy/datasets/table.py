"""CSV files of datasets: read strictly, complained about by file and line."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import DataError
from understudy.index import inside


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


def read_table(path: Path, required: Iterable[str] = ()) -> Table:
    """Reads a CSV file (UTF-8, comma, header line); blank lines are skipped.

    Raises:
        DataError: Missing, not UTF-8 CSV, a missing or repeated column, or a row of another width.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            columns = tuple(cell.strip() for cell in next(reader, []))
            if not columns:
                raise DataError(f"{path}: empty; wanted a header line")
            if len(set(columns)) != len(columns) or "" in columns:
                found = ", ".join(columns)
                raise DataError(f"{path}: header '{found}'; wanted distinct column names")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    found = f"{len(cells)} cells, wanted {len(columns)}: {', '.join(columns)}"
                    raise DataError(f"{path}, line {reader.line_num}: {found}")
                values = (cell.strip() for cell in cells)
                row = Row(line=reader.line_num, cells=dict(zip(columns, values, strict=True)))
                rows.append(row)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    table = Table(path=path, columns=columns, rows=tuple(rows))
    table.require(required)
    if not rows:
        raise DataError(f"{path}: a header and no rows")
    return table
