"""Which URLs name a file, and that nothing ever appears where no URL may reach."""

from __future__ import annotations

import os
from urllib.parse import quote

import pytest

from bitsferry.protocol.hresult import HResult

from . import raw
from .ferry import Ferry
from .raw import Line

FINE = (200, None)
INVALID = (400, HResult.E_INVALIDARG)
DENIED = (403, HResult.E_ACCESSDENIED)
NOBODY = "{01234567-89AB-4DEF-8123-456789ABCDEF}"


def escaped(path: str) -> str:
    """Every byte of every name as an escape."""
    return "/".join("".join(f"%{byte:02X}" for byte in name.encode()) for name in path.split("/"))


# Names that are stored as they are


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("plain.txt", "plain.txt"),
        ("with%20space", "with space"),
        ("plus+plus", "plus+plus"),
        ("%C3%A9t%C3%A9", "été"),
        ("%e6%97%a5%e6%9c%ac", "日本"),
        ("%F0%9F%9A%A2", "🚢"),
        ("%252e%252e", "%2e%2e"),
        ("%252F", "%2F"),
        ("100%25", "100%"),
        ("..a", "..a"),
        ("a..b", "a..b"),
        ("...a", "...a"),
        (".hidden", ".hidden"),
        ("~", "~"),
        ("-rf", "-rf"),
        ("a;b=c", "a;b=c"),
        ("a&b", "a&b"),
        ("'quoted'", "'quoted'"),
        ("{GUID}", "{GUID}"),
        ("$(id)", "$(id)"),
        ("CONSOLE", "CONSOLE"),
        ("COM10", "COM10"),
        ("aCON", "aCON"),
        ("nul-and-void.txt", "nul-and-void.txt"),
        ("xbitsferry", "xbitsferry"),
        ("%EF%BC%8E%EF%BC%8E", "．．"),  # full-width dots are letters like others
        ("n" * 255, "n" * 255),
        ("%C3%A9" * 127 + "n", "é" * 127 + "n"),
    ],
)
def test_a_name_is_stored_as_it_is_said(server: Ferry, target: str, name: str) -> None:
    upload = server.upload(name=f"names/{target}")
    upload.file.parent.mkdir(exist_ok=True)
    assert upload.create().verdict == FINE
    assert upload.fragment(b"here").verdict == FINE
    assert name in os.listdir(upload.file.parent)


def test_a_query_is_no_part_of_the_name(server: Ferry) -> None:
    upload = server.upload()
    upload.url += "?../../name=/x&y"
    assert upload.create().verdict == FINE
    assert upload.fragment(b"here").verdict == FINE
    assert upload.file.read_bytes() == b"here"


def test_an_upper_case_name_is_another_file(server: Ferry) -> None:
    lower, upper = server.begun(name="letters"), server.begun(name="LETTERS")
    lower.fragment(b"lower")
    upper.fragment(b"UPPER")
    assert (lower.file.read_bytes(), upper.file.read_bytes()) == (b"lower", b"UPPER")


# Names that are none

BAD_NAMES = {
    "nothing": "",
    "dot": ".",
    "two dots": "..",
    "dots as escapes": "%2e%2e",
    "dots half as escapes": ".%2E",
    "up and away": "../../../tmp/evil",
    "up and away as escapes": "%2e%2e/%2e%2e/tmp/evil",
    "up and away within a name": "..%2f..%2fevil",
    "up inside": "a/../../evil",
    "to itself": "./evil",
    "empty folder": "a//b",
    "absolute": "/tmp/evil",
    "absolute as an escape": "%2ftmp%2fevil",
    "escaped slash": "a%2Fb",
    "backslash": "..\\..\\evil",
    "escaped backslash": "..%5c..%5cevil",
    "backslash inside": "a%5Cb",
    "NUL": "evil%00.txt",
    "NUL alone": "%00",
    "line feed": "a%0Ab",
    "carriage return": "a%0D%0Ab",
    "tab": "a%09b",
    "escape": "a%1Bb",
    "delete": "a%7Fb",
    "control of Latin-1": "a%C2%85b",
    "stream": "a:b",
    "stream as an escape": "file.txt%3Ahidden",
    "default stream": "a::$DATA",
    "drive": "C:",
    "drive and name": "C:evil.txt",
    "question mark as an escape": "a%3Fb",
    "star": "a*b",
    "less": "a%3Cb",
    "greater": "a%3Eb",
    "quote": "a%22b",
    "pipe": "a%7Cb",
    "trailing dot": "a.",
    "trailing dots": "a...",
    "trailing space": "a%20",
    "space alone": "%20",
    "three dots": "...",
    "trailing slash": "a/",
    "256 bytes": "n" * 256,
    "256 bytes of letters of two": "%C3%A9" * 128,
    "the store": ".bitsferry",
    "the store in capitals": ".BitsFerry",
    "what is on its way": ".bitsferry-01234567-89AB-4DEF-8123-456789ABCDEF.step",
    "not UTF-8": "a%FFb",
    "half a letter": "a%C3",
    "overlong slash": "..%C0%AF..%C0%AFevil",
    "half a pair": "%ED%A0%80",
    "bad escape": "a%zzb",
    "escape cut off": "a%2",
    "percent alone": "100%",
}
DEVICES = ["CON", "con", "Con.txt", "con.tar.gz", "NUL", "nul.txt", "PRN", "AUX", "aux.h", "COM1", "com9.log"]
DEVICES += ["LPT1", "lpt9", "COM%C2%B9", "LPT%C2%B2.txt", "CONIN$", "CONOUT$", "NUL%20.txt", "CON%20"]


