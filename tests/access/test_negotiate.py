"""Negotiate: NTLM inside SPNEGO, or bare; what nobody vouches for and what is no SPNEGO, is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from spnego._spnego import NegTokenInit, NegTokenResp, pack_mech_type_list, unpack_token

from bitsferry.access.negotiate import Negotiate
from bitsferry.access.scheme import GoOn, NotProved
from bitsferry.access.spnego import Offer, Reply

from .windows_peer import Client, Connection, all_cuts, hashes

KERBEROS = "1.2.840.113554.1.2.2"
NEGOEX = "1.3.6.1.4.1.311.2.2.30"
NTLM = "1.3.6.1.4.1.311.2.2.10"
ACCEPTED, INCOMPLETE, _, MIC_WANTED = range(4)


@pytest.fixture
def scheme(tmp_path: Path) -> Negotiate:
    return Negotiate(nt_hashes=hashes(tmp_path))


@pytest.fixture
def line(scheme: Negotiate) -> Connection:
    return Connection(scheme)


class Choosy:
    """A client that would rather have another mechanism, and says so."""

    def __init__(self, *mechanisms: str, password: str = "secret") -> None:
        self.mechanisms = list(mechanisms)
        self.inner = Client(password=password)

    def offer(self, token: bytes | None = None) -> bytes:
        return NegTokenInit(mech_types=self.mechanisms, mech_token=token).pack()

    def mic(self, *mechanisms: str) -> bytes:
        listed = pack_mech_type_list(list(mechanisms) or self.mechanisms)
        signature = self.inner.context.sign(listed)
        assert isinstance(signature, bytes)
        return signature

    def last(self, line: Connection, *mechanisms: str) -> NegTokenResp:
        """What it says when it has chosen NTLM, with a MIC over these."""
        chosen = line.challenged(self.offer(b"\x60\x00"))
        assert state(chosen) == MIC_WANTED
        challenge = unpack_token(line.challenged(said(self.inner.step()))).response_token
        token = self.inner.step(challenge)
        return NegTokenResp(response_token=token, mech_list_mic=self.mic(*mechanisms))


def said(token: bytes | None = None, mic: bytes | None = None) -> bytes:
    packed = NegTokenResp(response_token=token, mech_list_mic=mic).pack()
    assert isinstance(packed, bytes)
    return packed


def state(answer: bytes) -> int:
    return int(unpack_token(answer).neg_state)


def test_ntlm_inside_spnego_is_taken(line: Connection) -> None:
    identity = line.meets(Client(protocol="negotiate"))
    assert identity is not None
    assert (identity.user, identity.scheme) == ("alice", "negotiate")
    known = line.ask()
    assert known is not None
    assert (known.user, known.headers) == ("alice", ())


def test_the_client_hears_that_its_list_arrived(line: Connection) -> None:
    client = Client(protocol="negotiate")
    identity = line.meets(client)
    assert identity is not None
    ((name, value),) = identity.headers
    title, _, token = value.partition(" ")
    assert (name, title) == ("WWW-Authenticate", "Negotiate")
    client.context.step(base64.b64decode(token))
    assert client.context.complete


def test_bare_ntlm_is_answered_in_kind(line: Connection) -> None:
    client = Client()
    challenge = line.challenged(client.step())
    assert challenge.startswith(b"NTLMSSP\0")
    identity = line.ask(client.step(challenge))
    assert identity is not None
    assert (identity.user, identity.headers) == ("alice", ())


@pytest.mark.parametrize("protocol", ["ntlm", "negotiate"])
def test_a_wrong_password_is_refused_and_nothing_can_be_repeated(line: Connection, protocol: str) -> None:
    message = line.last_leg(Client(password="guess", protocol=protocol))
    assert line.scheme.claimed(line.claim({"authorization": authorization(message)})) == "ALICE"
    with pytest.raises(NotProved, match="wrong user or password"):
        line.ask(message)
    message = line.last_leg(Client(protocol=protocol))
    assert line.ask(message) is not None
    with pytest.raises(NotProved, match="no handshake is under way"):
        line.ask(message)
    with pytest.raises(NotProved, match="no handshake is under way"):
        Connection(line.scheme).ask(message)


def test_a_client_that_likes_something_else_better_has_to_vouch_for_its_list(line: Connection) -> None:
    identity = line.ask(Choosy(KERBEROS, NTLM).last(line).pack())
    assert identity is not None
    assert identity.user == "alice"
    with pytest.raises(NotProved, match="list of mechanisms was changed"):
        line.ask(Choosy(KERBEROS, NTLM).last(line, NEGOEX, NTLM).pack())


def test_it_may_vouch_in_a_leg_of_its_own(line: Connection) -> None:
    client = Choosy(NEGOEX, KERBEROS, NTLM)
    last = client.last(line)
    answer = line.challenged(said(last.response_token))
    assert state(answer) == INCOMPLETE
    client.inner.context.verify(
        pack_mech_type_list(client.mechanisms), unpack_token(answer).mech_list_mic
    )  # raises what is wrong
    identity = line.ask(said(mic=last.mech_list_mic))
    assert identity is not None

    line.challenged(said(Choosy(KERBEROS, NTLM).last(line).response_token))
    with pytest.raises(NotProved, match="nobody vouched"):
        line.ask(said())
    assert line.ask() is None


def test_who_has_nothing_in_common_with_us_did_not_guess(line: Connection) -> None:
    with pytest.raises(NotProved, match="no mechanism in common") as refused:
        line.ask(NegTokenInit(mech_types=[KERBEROS, NEGOEX], mech_token=b"\x60\x00").pack())
    assert not refused.value.counts


def test_a_token_of_the_first_mechanism_is_not_taken_for_one_of_ours(line: Connection) -> None:
    """What comes with the offer is for the client's first choice, whatever it looks like."""
    client = Choosy(KERBEROS, NTLM)
    assert state(line.challenged(client.offer(client.inner.step()))) == MIC_WANTED


