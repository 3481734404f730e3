"""NTLM: who knows the password is let in, for one connection; whoever does not, is not."""

from __future__ import annotations

import asyncio
import base64
import struct
from pathlib import Path

import pytest

from bitsferry.access.ntlm import Ntlm
from bitsferry.access.scheme import Claim, GoOn, NotProved

from .windows_peer import PASSWORDS, Client, Connection, all_cuts, hashes

_MIC = slice(72, 88)


@pytest.fixture
def scheme(tmp_path: Path) -> Ntlm:
    return Ntlm(hashes(tmp_path))


@pytest.fixture
def line(scheme: Ntlm) -> Connection:
    return Connection(scheme)


def payload(message: bytes | bytearray, field: int) -> slice:
    """Where a field of the last message lies: 12 is the LM response, 20 the NT response."""
    length, _, start = struct.unpack_from("<HHI", message, field)
    return slice(start, start + length)


@pytest.mark.parametrize(
    ("said", "known_as"),
    [
        ("alice", "alice"),
        ("ALICE", "alice"),
        ("ANYWHERE\\Alice", "alice"),
        ("CORP\\bob", "CORP\\Bob"),
        ("corp\\BOB", "CORP\\Bob"),
        ("zoë", "Zoë"),
    ],
)
def test_the_user_is_called_as_the_file_spells_it(line: Connection, said: str, known_as: str) -> None:
    identity = line.meets(Client(said, PASSWORDS[known_as]))
    assert identity is not None
    assert (identity.user, identity.scheme) == (known_as, "ntlm")