@pytest.mark.parametrize("name", [*BAD_NAMES.values(), *DEVICES], ids=[*BAD_NAMES, *DEVICES])
def test_what_is_no_name_gets_400_from_every_packet_and_nothing_appears(
    server: Ferry, line: Line, name: str
) -> None:
    before = server.files
    url = f"/deep/{name}"
    packets = [
        raw.create(url),
        raw.fragment(url, NOBODY, b"evil"),
        raw.close(url, NOBODY),
        raw.cancel(url, NOBODY),
    ]
    assert [line.ask(packet).verdict for packet in packets] == [INVALID] * 4
    assert server.files == before


@pytest.mark.parametrize("name", ["..", "%2e%2e", ".", "CON", "a.", "a%20", "a:b", "a%5Cb", ".bitsferry", ""])
def test_what_is_no_name_is_none_for_a_folder_either(server: Ferry, line: Line, name: str) -> None:
    before = server.files
    assert line.ask(raw.create(f"/deep/{name}/file")).verdict == INVALID
    assert line.ask(raw.create(f"/deep/below/{name}/file")).verdict == INVALID
    assert server.files == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_ping_to_what_is_no_name_harms_nothing(line: Line, name: str) -> None:
    assert line.ask(raw.ping(f"/deep/{BAD_NAMES[name]}")).status in (200, 400, 404)


def test_one_directory_is_not_reached_through_another(server: Ferry, line: Line) -> None:
    before = server.files
    for url in ("/in/../over/evil", "/in/%2e%2e/over/evil", "/in%2f..%2fover%2fevil", "/in/../../store/evil"):
        assert line.ask(raw.create(url)).verdict == INVALID
    assert server.files == before


def test_a_letter_beyond_ascii_must_be_escaped(server: Ferry) -> None:
    with server.line() as line:
        assert line.ask(raw.create("/in/" + "été".encode().decode("latin-1"))).verdict == INVALID


def test_a_path_is_the_same_with_every_letter_escaped(server: Ferry) -> None:
    upload = server.upload()
    upload.url = "/in/" + escaped(upload.file.name)
    assert upload.create().verdict == FINE
    upload.url = "/in/" + quote(upload.file.name)
    assert upload.fragment(b"here").verdict == FINE
    assert upload.file.read_bytes() == b"here"


# Links


@pytest.mark.parametrize("under", ["/in/", "/over/", "/deep/"])
def test_a_folder_that_is_a_link_is_never_entered(server: Ferry, under: str) -> None:
    outside = server.folder / "in"
    upload = server.upload(under, f"link-{under.strip('/')}/file-behind-a-link")
    upload.file.parent.symlink_to(outside, target_is_directory=True)
    assert upload.create().verdict == DENIED
    assert not (outside / "file-behind-a-link").exists()


@pytest.mark.parametrize("under", ["/in/", "/over/", "/deep/"])
def test_a_folder_that_became_a_link_is_never_entered(server: Ferry, under: str) -> None:
    outside = server.folder / "in"
    upload = server.upload(under, f"later-{under.strip('/')}/file-behind-a-later-link")
    upload.file.parent.mkdir()
    assert upload.create().verdict == FINE
    upload.file.parent.rmdir()
    upload.file.parent.symlink_to(outside, target_is_directory=True)
    assert upload.fragment(b"evil").verdict == DENIED
    assert not (outside / "file-behind-a-later-link").exists()


def test_a_file_that_is_a_link_is_never_written_through(server: Ferry) -> None:
    outside = server.folder / "precious"
    outside.write_bytes(b"mine")
    refused = server.upload()
    refused.file.symlink_to(outside)
    assert refused.create().verdict == DENIED
    late = server.begun()
    late.file.symlink_to(outside)
    assert late.fragment(b"evil").verdict == DENIED
    assert outside.read_bytes() == b"mine"


def test_where_overwriting_is_allowed_a_link_is_replaced_and_not_followed(server: Ferry) -> None:
    outside = server.folder / "valuable"
    outside.write_bytes(b"mine")
    upload = server.upload("/over/")
    upload.file.symlink_to(outside)
    assert upload.create().verdict == FINE
    assert upload.fragment(b"new").verdict == FINE
    assert not upload.file.is_symlink()
    assert upload.file.read_bytes() == b"new"
    assert outside.read_bytes() == b"mine"


def test_a_link_to_nothing_is_not_filled(server: Ferry) -> None:
    nothing = server.folder / "nothing-there"
    upload = server.upload()
    upload.file.symlink_to(nothing)
    assert upload.create().verdict == DENIED
    assert not nothing.exists()