def test_an_offer_without_a_token_is_taken(line: Connection) -> None:
    client = Choosy(NTLM)
    assert state(line.challenged(client.offer())) == INCOMPLETE
    challenge = unpack_token(line.challenged(said(client.inner.step()))).response_token
    assert line.ask(said(client.inner.step(challenge))) is not None


def test_no_token_is_a_surprise(line: Connection) -> None:
    client = Client(protocol="negotiate")
    first = client.step()
    for broken in all_cuts(first):
        with pytest.raises((NotProved, GoOn)):
            line.ask(broken)
    last = client.step(line.challenged(first))
    for broken in all_cuts(last):
        line.challenged(first)
        with pytest.raises(NotProved):
            line.ask(broken)


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"\x60",
        b"\x60\x84\xff\xff\xff\xff",
        b"\x60\x80\x00\x00",
        b"\x60\x85\x00\x00\x00\x00\x00",
        b"\xa1\x02\x30\x00",
        b"\xa0\x00",
        b"NTLMSSP\0",
        b"\x60" * 60_000,
    ],
)
def test_what_is_no_token_is_refused(line: Connection, token: bytes) -> None:
    with pytest.raises(NotProved):
        line.ask(token)


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x10000])
def test_replies_are_written_as_others_read_them(size: int) -> None:
    token, mic = b"t" * size, b"m" * size
    answer = unpack_token(Reply(ACCEPTED, bytes.fromhex("2b06010401823702020a"), token, mic).write())
    assert (answer.neg_state, answer.supported_mech) == (ACCEPTED, NTLM)
    assert (answer.response_token or b"", answer.mech_list_mic or b"") == (token, mic)


def test_a_list_of_mechanisms_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="list of mechanisms"):
        Offer.read(NegTokenInit(mech_types=[NTLM] * 100).pack())


def authorization(token: bytes) -> str:
    return "Negotiate " + base64.b64encode(token).decode()