@pytest.mark.parametrize(
    ("user", "password"),
    [("alice", "Secret"), ("nobody", "secret"), ("OTHER\\Bob", "another secret"), ("Bob", "another secret")],
)
def test_a_wrong_password_and_an_unknown_user_look_the_same(
    line: Connection, user: str, password: str
) -> None:
    with pytest.raises(NotProved, match=r"^wrong user or password$"):
        line.meets(Client(user, password))
    assert line.ask() is None


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_responses_older_than_ntlmv2_are_refused(
    line: Connection, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    with pytest.raises(NotProved, match="no NTLMv2"):
        line.meets(Client())


def test_nobody_in_particular_is_refused(line: Connection) -> None:
    message = bytearray(line.last_leg(Client()))
    message[60 + 1] |= 0x08  # ANONYMOUS
    with pytest.raises(NotProved, match="anonymous"):
        line.ask(bytes(message))
    message = bytearray(line.last_leg(Client()))
    for field in (12, 20, 28, 36):
        message[field : field + 4] = bytes(4)
    with pytest.raises(NotProved, match="anonymous"):
        line.ask(bytes(message))


def test_messages_that_were_changed_on_their_way_are_refused(line: Connection) -> None:
    message = line.last_leg(Client())
    assert message[_MIC] != bytes(16)  # asked for by the time in our challenge
    forged = message[: _MIC.start] + bytes(16) + message[_MIC.stop :]
    with pytest.raises(NotProved, match="changed on their way"):
        line.ask(forged)

    client = Client()
    first = bytearray(client.step())
    first[12] ^= 0x40  # a flag nobody needs, so that all goes well but for the MIC
    with pytest.raises(NotProved, match="changed on their way"):
        line.ask(client.step(line.challenged(bytes(first))))


def test_what_says_that_there_is_a_mic_cannot_be_struck_out(line: Connection) -> None:
    message = bytearray(line.last_leg(Client()))
    response = payload(message, 20)
    at = message.index(struct.pack("<HHI", 6, 4, 2), response.start)  # MsvAvFlags
    message[at + 4] = 0
    with pytest.raises(NotProved, match="wrong user or password"):
        line.ask(bytes(message))


def test_an_answer_to_another_server_is_refused(line: Connection, tmp_path: Path) -> None:
    """Its challenge is ours, so that only what it says of the server tells the two apart."""
    client = Client()
    challenge = line.challenged(client.step())
    name = "BITSFERRY".encode("utf-16-le")
    assert challenge.count(name) == 3
    with pytest.raises(NotProved, match="for another server"):
        line.ask(client.step(challenge.replace(name, "CORP-MAIL".encode("utf-16-le"))))


def test_each_challenge_is_new_and_answered_once(line: Connection, scheme: Ntlm) -> None:
    client = Client()
    challenge = line.challenged(client.step())
    message = client.step(challenge)
    assert line.challenged(Client().step())[24:32] != challenge[24:32]
    with pytest.raises(NotProved, match="wrong user or password"):
        line.ask(message)  # that was for the challenge before

    message = line.last_leg(Client())
    assert line.ask(message) is not None
    with pytest.raises(NotProved, match="no handshake is under way"):
        line.ask(message)
    assert line.ask() is None  # and who was known is not, any more

    other = Connection(scheme)
    with pytest.raises(NotProved, match="no handshake is under way"):
        other.ask(message)
    other.challenged(Client().step())
    with pytest.raises(NotProved, match="wrong user or password"):
        other.ask(message)


def test_a_wrong_answer_cannot_be_tried_again(line: Connection) -> None:
    client = Client("alice", "guess")
    message = line.last_leg(client)
    for reason in ("wrong user or password", "no handshake is under way"):
        with pytest.raises(NotProved, match=reason):
            line.ask(message)


def test_a_new_handshake_ends_what_was_known(line: Connection) -> None:
    assert line.meets(Client()) is not None
    line.challenged(Client("CORP\\Bob", "another secret").step())
    assert line.ask() is None
    identity = line.meets(Client("CORP\\Bob", "another secret"))
    assert identity is not None
    assert line.ask() == identity


def test_what_goes_on_is_believed_while_the_connection_lasts(line: Connection, scheme: Ntlm) -> None:
    identity = line.meets(Client(), begins=True)
    assert [line.ask() for _ in range(3)] == [identity] * 3
    assert Connection(scheme).ask() is None


def test_what_begins_something_is_believed_right_behind_a_ping_only(line: Connection) -> None:
    identity = line.meets(Client())
    assert line.ask(begins=True) == identity
    assert line.ask() == identity
    assert line.ask(begins=True) is None
    assert line.ask() is None  # whoever was not believed ended it

    assert line.meets(Client()) == identity
    assert line.ask() == identity
    assert line.ask(begins=True) is None

    assert line.meets(Client()) == identity
    assert line.ask(begins=True, target="/in/b") is None


def test_nothing_new_is_believed_behind_a_handshake_that_began_something(line: Connection) -> None:
    assert line.meets(Client(), begins=True) is not None
    assert line.ask(begins=True) is None


@pytest.mark.parametrize("other", ["Basic YWxpY2U6c2VjcmV0", "Bearer abc", "Negotiate YII="])
def test_who_says_something_else_of_himself_is_not_believed(line: Connection, other: str) -> None:
    assert line.meets(Client()) is not None
    assert line.ask(authorization=other) is None
    assert line.ask() is None


def test_what_another_directory_knows_is_its_own(line: Connection, tmp_path: Path) -> None:
    elsewhere = Connection(Ntlm(hashes(tmp_path)))
    elsewhere.link = line.link
    identity = line.meets(Client())
    assert elsewhere.ask() is None
    assert line.ask() == identity
    with pytest.raises(NotProved, match="no handshake is under way"):
        elsewhere.ask(line.last_leg(Client()))


def test_a_handshake_elsewhere_on_the_connection_ends_it(line: Connection, tmp_path: Path) -> None:
    elsewhere = Connection(Ntlm(hashes(tmp_path)))
    elsewhere.link = line.link
    line.meets(Client())
    assert elsewhere.meets(Client("zoë", "ein Paßwort")) is not None
    assert line.ask() is None


def test_whoever_is_struck_from_the_file_is_not_believed_any_more(tmp_path: Path) -> None:
    now = [0.0]
    line = Connection(Ntlm(hashes(tmp_path, clock=lambda: now[0])))
    identity = line.meets(Client())
    hashes(tmp_path, PASSWORDS | {"somebody": "else"})
    now[0] += 10
    assert line.ask() == identity
    hashes(tmp_path, PASSWORDS | {"alice": "a new password"})
    now[0] += 10
    assert line.ask() is None


def test_the_name_for_guessers_is_one_however_it_is_spelt(line: Connection) -> None:
    def claimed(user: str) -> str | None:
        headers = {"authorization": "NTLM " + _base64(line.last_leg(Client(user, "guess")))}
        return line.scheme.claimed(line.claim(headers))

    assert claimed("alice") == claimed("A\\ALICE") == claimed("B\\Alice") == "ALICE"
    assert line.scheme.claimed(line.claim({"authorization": "NTLM " + _base64(Client().step())})) is None
    assert line.scheme.claimed(line.claim({})) is None


def test_we_are_called_as_the_settings_say(tmp_path: Path) -> None:
    line = Connection(Ntlm(hashes(tmp_path), "CORP"))
    challenge = line.challenged(Client().step())
    assert challenge.count("CORP".encode("utf-16-le")) == 3
    identity = line.meets(Client("CORP\\bob", "another secret"))
    assert identity is not None


@pytest.mark.parametrize(
    "said", ["", "=", "a", "not base64!", "TlRMTVNTUA", "TlRMTVNTUAACAAAA", "Yii=", "\xff", "AAAA" * 4000]
)
def test_what_is_no_token_is_refused(line: Connection, said: str) -> None:
    with pytest.raises(NotProved):
        line.ask(authorization=f"NTLM {said}")


def test_no_first_message_is_a_surprise(line: Connection) -> None:
    for broken in all_cuts(Client().step()):
        with pytest.raises((NotProved, GoOn)):
            line.ask(broken)


def test_every_byte_of_the_last_message_counts(line: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is either under the proof or under the MIC, or is one of them."""
    monkeypatch.setattr("bitsferry.access.ntlm.os.urandom", bytes)
    monkeypatch.setattr("bitsferry.access.ntlm.time.time_ns", lambda: 0)
    client = Client()
    first = client.step()
    message = client.step(line.challenged(first))
    assert line.ask(message) is not None  # our challenge is the same each time
    for broken in all_cuts(message):
        line.challenged(first)
        with pytest.raises(NotProved):
            line.ask(broken)
    line.challenged(first)
    assert line.ask(message) is not None


def test_where_connections_cannot_be_told_apart_it_says_nothing(scheme: Ntlm) -> None:
    claim = Claim("BITS_POST", "/in/a", {"authorization": "NTLM " + _base64(Client().step())})
    assert asyncio.run(scheme.identify(claim)) is None


def _base64(token: bytes) -> str:
    return base64.b64encode(token).decode()
