"""What the threat model admits, shown: whoever mends one of these, mends the page, too."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from bitsferry.access.htdigest import digest_lines
from bitsferry.access.ntlm import Ntlm
from bitsferry.client.challenges import read_challenges
from bitsferry.client.credentials import Authenticator, Credential, Target
from bitsferry.client.digest import Digest


def test_basic_says_the_password_to_whoever_listens() -> None:
    authenticator = Authenticator([Credential(Target.SERVER, None, "anna", "secret")], Target.SERVER)
    assert authenticator.challenged(['Basic realm="r"'])
    said = authenticator.authorization("BITS_POST", "/in/a")
    assert said is not None
    assert base64.b64decode(said.removeprefix("Basic ")) == b"anna:secret"


def test_who_reads_a_file_for_digest_can_log_on_without_the_password() -> None:
    """What stands in the file is all that an answer is made of."""
    (line,) = [line for line in digest_lines("anna", "r", b"secret") if len(line.rpartition(":")[2]) == 32]
    (challenge,) = read_challenges(['Digest realm="r", nonce="n", qop="auth", algorithm=MD5'])
    honest = Digest(challenge, "anna", "secret", cnonce=lambda: "c").authorization("GET", "/")

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    forged = md5(f"{line.rpartition(':')[2]}:n:00000001:c:auth:{md5('GET:/')}")
    assert f'response="{forged}"' in honest


def test_who_reads_a_file_of_nt_hashes_can_log_on_without_the_password(tmp_path: Path) -> None:
    spnego = pytest.importorskip("spnego")
    from access.windows_peer import Client, Connection, hashes

    stolen = hashes(tmp_path)
    nt_hash = (tmp_path / "nt-hashes").read_text(encoding="utf-8").partition("\n")[0].partition(":")[2]
    client = Client()
    known = spnego.NTLMHash(username="alice", nt_hash=nt_hash)
    client.context = spnego.client(known, hostname="host", service="HTTP", protocol="ntlm")
    identity = Connection(Ntlm(stolen)).meets(client)
    assert identity is not None
    assert identity.user == "alice"


def test_ntlm_can_be_passed_on_by_whoever_stands_between(tmp_path: Path) -> None:
    """There is no channel binding: a server alice talks to can talk to ours as alice."""
    pytest.importorskip("spnego")
    from access.windows_peer import Client, Connection, hashes

    alice, to_us = Client(), Connection(Ntlm(hashes(tmp_path)))
    first = alice.step()  # said to mallory's server ...
    challenge = to_us.challenged(first)  # ... which says it to ours
    identity = to_us.ask(alice.step(challenge))
    assert identity is not None
    assert identity.user == "alice"
