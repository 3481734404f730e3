"""What the server returns when something is wrong: MC-BUP's table (2.2.1.2), as far as it can be reached.

The rows of the server application (0x7) wait for notifications, those of IIS are IIS's.
"""

from __future__ import annotations

import pytest

from bitsferry.protocol.hresult import HResult

from . import raw
from .ferry import Ferry, Upload
from .raw import Line

NOBODY = "{01234567-89AB-4DEF-8123-456789ABCDEF}"
INVALID = (400, HResult.E_INVALIDARG)
DENIED = (403, HResult.E_ACCESSDENIED)


@pytest.mark.parametrize("kind", ["Fragment", "Close-Session", "Cancel-Session"])
def test_an_unknown_session_is_500_session_not_found(line: Line, kind: str) -> None:
    headers: dict[str, str | None] = {"BITS-Session-Id": NOBODY, "Content-Range": "bytes 0-3/4"}
    answer = line.ask(raw.packet(kind, "/in/a", headers, b"data" if kind == "Fragment" else b""))
    assert answer.verdict == (500, HResult.BG_E_SESSION_NOT_FOUND)


def test_a_destination_that_may_not_be_overwritten_is_403_access_denied(server: Ferry) -> None:
    upload = server.upload()
    upload.file.write_bytes(b"mine")
    assert upload.create().verdict == DENIED


def test_a_destination_that_is_in_the_way_of_a_folder_is_403_access_denied(server: Ferry) -> None:
    file = server.begun()
    file.fragment(b"a file")
    assert server.upload(name=f"{file.file.name}/below").create().verdict == DENIED


def test_a_directory_without_uploads_is_501_access_denied(line: Line) -> None:
    assert line.ask(raw.create("/off/a")).verdict == (501, HResult.E_ACCESSDENIED)


def test_a_wrong_offset_is_416_without_hresult_and_with_the_right_offset(upload: Upload) -> None:
    upload.fragment(b"half", total=8)
    answer = upload.fragment(b"?", at=7)
    assert (answer.verdict, answer.received) == ((416, None), 4)


def test_a_wrong_range_is_400_invalid_argument(upload: Upload) -> None:
    assert upload.fragment(b"data", content_range="bytes 9-12/10").verdict == INVALID


def test_a_changed_total_is_400_invalid_argument(upload: Upload) -> None:
    upload.fragment(b"half", total=8)
    assert upload.fragment(b"half", at=4, total=12).verdict == INVALID


def test_a_header_value_over_4_kib_is_400_invalid_argument(line: Line) -> None:
    assert line.ask(raw.create("/in/a", content_name="n" * 4097)).verdict == INVALID


def test_no_common_protocol_is_400_invalid_argument(line: Line) -> None:
    assert line.ask(raw.create("/in/a", bits_supported_protocols=NOBODY)).verdict == INVALID


@pytest.mark.parametrize("under", ["/in/", "/over/"])
def test_a_destination_that_is_a_folder_is_400_invalid_argument(server: Ferry, under: str) -> None:
    upload = server.upload(under)
    upload.file.mkdir()
    assert upload.create().verdict == INVALID


@pytest.mark.parametrize("under", ["/in/", "/over/"])
def test_a_destination_that_became_a_folder_is_400_invalid_argument(server: Ferry, under: str) -> None:
    upload = server.begun(under)
    upload.file.mkdir()
    assert upload.fragment(b"whole").verdict == INVALID
    assert list(upload.file.iterdir()) == []


def test_an_unknown_packet_type_is_400_invalid_argument(line: Line) -> None:
    assert line.ask(raw.packet("Ack", "/in/a")).verdict == INVALID


def test_a_missing_length_is_411_invalid_argument(line: Line) -> None:
    assert line.ask(raw.ping("/in/a", content_length=None)).verdict == (411, HResult.E_INVALIDARG)


def test_a_file_over_the_limit_is_500_too_large(server: Ferry) -> None:
    upload = server.begun("/small/")
    assert upload.fragment(b"data", total=2**40).verdict == (500, HResult.BG_E_TOO_LARGE)


def test_a_fragment_over_the_limit_is_413_without_hresult(server: Ferry) -> None:
    assert server.begun("/small/").fragment(bytes(601)).verdict == (413, None)


def test_no_room_is_500_disk_full(server: Ferry) -> None:
    upload = server.begun("/quota/")
    assert upload.fragment(b"data", total=2**40).verdict == (500, HResult.ERROR_DISK_FULL)


def test_a_reserve_of_free_space_is_not_touched(server: Ferry) -> None:
    assert server.begun("/full/").fragment(b"data").verdict == (500, HResult.ERROR_DISK_FULL)


def test_a_url_where_nothing_is_served_is_404(line: Line) -> None:
    assert line.ask(raw.create("/nowhere/a")).verdict == (404, None)


def test_a_folder_that_does_not_exist_is_404_path_not_found(line: Line) -> None:
    answer = line.ask(raw.create("/in/nowhere/a"))
    assert answer.verdict == (404, HResult.ERROR_PATH_NOT_FOUND)


def test_a_folder_that_does_not_exist_is_made_where_that_is_allowed(server: Ferry) -> None:
    upload = server.begun("/deep/", "folders/of-its-own/file")
    assert not upload.file.parent.exists()
    assert upload.fragment(b"whole").status == 200
    assert upload.file.read_bytes() == b"whole"


def test_a_folder_that_vanished_before_the_last_fragment_can_come_back(server: Ferry) -> None:
    upload = server.upload(name="vanishing/file")
    upload.file.parent.mkdir()
    assert upload.create().status == 200
    upload.fragment(b"half", total=8)
    upload.file.parent.rmdir()
    refused = upload.fragment(b"half", at=4)
    assert (refused.verdict, refused.received) == ((404, HResult.ERROR_PATH_NOT_FOUND), 8)
    upload.file.parent.mkdir()
    assert upload.fragment(b"half", at=4).verdict == (200, None)
    assert upload.file.read_bytes() == b"halfhalf"


def test_a_file_that_was_fetched_away_before_the_close_is_no_error(upload: Upload) -> None:
    """MC-BUP 3.2.5.2.7 has 404 for a temporary file that vanished; ours was in its place already."""
    upload.fragment(b"whole")
    upload.file.unlink()
    assert upload.close().verdict == (200, None)


def test_a_method_nobody_knows_is_501_and_one_nobody_wants_405(server: Ferry) -> None:
    with server.line() as line:
        assert line.ask(raw.request("PUT /in/a HTTP/1.1", {"Content-Length": "0"})).status == 405
        assert line.ask(raw.request("BITS_PUT /in/a HTTP/1.1", {"Content-Length": "0"})).status == 501
