"""A name template puts an upload where it says, and nowhere else, whatever its client is called."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol.errors import DestinationExists, InvalidName
from bitsferry.protocol.session import Session
from bitsferry.server.directory import Directories, Directory
from bitsferry.server.names import check_name
from bitsferry.server.service import Service
from bitsferry.server.template import ANONYMOUS, NameTemplate, folder_name
from bitsferry.store.local import LocalStore

from .speaking import Speaker, guid_of

NOON = 1772366400.0  # 2026-03-01T12:00:00Z
GUID = "A0FF5911-1111-2222-3333-444444444444"


def landed(template: str, *said: str, user: str | None = "alice", address: str = "192.0.2.7") -> str:
    session = Session(GUID, "/in/" + "/".join(said), user, NOON, address=address)
    return "/".join(NameTemplate(template).parts(session, said))


@pytest.mark.parametrize(
    ("template", "file"),
    [
        ("{user}/{date}/{name}", "alice/2026-03-01/a.tar.gz"),
        ("{path}", "case7/a.tar.gz"),
        ("{user}/{path}", "alice/case7/a.tar.gz"),
        ("{stem}-{session}{suffix}", f"a.tar-{GUID}.gz"),
        ("in/{client_address}/{time}-{name}", "in/192.0.2.7/120000-a.tar.gz"),
        ("{date}", "2026-03-01"),
    ],
)
def test_fields_say_what_is_known_of_the_upload(template: str, file: str) -> None:
    assert landed(template, "case7", "a.tar.gz") == file


@pytest.mark.parametrize(
    ("user", "folder"),
    [
        ("alice", "alice"),
        ("Jürgen Straße", "Jürgen Straße"),
        ("alice@EXAMPLE.COM", "alice@EXAMPLE.COM"),
        ("DOMAIN\\alice", "DOMAIN%5Calice"),
        ("host/a.example", "host%2Fa.example"),
        ("../../etc", "%2E.%2F..%2Fetc"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("", "%"),
        ("100%", "100%25"),
        ("a:b*?", "a%3Ab%2A%3F"),
        ("CON", "%43ON"),
        ("nul.txt", "%6Eul.txt"),
        ("dot.", "dot%2E"),
        (" x ", "%20x%20"),
        (".bitsferry", "%2Ebitsferry"),
        ("a\0b\n", "a%00b%0A"),
        (ANONYMOUS, "%61nonymous"),
        ("ANONYMOUS", "%41NONYMOUS"),
    ],
)
def test_any_user_has_a_folder(user: str, folder: str) -> None:
    assert landed("{user}/x", "x", user=user) == f"{folder}/x"


@given(st.text(max_size=60).filter(lambda user: len(user.encode("utf-8", "surrogatepass")) <= 80))
def test_no_two_users_share_a_folder_and_none_leads_out(user: str) -> None:
    name = folder_name(user)
    check_name(name)
    assert "/" not in name
    assert name != ANONYMOUS
    assert user == ("" if name == "%" else unquote(name, errors="surrogatepass"))


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("2001:db8::7", "2001-db8--7"),
        ("::1", "--1"),
        ("fe80::1%eth0", "fe80--1%25eth0"),
        ("", "local"),
        ("../x", "%2E.%2Fx"),
    ],
)
def test_any_address_has_a_folder(address: str, part: str) -> None:
    assert landed("{client_address}/x", "x", address=address) == f"{part}/x"


def test_who_did_not_say_a_name_is_anonymous() -> None:
    assert landed("{user}/x", "x", user=None) == "anonymous/x"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{host}/{name}", "there is no {host}"),
        ("{Name}", "there is no {Name}"),
        ("{}", "there is no {}"),
        ("{name", "a brace"),
        ("{{name}}", "a brace"),
        ("", "an empty part"),
        ("/{name}", "an empty part"),
        ("{user}/", "an empty part"),
        ("{user}//{name}", "an empty part"),
        ("../{name}", "'..'"),
        ("{user}/../{name}", "'..'"),
        ("a\\{name}", "cannot store"),
        ("{user}:{name}", "cannot store"),
        (".bitsferry/{name}", "belong to the server"),
        ("nul/{name}", "a device"),
        ("{suffix}/{name}", "an empty part"),
        ("{stem}.", "ends in a dot"),
    ],
)
def test_a_template_that_names_no_file_is_refused(template: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).") as refused:
        NameTemplate(template)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("template", "name"), [("{stem}/{name}", "a .txt"), ("{stem}-{session}{suffix}", "n" * 240)]
)
def test_a_name_that_the_template_makes_impossible_is_refused(template: str, name: str) -> None:
    with pytest.raises(InvalidName):
        landed(template, name)


# Uploads


def served(store: LocalStore, folder: Path, template: str, *, overwrites: bool = False) -> Service:
    directory = Directory(
        "/in/", str(folder), name_template=NameTemplate(template), allow_overwrites=overwrites
    )
    return Service(store, Directories([directory]), clock=lambda: NOON)


@pytest.mark.anyio
async def test_many_send_the_same_name_and_none_meets_another(store: LocalStore, folder: Path) -> None:
    service = served(store, folder, "{user}/{date}/{name}")
    for user in ("alice", "bob", "DOMAIN\\bob", None):
        speaker = Speaker(service, user)
        session = await speaker.create()
        data = repr(user).encode()
        await speaker.send(session, data, 0, len(data))
        await speaker.close(session)
    assert {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("file.bin")} == {
        "alice/2026-03-01/file.bin": "'alice'",
        "bob/2026-03-01/file.bin": "'bob'",
        "DOMAIN%5Cbob/2026-03-01/file.bin": "'DOMAIN\\\\bob'",
        "anonymous/2026-03-01/file.bin": "None",
    }


@pytest.mark.anyio
async def test_an_open_upload_keeps_its_place(store: LocalStore, folder: Path) -> None:
    """Neither a restart nor other settings move it: the place was given when it began."""
    speaker = Speaker(served(store, folder, "first/{name}"), "alice")
    session = await speaker.create()
    await speaker.send(session, b"by", 0, 5)
    for template in ("second/{name}", "third/{name}"):
        speaker = Speaker(served(store, folder, template), "alice")
        await speaker.send(session, b"tes", 2, 5)
    await speaker.close(session)
    assert [path.relative_to(folder) for path in folder.rglob("*.bin")] == [Path("first/file.bin")]


@pytest.mark.anyio
async def test_a_crash_before_the_state_was_saved_publishes_to_the_same_place(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker(served(store, folder, "{session}/{name}"), "alice")
    session = await speaker.create()

    def crash(*_: object) -> None:
        raise RuntimeError("the end")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "publish", crash)
        with pytest.raises(RuntimeError):
            await speaker.send(session, b"bytes", 0, 5)
    store.forget(guid_of(session))
    speaker = Speaker(served(store, folder, "elsewhere/{name}"), "alice")
    await speaker.send(session, b"s", 4, 5)
    assert [path.relative_to(folder) for path in folder.rglob("*.bin")] == [
        Path(guid_of(session)) / "file.bin"
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("overwrites", [False, True])
async def test_the_same_place_is_given_once(store: LocalStore, folder: Path, overwrites: bool) -> None:
    speaker = Speaker(served(store, folder, "{date}/{name}", overwrites=overwrites), "alice")
    first, second = await speaker.create("/in/f"), await speaker.create("/in/f")
    await speaker.send(second, b"second", 0, 6, "/in/f")
    if overwrites:
        await speaker.send(first, b"first", 0, 5, "/in/f")
    else:
        with pytest.raises(DestinationExists):
            await speaker.send(first, b"first", 0, 5, "/in/f")
        with pytest.raises(DestinationExists):
            await speaker.create("/in/f")
    assert (folder / "2026-03-01/f").read_bytes() == (b"first" if overwrites else b"second")
