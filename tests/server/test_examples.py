"""The application in the folder of examples, behind a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import raw
from .conftest import Serve
from .ferry import Ferry

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = """customer,"amount, €",odd
Änne,100,nan
Bob,,1e999999
Cem,-7.5,-sNaN
"""
SUMMARY = """column,values,empty,smallest,largest,sum
customer,3,0,,,
"amount, €",2,1,-7.5,100,92.5
odd,3,0,,,
"""


@pytest.fixture
def ferry(serve: Serve) -> Iterator[Ferry]:
    """A server whose application is the example, run by uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--log-level", "warning"]
        process = subprocess.Popen(
            [*program, "--lifespan", "off", "--fd", str(listener.fileno()), "csv_summary:app"],
            pass_fds=[listener.fileno()],
        )
        port = listener.getsockname()[1]
    try:
        told = f'notification_type = "value"\nnotification_url = "http://127.0.0.1:{port}/"'
        yield serve(directory=told)
    finally:
        process.terminate()
        process.wait(raw.PATIENCE)


def test_a_csv_file_is_answered_with_its_summary_and_anything_else_is_refused(ferry: Ferry) -> None:
    table = TABLE.replace("\n", "\r\n").encode("utf-8-sig")
    upload = ferry.begun()
    ack = upload.send(table, 20)
    upload.line.send(raw.request(f"GET /in/{ack.get('BITS-Reply-URL')} HTTP/1.1", {}))
    assert upload.line.answer().body.decode() == SUMMARY
    assert upload.close().status == 200
    assert upload.file.read_bytes() == table
    for wrong in (b"a,b\n1\n", b"", b"\xff\xfe", b'a,"b\n'):
        upload = ferry.begun()
        answer = upload.fragment(wrong) if wrong else upload.close()
        assert answer.status == 403
        assert not upload.file.exists()
