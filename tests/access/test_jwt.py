"""JWTs: signed by whom we asked for, for us, in time; nothing else, whatever it looks like."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.access.asker import Identity
from bitsferry.access.bearer import Bearer
from bitsferry.access.guard import Guard
from bitsferry.access.jwks import FetchedKeys, FileKeys, KeySource, parse_keys
from bitsferry.access.jwt import Jwt
from bitsferry.access.scheme import Claim, NotProved
from bitsferry.access.web_text import check_trusted_url, fetch_text
from bitsferry.protocol.errors import AuthenticationRequired, Busy

from .asking import claim, identified, refused, run

pytest.importorskip("joserfc", reason="the extra jwt is not here")

from joserfc import jwk, jws

NOW = 1_800_000_000
RSA = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
EC = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
ED = jwk.OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGE = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
CLAIMS = {"iss": "https://id.example", "aud": "uploads", "sub": "alice", "exp": NOW + 300}

Key = jwk.RSAKey | jwk.ECKey | jwk.OKPKey


def public(*keys: Key) -> str:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


def encoded(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: object = None, key: Key = RSA, algorithm: str = "RS256", **header: object) -> str:
    """A token; what stands in `header` comes on top of `alg` and `kid`, and what is None goes."""
    head = {"alg": algorithm, "kid": key.kid} | header
    said = f"{encoded({k: v for k, v in head.items() if v is not None})}.{encoded(claims or CLAIMS)}"
    signature = jws.JWSRegistry.algorithms[algorithm].sign(said.encode(), key)
    return f"{said}.{encoded(signature)}"


def but(**claims: object) -> dict[str, object]:
    """The right claims but these; those that are None go."""
    return {name: value for name, value in (CLAIMS | claims).items() if value is not None}


def bearer(keys: KeySource, **more: Any) -> Bearer:
    settings: dict[str, Any] = {
        "issuer": "https://id.example",
        "audience": "uploads",
        "clock": lambda: float(NOW),
    }
    return Bearer(jwt=Jwt(keys, **(settings | more)))


def said(token: str) -> Claim:
    return claim({"authorization": f"Bearer {token}"})


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    path = tmp_path / "keys.json"
    path.write_text(public(RSA, EC, ED))
    return FileKeys(str(path))


@pytest.fixture
def scheme(keys: FileKeys) -> Bearer:
    return bearer(keys)


# Those that are right


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "RS512"), (RSA, "PS256"), (EC, "ES256"), (ED, "EdDSA"), (ED, "Ed25519")],
)
@pytest.mark.parametrize("kid", [True, False])
def test_a_right_token_names_its_user(scheme: Bearer, key: Key, algorithm: str, kid: bool) -> None:
    token = signed(key=key, algorithm=algorithm, kid=key.kid if kid else None)
    assert identified(scheme, said(token)) == Identity("alice", "bearer")
    assert identified(scheme, claim({"x-api-key": token})) == Identity("alice", "bearer")


def test_the_audience_may_be_one_of_several(scheme: Bearer) -> None:
    assert identified(scheme, said(signed(but(aud=["mail", "uploads"]))))


def test_another_claim_may_name_the_user_and_one_the_groups(keys: FileKeys) -> None:
    scheme = bearer(keys, user_claim="preferred_username", groups_claim="groups")
    token = signed(but(preferred_username="al", groups=["senders", 7, "", "night shift"]))
    assert identified(scheme, said(token)) == Identity("al", "bearer", frozenset({"senders", "night shift"}))
    one = signed(but(preferred_username="al", groups="senders"))
    assert identified(scheme, said(one)) == Identity("al", "bearer", frozenset({"senders"}))


def test_clocks_may_differ_a_little(scheme: Bearer) -> None:
    assert identified(scheme, said(signed(but(exp=NOW - 59, nbf=NOW + 59))))


def test_headers_nobody_asked_for_do_no_harm(scheme: Bearer) -> None:
    assert identified(scheme, said(signed(typ="at+jwt", x5t="abc", nonce="n", jku="https://evil.example/")))


# Those that are not


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (but(exp=NOW - 60), "the token is expired"),
        (but(exp=NOW - 86400 * 365), "the token is expired"),
        (but(exp=None), "the token has no exp that is a time"),
        (but(exp="never"), "the token has no exp that is a time"),
        (but(exp=True), "the token has no exp that is a time"),
        (but(exp=float("inf")), "the token has no exp that is a time"),
        (but(exp=float("nan")), "the token has no exp that is a time"),
        (but(exp=10**400), "the token has no exp that is a time"),
        (but(nbf=NOW + 61), "the token is not valid yet"),
        (but(nbf="soon"), "the token has no nbf that is a time"),
        (but(iss="https://evil.example"), "the token is from another issuer"),
        (but(iss=None), "the token is from another issuer"),
        (but(iss=["https://id.example"]), "the token is from another issuer"),
        (but(aud="mail"), "the token is for another audience"),
        (but(aud=None), "the token is for another audience"),
        (but(aud=["mail", "up"]), "the token is for another audience"),
        (but(aud={"uploads": 1}), "the token is for another audience"),
        (but(sub=None), "the token has no sub that could be a user's name"),
        (but(sub=7), "the token has no sub that could be a user's name"),
        (but(sub=""), "this can be no user's name"),
        (but(sub="a\r\nb"), "this can be no user's name"),
        (but(sub="\ud800"), "this can be no user's name"),
        ([1], "the token is damaged"),
        ("alice", "the token is damaged"),
    ],
)
def test_what_is_not_meant_for_us_now_is_refused(scheme: Bearer, claims: object, why: str) -> None:
    assert str(refused(scheme, said(signed(claims)))).startswith(why)


def test_a_signature_by_another_key_is_refused_though_it_has_its_name(scheme: Bearer) -> None:
    assert str(refused(scheme, said(signed(key=STRANGE)))) == "the token's signature is wrong"
    assert str(refused(scheme, said(signed(key=STRANGE, kid=None)))) == "the token's signature is wrong"


def test_a_key_nobody_knows_is_refused(scheme: Bearer) -> None:
    assert str(refused(scheme, said(signed(kid="other")))) == "the token is signed by a key that is not known"


def test_claims_that_were_changed_are_refused(scheme: Bearer) -> None:
    head, _, signature = signed().split(".")
    forged = f"{head}.{encoded(but(sub='admin'))}.{signature}"
    assert str(refused(scheme, said(forged))) == "the token's signature is wrong"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "RSA1_5", 1, None, ["RS256"]]
)
def test_no_algorithm_without_a_public_key_is_taken(scheme: Bearer, algorithm: object) -> None:
    head = encoded({"alg": algorithm, "kid": "rsa"})
    for signature in ("", encoded(b"x")):
        refused(scheme, said(f"{head}.{encoded(CLAIMS)}.{signature}"))


def test_a_public_key_is_no_secret_to_sign_by(scheme: Bearer) -> None:
    """Who took the algorithm from the token, would check this one with the key everybody knows."""
    forms = [
        RSA.public_key.public_bytes(serialization.Encoding.PEM, form)
        for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1)
    ]
    for secret in [*forms, public(RSA).encode(), b""]:
        message = f"{encoded({'alg': 'HS256', 'kid': 'rsa'})}.{encoded(CLAIMS)}"
        mac = hmac.digest(secret, message.encode(), hashlib.sha256)
        assert "no algorithm" in str(refused(scheme, said(f"{message}.{encoded(mac)}")))


def test_a_key_of_one_kind_checks_no_signature_of_another(scheme: Bearer) -> None:
    for algorithm, kid in (
        ("ES256", "rsa"),
        ("RS256", "ec"),
        ("EdDSA", "rsa"),
        ("ES384", "ec"),
        ("ES512", "ed"),
    ):
        head = encoded({"alg": algorithm, "kid": kid})
        assert "not known" in str(refused(scheme, said(f"{head}.{encoded(CLAIMS)}.{encoded(b'x' * 64)}")))


def test_a_key_that_is_for_one_algorithm_checks_no_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [RSA.as_dict(private=False) | {"alg": "PS256"}]}))
    scheme = bearer(FileKeys(str(path)))
    assert identified(scheme, said(signed(algorithm="PS256")))
    assert "not known" in str(refused(scheme, said(signed(algorithm="RS256"))))


def test_what_has_to_be_understood_and_is_not_is_refused(scheme: Bearer) -> None:
    for token in (signed(crit=["b64"], b64=False), signed(crit=["x"], x=1), signed(crit=[])):
        assert "more than is understood" in str(refused(scheme, said(token)))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(
                st.none() | st.integers() | st.text(max_size=5),
                lambda inside: (
                    st.lists(inside)
                    | st.dictionaries(st.sampled_from(["alg", "kid", "iss", "aud", "crit"]), inside)
                ),
            ),
        ),
        min_size=3,
        max_size=3,
    )
)
def test_whatever_has_three_parts_is_refused_without_a_stumble(parts: list[object]) -> None:
    class NoKeys(KeySource):
        async def suiting(self, kid: str | None, algorithm: str) -> tuple[()]:
            return ()

    token = ".".join(map(encoded, parts))
    assert isinstance(refused(bearer(NoKeys()), said(token)), NotProved)


def test_a_token_of_nothing_but_brackets_is_refused(scheme: Bearer) -> None:
    deep = encoded(b"[" * 6000)
    assert str(refused(scheme, said(f"{deep}.{deep}.AAAA"))) == "the token is damaged"
    assert str(refused(scheme, said(f"{encoded(b'9' * 5000)}.{deep}.AAAA"))) == "the token is damaged"


# Keys in a file


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JWK Set"),
        ("[]", "no JWK Set"),
        ('{"keys": 7}', "no JWK Set"),
        ('{"keys": [7, "x"]}', "no key that signs"),
        ('{"keys": []}', "no key that signs"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "no key that signs"),
        ('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "no key that signs"),
        (json.dumps({"keys": [RSA.as_dict(private=False) | {"use": "enc"}]}), "no key that signs"),
        (json.dumps({"keys": [RSA.as_dict(private=False) | {"key_ops": ["encrypt"]}]}), "no key that signs"),
        (json.dumps({"keys": [RSA.as_dict(private=True)]}), "private key"),
    ],
)
def test_a_file_without_usable_keys_is_told_without_what_is_in_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_keys(text)
    assert "c2VjcmV0" not in str(error.value)


def test_keys_of_kinds_nobody_knows_are_left_out() -> None:
    strange = [
        {"kty": "new"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "AQAB", "crv": "P-256"},
        {"kty": ["RSA"]},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        {"kty": "EC"},
    ]
    text = json.dumps({"keys": [*strange, EC.as_dict(private=False)]})
    assert [key.kid for key in parse_keys(text)] == ["ec"]


# Keys that are fetched


class Signer:
    """Whoever signs tokens, at the other end of a URL."""

    def __init__(self, *keys: Key) -> None:
        self.keys = keys
        self.asked = 0
        self.away = False

    def __call__(self, url: str) -> str:
        self.asked += 1
        if self.away:
            raise OSError("nobody is there")
        return public(*self.keys)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fetching:
    """A scheme whose keys come from a signer, and the clock it lives by."""

    def __init__(self, signer: Signer) -> None:
        self.clock = Clock()
        self.scheme = bearer(FetchedKeys("https://id.example/keys", signer, self.clock))

    def takes(self, token: str) -> bool:
        try:
            return identified(self.scheme, said(token)) is not None
        except NotProved:
            return False


def test_keys_are_fetched_when_the_first_token_comes_and_then_known() -> None:
    signer = Signer(RSA)
    fetching = Fetching(signer)
    assert signer.asked == 0
    assert all(fetching.takes(signed()) for _ in range(3))
    assert signer.asked == 1


def test_a_key_that_is_missing_is_fetched_at_once_but_not_again_and_again() -> None:
    signer = Signer(RSA)
    fetching = Fetching(signer)
    assert fetching.takes(signed())
    signer.keys = (RSA, EC)
    fetching.clock.now += 31
    assert fetching.takes(signed(key=EC, algorithm="ES256"))
    assert not_now(fetching, signed(kid="other")) == 31  # it may be a new one: to be seen in half a minute
    fetching.clock.now += 31
    assert not fetching.takes(signed(kid="other"))
    for _ in range(5):
        not_now(fetching, signed(kid="other"))
    assert signer.asked == 3
    assert fetching.takes(signed())


def test_while_nobody_can_be_asked_the_keys_that_are_known_hold() -> None:
    signer = Signer(RSA)
    fetching = Fetching(signer)
    assert fetching.takes(signed())
    signer.away = True
    fetching.clock.now += 100_000
    assert fetching.takes(signed())
    fetching.clock.now += 31
    assert not_now(fetching, signed(kid="other"))
    assert fetching.takes(signed())


def test_who_cannot_be_reached_is_no_reason_to_send_anybody_away(caplog: pytest.LogCaptureFixture) -> None:
    signer = Signer(RSA)
    signer.away = True
    fetching = Fetching(signer)
    for _ in range(3):
        assert not_now(fetching, signed())
        fetching.clock.now += 31
    assert caplog.text.count("cannot be fetched") == 1
    signer.away = False
    assert fetching.takes(signed())


def test_keys_are_fetched_again_after_an_hour_while_nobody_waits() -> None:
    signer = Signer(RSA)
    fetching = Fetching(signer)
    assert fetching.takes(signed())
    fetching.clock.now += 3600
    assert fetching.takes(signed())
    assert signer.asked == 2


def test_many_who_wait_for_keys_make_one_request() -> None:
    signer = Signer(RSA)
    scheme = Fetching(signer).scheme

    async def together() -> list[Identity | None]:
        return await asyncio.gather(*(scheme.identify(said(signed())) for _ in range(20)))

    assert all(run(together()))
    assert signer.asked == 1


def test_what_cannot_be_meant_for_us_is_refused_without_asking_for_keys() -> None:
    signer = Signer(RSA)
    fetching = Fetching(signer)
    assert not fetching.takes(signed(but(iss="https://evil.example")))
    assert not fetching.takes(signed(alg="HS256"))
    assert signer.asked == 0


def not_now(fetching: Fetching, token: str) -> int | None:
    with pytest.raises(Busy) as error:
        fetching.takes(token)
    return error.value.retry_after


# The way they come


@contextmanager
def web(answer: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A web server on this machine; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, address: None  # type: ignore[assignment]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answers(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_keys_come_over_https_from_whom_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with web(answers(b"keys"), tls) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch_text(f"https://localhost:{port}/")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert fetch_text(f"https://localhost:{port}/keys?tenant=1") == "keys"
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch_text(f"https://127.0.0.1:{port}/")  # another name


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (answers(b"", 404), "404"),
        (answers(b"", 302, Location="http://127.0.0.1:1/"), "302"),
        (answers(b"x" * (1024 * 1024 + 1)), "larger"),
    ],
)
def test_what_is_no_answer_of_a_fair_size_is_not_taken(
    answer: Callable[[BaseHTTPRequestHandler], None], why: str
) -> None:
    with web(answer) as port, pytest.raises(OSError, match=why):
        fetch_text(f"http://127.0.0.1:{port}/")


def test_nobody_at_the_other_end_is_busy_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/keys?secret=7"
        scheme = bearer(FetchedKeys(url))
        with pytest.raises(Busy):
            identified(scheme, said(signed()))
    assert "secret" not in caplog.text


def test_a_server_fetches_and_a_token_passes() -> None:
    with web(answers(public(RSA).encode())) as port:
        scheme = bearer(FetchedKeys(f"http://localhost:{port}/keys"))
        assert identified(scheme, said(signed())) == Identity("alice", "bearer")


@pytest.mark.parametrize(
    "url", ["https://id.example/keys", "http://127.0.0.1:8/", "http://[::1]/", "http://localhost/"]
)
def test_a_url_is_https_or_of_this_machine(url: str) -> None:
    check_trusted_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/keys",
        "http://127.0.0.1.example/",
        "http://localhost.example/",
        "http://localhost@id.example/",
        "https://u:p@id.example/",
        "https://",
        "https:///keys",
        "https://h:99999/",
        "https://h/#x",
        "https://h/a b",
        "https://h/\r\nX: y",
        "ftp://h/",
        "file:///etc/passwd",
    ],
)
def test_no_other_is_believed(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https") as error:
        check_trusted_url(url)
    assert "u:p" not in str(error.value)


def test_a_token_is_in_no_log(scheme: Bearer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = signed(but(exp=NOW - 999))
    guard = Guard([scheme])
    with pytest.raises(AuthenticationRequired):
        run(guard.admit(said(token)))
    assert "the token is expired" in caplog.text
    assert [record.user for record in caplog.records if hasattr(record, "user")] == ["alice"]
    for part in token.split("."):
        assert not any(part in str(value) for record in caplog.records for value in vars(record).values())
