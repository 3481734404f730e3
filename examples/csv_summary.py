"""An application that answers each uploaded CSV file with a summary of it, as plain ASGI.

    uvicorn --app-dir examples --port 9000 csv_summary:app

and in bitsferry.toml:

    [[directory]]
    url = "/in/"
    folder = "in"
    notification_type = "value"
    notification_url = "http://127.0.0.1:9000/"

A client that uploads `may.csv` with the columns `customer` and `amount` gets a reply such as

    column,values,empty,smallest,largest,sum
    customer,3,0,,,
    amount,3,0,7.5,100,120.0

A file that is no CSV is refused.
"""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

IN_MEMORY = 1 << 20  # bytes of an upload; a larger one waits in a temporary file


@dataclass
class Column:
    """What is known of a column; the figures are None where a value is no number."""

    name: str
    values: int = 0
    empty: int = 0
    smallest: Decimal | None = None
    largest: Decimal | None = None
    sum: Decimal | None = Decimal(0)

    def add(self, value: str) -> None:
        """Take one more value into account."""
        if not value.strip():
            self.empty += 1
            return
        self.values += 1
        if self.sum is None:
            return
        try:
            number = Decimal(value.strip())
            self.sum += number
        except ArithmeticError:  # no number, or one beyond all measure
            self.smallest = self.largest = self.sum = None
            return
        self.smallest = number if self.smallest is None else self.smallest.min(number)
        self.largest = number if self.largest is None else self.largest.max(number)


def summary(lines: Iterable[str]) -> str:
    """A line for each column. Raises ValueError for what is no CSV with a heading."""
    rows = csv.reader(lines, strict=True)
    try:
        columns = [Column(name) for name in next(rows, [])]
        if not columns:
            raise ValueError("there is no heading")
        for row in rows:
            if row and len(row) != len(columns):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} values, the heading has {len(columns)}"
                )
            for column, value in zip(columns, row, strict=False):
                column.add(value)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("column", "values", "empty", "smallest", "largest", "sum"))
    for each in columns:
        total = each.sum if each.values else None
        writer.writerow((each.name, each.values, each.empty, each.smallest, each.largest, total))
    return out.getvalue()


def answer(file: IO[bytes]) -> tuple[int, bytes]:
    """The status and the reply. After 403 nobody asks again, so it is said only when the file is at fault."""
    try:
        with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            return 200, summary(text).encode()
    except ValueError as error:  # UnicodeDecodeError is one
        return 403, f"{error}\n".encode()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Read the body, answer with its summary."""
    if scope["type"] != "http":
        return
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            file.write(message.get("body", b""))
            if not message.get("more_body", False):
                break
        file.seek(0)
        status, reply = await asyncio.to_thread(answer, file)
    headers = [
        (b"content-type", b"text/csv; charset=utf-8"),
        (b"content-length", str(len(reply)).encode()),
        (b"bits-copy-file-to-destination", b"yes"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reply})
