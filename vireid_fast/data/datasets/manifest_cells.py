"""The cells of a manifest file, CSV or Parquet, as text by column."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vireid_fast.data.datasets.findings import Findings
from vireid_fast.data.table import DatasetError, name_some

REQUIRED = ("path", "person_id", "modality", "split")
OPTIONAL = ("camera_id", "tracklet", "frame")
T = TypeVar("T")


@dataclass
class Cells:
    """The cells of the known columns; a cell without a value is "".

    Attributes:
        file: The manifest.
        unit: What its rows are called: "line" of a CSV file, "row" of a Parquet file.
        numbers: Number of each row, as a user counts them.
        columns: Column name -> texts without surrounding white space.
    """

    file: Path
    unit: str
    numbers: list[int]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.numbers)

    def parse(
        self,
        name: str,
        parse: Callable[[str], T | None],
        requirement: str,
        findings: Findings,
    ) -> list[T | None]:
        """Values of a column; texts that `parse` takes for None are named in one problem."""
        values = [parse(text) for text in self.columns[name]]
        bad = [row for row, value in enumerate(values) if value is None]
        self.report(name, bad, requirement, findings)
        return values

    def report(
        self, name: str, rows: Sequence[int], requirement: str, findings: Findings
    ) -> None:
        """A problem that names the cells of a column in some rows; none without rows."""
        if rows:
            some = (f"{self.columns[name][row]!r} in {self.place(row)}" for row in rows)
            findings.problems.append(
                f"{self.file}: {name} must {requirement}, got {name_some(some, 3)}. "
                f"Correct the {self.unit}s."
            )

    def place(self, row: int) -> str:
        """Where a row stands in the file, such as "line 7"."""
        return f"{self.unit} {self.numbers[row]}"

    def keep(self, rows: Sequence[int]) -> "Cells":
        """The cells of some rows."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Cells(self.file, self.unit, [self.numbers[row] for row in rows], columns)


def read_cells(file: Path, findings: Findings) -> Cells:
    """Read the known columns of a `.csv` or `.parquet` manifest; others are ignored.

    Args:
        file: The manifest. CSV is UTF-8, with commas and a header line; blank lines are skipped.
        findings: Receives CSV lines that have more or less cells than the header.

    Raises:
        DatasetError: The file is unreadable, or a required column is missing or doubled.
        RuntimeError: A Parquet file without pyarrow.
    """
    return _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file, findings)


def _require_columns(file: Path, present: Sequence[str]) -> list[str]:
    """The known columns among those present, in the order of the file."""
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise DatasetError(
            f"{file}: the manifest must have the columns {', '.join(REQUIRED)}, got "
            f"{name_some(map(repr, present), 20) or 'no header'} without {', '.join(missing)}. Add "
            f"the "
            f"missing column{'s' * (len(missing) > 1)}."
        )
    doubled = sorted(
        name if name.isprintable() else repr(name)
        for name, count in Counter(present).items()
        if count > 1
    )
    if doubled:
        raise DatasetError(
            f"{file}: the manifest must name each column once, got "
            f"{name_some(doubled)} repeatedly."
        )
    return [name for name in present if name in (*REQUIRED, *OPTIONAL)]


def _read_csv(file: Path, findings: Findings) -> Cells:
    try:
        # csv needs the line ends as they are, within quotes too.
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            known = _require_columns(file, header)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{file}: the manifest must be a readable CSV file in UTF-8, got {error}."
        ) from error
    torn = [f"{len(row)} in line {n}" for n, row in rows if len(row) != len(header)]
    if torn:
        findings.problems.append(
            f"{file}: every line must have {len(header)} cells as the header, got "
            f"{name_some(torn, 3)}. Quote cells that hold a comma."
        )
    rows = [(n, row) for n, row in rows if len(row) == len(header)]
    columns = {name: [row[header.index(name)].strip() for _, row in rows] for name in known}
    return Cells(file, "line", [n for n, _ in rows], columns)


def _read_parquet(file: Path) -> Cells:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RuntimeError(
            f"{file}: the package pyarrow must be installed to read Parquet, got none. "
            "Run: pip install pyarrow, or write the manifest as CSV."
        ) from error
    try:
        # pre_buffer would start threads that read what the checks below refuse.
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as parquet:
            known = _require_columns(file, parquet.schema_arrow.names)
            _require_plausible_size(file, parquet.metadata)
            table = parquet.read(columns=known, use_threads=False)
        columns = {name: list(_texts(table.column(name).to_pylist())) for name in known}
    except DatasetError:
        raise
    # Damaged pages surface as many types: OSError, ArrowException, UnicodeDecodeError, MemoryError.
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        raise DatasetError(
            f"{file}: the manifest must be a readable Parquet file, got {reason}."
        ) from error
    return Cells(file, "row", list(range(1, table.num_rows + 1)), columns)


def _require_plausible_size(file: Path, metadata: Any) -> None:
    """Raise DatasetError where a small file says that it unpacks to a huge table."""
    size = file.stat().st_size
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    unpacked = sum(group.column(n).total_uncompressed_size for group in groups
                   for n in range(group.num_columns))  # fmt: skip
    # Paths differ from row to row, so that each takes some bits however it is packed.
    for what, got, limit in (
        ("rows", metadata.num_rows, max(1 << 20, 16 * size)),
        ("unpacked bytes", unpacked, max(64 << 20, 100 * size)),
    ):
        if got > limit:
            raise DatasetError(
                f"{file}: the manifest must be a readable Parquet file, got {size:,} bytes that "
                f"claim {got:,} {what}, more than {limit:,}. Write it anew, or as CSV."
            )


def _texts(values: Sequence[object]) -> Iterator[str]:
    """Values as text; a missing one, also pandas' NaN, is ""."""
    for value in values:
        if value is None or value != value:
            yield ""
        # Columns of integers in which some are missing become floats in pandas.
        elif isinstance(value, float) and value.is_integer():
            yield str(int(value))
        else:
            yield str(value).strip()
