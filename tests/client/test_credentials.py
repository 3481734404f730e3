"""Who the client is: said when it is asked for, as strongly as it can be, once, and never shown to people."""

import base64
import contextlib
import hashlib
import http.client
import http.server
import pickle
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import parse_http_list, parse_keqv_list

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.challenges import Challenge, read_challenges
from bitsferry.client.credentials import Authenticator, Credential, Scheme, Target
from bitsferry.protocol.errors import PasswordTooLong, UserNameTooLong

BASIC = 'Basic realm="somewhere"'
DIGEST = 'Digest realm="somewhere", nonce="abc", qop="auth"'
GIVEN = Credential(Target.SERVER, None, "Mufasa", "Circle of Life")


def an_authenticator(*credentials: Credential) -> Authenticator:
    return Authenticator(credentials or [GIVEN], Target.SERVER, cnonce=lambda: "0a4f113b")


def credential(scheme: Scheme | None, user: str = "u", password: str = "p") -> Credential:
    return Credential(Target.SERVER, scheme, user, password)


def said(authenticator: Authenticator, method: str = "BITS_POST", target: str = "/in/f") -> str:
    authorization = authenticator.authorization(method, target)
    assert authorization is not None
    return authorization


def fields(authorization: str) -> dict[str, str]:
    return parse_keqv_list(parse_http_list(authorization.partition(" ")[2]))


# What may be said


def test_a_password_is_not_shown() -> None:
    assert "Circle" not in repr(GIVEN)
    assert "Mufasa" in repr(GIVEN)


def test_a_credential_can_be_kept_as_a_plain_value() -> None:
    assert msgspec.json.decode(msgspec.json.encode(GIVEN), type=Credential) == GIVEN
    assert pickle.loads(pickle.dumps(GIVEN)) == GIVEN


def test_names_and_passwords_have_the_limits_of_windows() -> None:
    Credential(Target.SERVER, None, "u" * 300, "p" * 65_535)
    with pytest.raises(UserNameTooLong, match="at most 300 characters, not 301"):
        Credential(Target.SERVER, None, "u" * 301, "")
    with pytest.raises(PasswordTooLong, match="at most 65,535 characters, not 65,536") as caught:
        Credential(Target.SERVER, None, "u", "p" * 65_536)
    assert "ppp" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "user", "password", "why"),
    [
        (Scheme.BASIC, "a:b", "secret", "colon"),
        (Scheme.BEARER, "", "sec ret", "Bearer token"),
        (Scheme.BEARER, "", "secret\r\nHost: evil", "Bearer token"),
        (Scheme.BEARER, "", "", "Bearer token"),
        (None, "a\r\nb", "secret", "line breaks"),
        (None, "\udce4", "secret", "no Unicode"),
        (None, "a", "secret\udce4", "no Unicode"),
    ],
)
def test_what_cannot_be_said_is_refused_at_once_without_showing_it(
    scheme: Scheme | None, user: str, password: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Credential(Target.SERVER, scheme, user, password)
    assert "secret" not in str(caught.value)


# What is offered


@pytest.mark.parametrize(
    ("values", "challenges"),
    [
        ([], []),
        (["", " , ,"], []),
        ([BASIC], [Challenge("basic", None, {"realm": "somewhere"})]),
        (["Basic"], [Challenge("basic")]),
        (["NTLM", "Negotiate"], [Challenge("ntlm"), Challenge("negotiate")]),
        (["Negotiate, NTLM"], [Challenge("negotiate"), Challenge("ntlm")]),
        (["NTLM TlRMTVNTUAAC/+==, Basic"], [Challenge("ntlm", "TlRMTVNTUAAC/+=="), Challenge("basic")]),
        (['basic REALM = "a, b" '], [Challenge("basic", None, {"realm": "a, b"})]),
        (
            [r'Basic realm="the \"old\" C:\\"'],
            [Challenge("basic", None, {"realm": 'the "old" C:\\'})],
        ),
        (
            [
                'Newauth realm="x, Basic", type=1, title="Login, please", '
                'Basic realm="y", Digest nonce=a/+b==,qop=auth'
            ],
            [
                Challenge("newauth", None, {"realm": "x, Basic", "type": "1", "title": "Login, please"}),
                Challenge("basic", None, {"realm": "y"}),
                Challenge("digest", None, {"nonce": "a/+b==", "qop": "auth"}),
            ],
        ),
        (['Digest realm="a",\r\n\tnonce="b"'], [Challenge("digest", None, {"realm": "a", "nonce": "b"})]),
        (['Digest nonce="1", nonce="2"'], [Challenge("digest", None, {"nonce": "1"})]),
        (['Basic realm="never closed'], [Challenge("basic", None, {"realm": ""})]),
        (['Digest realm="a\x00b", NTLM'], [Challenge("digest", None, {"realm": ""})]),
        (["Basic realm=x, @@@, NTLM"], [Challenge("basic", None, {"realm": "x"})]),
    ],
)
def test_challenges_are_read_as_they_were_meant(values: list[str], challenges: list[Challenge]) -> None:
    assert read_challenges(values) == challenges


@given(
    st.text(st.characters(max_codepoint=255)) | st.text('Basic Digest,="\\ nonce realm\r\n\t', max_size=80)
)
def test_whatever_a_server_sends_is_read_and_answered_in_one_line(value: str) -> None:
    authenticator = an_authenticator()
    authenticator.challenged([value, DIGEST + "," + value])
    assert re.fullmatch(r"[\x20-\x7e\x80-\xff]+", said(authenticator))
    assert authenticator.refusal()


# When it is said


def test_nothing_is_said_before_it_is_asked_for() -> None:
    assert an_authenticator().authorization("BITS_POST", "/") is None
    assert an_authenticator(credential(Scheme.BASIC)).authorization("BITS_POST", "/") is None


def test_a_token_is_said_from_the_first_request_on() -> None:
    authenticator = an_authenticator(credential(Scheme.BEARER, "", "mF_9.B5f-4.1JqM"))
    assert said(authenticator) == said(authenticator) == "Bearer mF_9.B5f-4.1JqM"
    assert not authenticator.challenged(['Bearer error="invalid_token"'])
    assert authenticator.authorization("BITS_POST", "/") is None
    assert authenticator.refusal() == "the server refuses the token"


def test_a_refused_token_leaves_the_word_to_another_credential() -> None:
    authenticator = an_authenticator(credential(Scheme.BASIC), credential(Scheme.BEARER, "", "t"))
    assert said(authenticator) == "Bearer t"
    assert authenticator.challenged([BASIC])
    assert said(authenticator) == "Basic dTpw"


@pytest.mark.parametrize("challenges", [[BASIC], [DIGEST], [DIGEST, BASIC], ['Digest nonce="1"', BASIC]])
def test_a_credential_is_tried_once(challenges: list[str]) -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged(challenges)
    said(authenticator)
    assert not authenticator.challenged(challenges)
    assert not authenticator.challenged(challenges)
    assert authenticator.authorization("BITS_POST", "/") is None
    assert authenticator.refusal() == "the server refuses the user name 'Mufasa' or its password"


def test_what_was_good_for_many_requests_and_is_refused_is_not_tried_again() -> None:
    authenticator = an_authenticator(credential(Scheme.BASIC))
    assert authenticator.challenged([BASIC])
    assert {said(authenticator) for _ in range(3)} == {"Basic dTpw"}
    assert not authenticator.challenged([BASIC])


def test_each_of_two_credentials_is_tried_the_stronger_first() -> None:
    authenticator = an_authenticator(
        credential(Scheme.BASIC, "b"), credential(Scheme.DIGEST, "d"), credential(Scheme.DIGEST, "e")
    )
    assert authenticator.challenged([BASIC, DIGEST])
    assert 'username="d"' in said(authenticator)
    assert authenticator.challenged([BASIC, DIGEST])
    assert 'username="e"' in said(authenticator)
    assert authenticator.challenged([BASIC, DIGEST])
    assert said(authenticator) == "Basic Yjpw"
    assert not authenticator.challenged([BASIC, DIGEST])


def test_the_servers_password_is_not_for_the_proxy() -> None:
    credentials = [GIVEN, Credential(Target.PROXY, None, "proxy", "p")]
    proxy = Authenticator(credentials, Target.PROXY)
    assert proxy.challenged([BASIC])
    assert said(proxy) == "Basic cHJveHk6cA=="
    assert not proxy.challenged([BASIC])
    assert proxy.refusal() == "the proxy refuses the user name 'proxy' or its password"
    assert not Authenticator([GIVEN], Target.PROXY).challenged([BASIC])


# How it is said


@pytest.mark.parametrize(
    ("algorithms", "chosen"),
    [
        (["MD5", "SHA-256"], "SHA-256"),
        (["SHA-256", "MD5"], "SHA-256"),
        (["SHA-256-sess", "MD5"], "SHA-256-sess"),
        (["SHA-1024", "md5-SESS"], "md5-SESS"),
        (["SHA-256", "SHA-512-256"], "SHA-512-256"),
    ],
)
def test_of_several_digests_the_strongest_is_taken(algorithms: list[str], chosen: str) -> None:
    if "SHA-512-256" in algorithms and "sha512_256" not in hashlib.algorithms_available:
        pytest.skip("this Python's hashlib has no SHA-512/256")
    authenticator = an_authenticator()
    assert authenticator.challenged([BASIC, *(f"{DIGEST}, algorithm={name}" for name in algorithms)])
    assert f"algorithm={chosen}," in said(authenticator)


@pytest.mark.parametrize(
    "digest",
    [
        'Digest realm="r", nonce="n", qop="auth-int"',
        'Digest realm="r", nonce="n", qop=""',
        'Digest realm="r", nonce="n", algorithm=SHA-1024',
        'Digest realm="r", nonce="n", algorithm=MD5-sess',
        'Digest realm="r", qop="auth"',
        'Digest nonce="n", qop="auth"',
        "Digest",
    ],
)
def test_a_digest_of_an_unknown_kind_leaves_the_word_to_basic(digest: str) -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged([digest, BASIC])
    assert said(authenticator).startswith("Basic ")
    assert not an_authenticator().challenged([digest])


@pytest.mark.parametrize("offered", [[BASIC], [DIGEST], ["Bearer"], ["NTLM", "Negotiate"], []])
@pytest.mark.parametrize("scheme", [Scheme.BASIC, Scheme.DIGEST])
def test_a_scheme_that_was_chosen_is_said_to_no_other_challenge(scheme: Scheme, offered: list[str]) -> None:
    authenticator = an_authenticator(credential(scheme))
    fits = offered != [] and offered[0].lower().startswith(scheme)
    assert authenticator.challenged(offered) == fits
    assert (authenticator.authorization("GET", "/") is not None) == fits


@pytest.mark.parametrize(
    ("credentials", "challenges", "sentence"),
    [
        ([], [BASIC, DIGEST], "the server wants a user name and a password (Basic or Digest)"),
        ([], [], "the server wants to know who is asking, and does not say how"),
        (
            [GIVEN],
            ["Scram-Sha-256", "Hoba"],
            "the server wants Scram-Sha-256 or Hoba; "
            "only Negotiate, NTLM, Digest (qop auth), Basic and Bearer are known here",
        ),
        (
            [credential(Scheme.DIGEST)],
            [BASIC, BASIC],
            "the server wants Basic; what was given is for Digest",
        ),
        (
            [GIVEN],
            ["Bearer"],
            "the server wants Bearer; what was given is for Negotiate or NTLM or Digest or Basic",
        ),
        (
            [credential(None, "a:b")],
            [BASIC],
            "the server wants Basic; what was given is for Negotiate or NTLM or Digest",
        ),
    ],
)
def test_a_refusal_is_explained(credentials: list[Credential], challenges: list[str], sentence: str) -> None:
    authenticator = Authenticator(credentials, Target.SERVER)
    assert not authenticator.challenged(challenges)
    assert authenticator.refusal() == sentence


def test_the_schemes_offered_are_named_as_people_know_them() -> None:
    authenticator = an_authenticator()
    authenticator.challenged(["NTLM", "negotiate", 'SCRAM-SHA-256 realm="x"', f"{BASIC}, {DIGEST}"])
    assert authenticator.schemes_offered == ("NTLM", "Negotiate", "Scram-Sha-256", "Basic", "Digest")


def test_basic_is_said_in_utf_8() -> None:
    authenticator = an_authenticator(credential(Scheme.BASIC, "test", "123£"))
    assert authenticator.challenged(['Basic realm="foo", charset="UTF-8"'])
    assert said(authenticator) == "Basic dGVzdDoxMjPCow=="  # RFC 7617 2.1


RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
RFC_2617 = (
    'Digest realm="testrealm@host.com", {}nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
RFC_7616_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("challenge", "password", "cnonce", "response"),
    [
        (
            RFC_7616.format("SHA-256"),
            "Circle of Life",
            RFC_7616_CNONCE,
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        (
            RFC_7616.format("MD5"),
            "Circle of Life",
            RFC_7616_CNONCE,
            "8ca523f5e9506fed4657c9700eebdbec",
        ),
        (
            RFC_2617.format('qop="auth,auth-int", '),
            "Circle Of Life",
            "0a4f113b",
            "6629fae49393a05397450978507c4ef1",
        ),
        (RFC_2617.format(""), "CircleOfLife", "0a4f113b", "1949323746fe6a43ef61f9606e7febea"),
    ],
    ids=["RFC 7616 SHA-256", "RFC 7616 MD5", "RFC 2617", "RFC 2069 with its erratum"],
)
def test_a_digest_is_that_of_the_rfcs(challenge: str, password: str, cnonce: str, response: str) -> None:
    given = Credential(Target.SERVER, Scheme.DIGEST, "Mufasa", password)
    authenticator = Authenticator([given], Target.SERVER, cnonce=lambda: cnonce)
    assert authenticator.challenged([challenge])
    answer = fields(said(authenticator, "GET", "/dir/index.html"))
    assert answer["response"] == response
    asked = fields(challenge)
    assert {name: answer[name] for name in ("realm", "nonce", "opaque")} == {
        name: asked[name] for name in ("realm", "nonce", "opaque")
    }
    assert answer["uri"] == "/dir/index.html"
    assert ("qop" in answer, "nc" in answer, "cnonce" in answer) == ("qop" in asked,) * 3


def test_a_user_name_can_be_hidden() -> None:
    if "sha512_256" not in hashlib.algorithms_available:
        pytest.skip("this Python's hashlib has no SHA-512/256")
    authenticator = an_authenticator(credential(None, "Jäsøn Doe", "Secret, or not?"))
    challenge = 'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="n", '
    assert authenticator.challenged([challenge + "charset=UTF-8, userhash=true"])
    answer = fields(said(authenticator))
    # RFC 7616 3.9.2 with its erratum
    assert answer["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert answer["userhash"] == "true"


@pytest.mark.parametrize(
    ("user", "charset", "spelt"),
    [
        ("Jäsøn Doe", ", charset=UTF-8", "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, "),
        ("Jäsøn Doe", "", 'username="{}", '.format("Jäsøn Doe".encode().decode("latin-1"))),
        ("DOM\\user", ", charset=UTF-8", r'username="DOM\\user", '),
        ('the "old"', "", r'username="the \"old\"", '),
    ],
)
def test_a_user_name_survives_the_header(user: str, charset: str, spelt: str) -> None:
    authenticator = an_authenticator(credential(None, user))
    assert authenticator.challenged([DIGEST + charset])
    assert said(authenticator).startswith("Digest " + spelt)


def test_a_digest_counts_its_requests() -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged([DIGEST])
    answers = [fields(said(authenticator)) for _ in range(17)]
    assert [answer["nc"] for answer in answers][:2] == ["00000001", "00000002"]
    assert answers[16]["nc"] == "00000011"
    assert len({answer["response"] for answer in answers}) == 17


def test_two_digests_never_use_the_same_client_nonce() -> None:
    nonces = set()
    for _ in range(10):
        authenticator = Authenticator([GIVEN], Target.SERVER)
        assert authenticator.challenged([DIGEST])
        nonces.add(fields(said(authenticator))["cnonce"])
    assert len(nonces) == 10


def digest(nonce: str, *, stale: bool = False) -> list[str]:
    return [f'Digest realm="r", qop="auth", nonce="{nonce}"' + ", stale=TRUE" * stale]


def test_an_expired_nonce_is_replaced_as_often_as_it_takes() -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged(digest("0"))
    for number in range(1, 5):
        assert fields(said(authenticator))["nc"] == "00000001"
        assert fields(said(authenticator))["nc"] == "00000002"
        assert authenticator.challenged(digest(str(number), stale=True))


def test_a_nonce_that_was_good_is_replaced_even_when_nobody_says_that_it_is_stale() -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged(digest("0"))
    said(authenticator), said(authenticator)
    assert authenticator.challenged(digest("1"))
    said(authenticator)
    assert not authenticator.challenged(digest("2"))


def test_a_server_to_which_every_nonce_is_stale_is_asked_twice() -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged(digest("0"))
    said(authenticator)
    assert authenticator.challenged(digest("1", stale=True))
    said(authenticator)
    assert not authenticator.challenged(digest("2", stale=True))


def test_the_same_nonce_again_is_a_refusal() -> None:
    authenticator = an_authenticator()
    assert authenticator.challenged(digest("0"))
    said(authenticator), said(authenticator)
    assert not authenticator.challenged(digest("0", stale=True))


# Before real servers


class DigestServer(http.server.ThreadingHTTPServer):
    """Digest by another hand: what RFC 7616 says, written without the client's code; curl vouches for it."""

    daemon_threads = True

    def __init__(self, asked: str, *, password: str = "Circle of Life", uses: int = 1_000_000) -> None:
        """`asked` are the parameters of the challenge; each nonce is good for so many `uses`."""
        super().__init__(("127.0.0.1", 0), DigestHandler)
        self.asked, self.password, self.uses = asked, password, uses
        self.nonces: dict[str, int] = {}
        self.answered: list[tuple[str, int]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def hashed(self, *parts: str) -> str:
        wanted = parse_keqv_list(parse_http_list(self.asked)).get("algorithm", "MD5").removesuffix("-sess")
        kind = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[wanted]
        return hashlib.new(kind, ":".join(parts).encode()).hexdigest()

    def judge(self, method: str, target: str, authorization: str | None) -> tuple[int, str]:
        """The status, and what the challenge of a 401 has beyond `asked`."""
        fresh = f"nonce-{len(self.nonces)}"
        if authorization is None:
            self.nonces[fresh] = 0
            return 401, f'nonce="{fresh}"'
        said = fields(authorization)
        asked = parse_keqv_list(parse_http_list(self.asked))
        user = self.hashed("Mufasa", asked["realm"]) if "userhash" in asked else "Mufasa"
        secret = self.hashed("Mufasa", asked["realm"], self.password)
        if asked.get("algorithm", "").endswith("-sess"):
            secret = self.hashed(secret, said["nonce"], said["cnonce"])
        middle = [said["nc"], said["cnonce"], said["qop"]] if "qop" in asked else []
        expected = self.hashed(secret, said["nonce"], *middle, self.hashed(method, target))
        good = said["username"] == user and said["uri"] == target and said["response"] == expected
        used = self.nonces.get(said["nonce"], self.uses)
        if good and used < self.uses and int(said.get("nc", str(used + 1)), 16) == used + 1:
            self.nonces[said["nonce"]] += 1
            return 200, ""
        self.nonces[fresh] = 0
        return 401, f'nonce="{fresh}"' + (", stale=true" if good else "")


class DigestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DigestServer

    def do_GET(self) -> None:
        status, challenge = self.server.judge(self.command, self.path, self.headers["Authorization"])
        self.server.answered.append((self.command, status))
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Newauth realm="a, b"')
            self.send_header("WWW-Authenticate", f"Digest {self.server.asked}, {challenge}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_BITS_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(asked: str, *, password: str = "Circle of Life", uses: int = 1_000_000) -> Iterator[DigestServer]:
    server = DigestServer(asked, password=password, uses=uses)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def ask(
    port: int, authenticator: Authenticator, target: str = "/in/a%20b?c=d", method: str = "BITS_POST"
) -> int:
    """The status of one request, repeated for as long as the authenticator sees sense in it."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for _ in range(5):
            authorization = authenticator.authorization(method, target)
            connection.request(
                method, target, headers={"Authorization": authorization} if authorization else {}
            )
            response = connection.getresponse()
            response.read()
            challenges = response.headers.get_all("WWW-Authenticate") or []
            if response.status != 401 or not authenticator.challenged(challenges):
                return response.status
    pytest.fail("it asks again and again")


KINDS = [
    'realm="somewhere", qop="auth"',
    'realm="somewhere"',
    'realm="a, \\"b\\"", opaque="o, \\"p\\"", qop="auth,auth-int", algorithm=MD5',
    'realm="somewhere", qop="auth", algorithm=MD5-sess',
    'realm="somewhere", qop="auth", algorithm=SHA-256',
    'realm="somewhere", qop="auth-int, auth", algorithm=SHA-256-sess',
    'realm="somewhere", qop="auth", algorithm=SHA-256, userhash=true, charset=UTF-8',
    'realm="somewhere", qop="auth", algorithm=SHA-512-256',
]


@pytest.mark.parametrize("asked", KINDS)
def test_a_digest_server_is_convinced(asked: str) -> None:
    if "SHA-512-256" in asked and "sha512_256" not in hashlib.algorithms_available:
        pytest.skip("this Python's hashlib has no SHA-512/256")
    with serving(asked) as server:
        authenticator = an_authenticator()
        assert [ask(server.server_port, authenticator) for _ in range(3)] == [200, 200, 200]
        assert server.answered == [("BITS_POST", 401)] + [("BITS_POST", 200)] * 3


@pytest.mark.parametrize("uses", [1, 2])
def test_a_digest_server_that_expires_its_nonces_is_convinced_every_time(uses: int) -> None:
    with serving(KINDS[0], uses=uses) as server:
        authenticator = an_authenticator()
        assert {ask(server.server_port, authenticator) for _ in range(6)} == {200}


def test_a_wrong_password_is_said_to_a_digest_server_once() -> None:
    with serving(KINDS[0], password="another") as server:
        authenticator = an_authenticator()
        assert ask(server.server_port, authenticator) == 401
        assert server.answered == [("BITS_POST", 401), ("BITS_POST", 401)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("asked", [kind for kind in KINDS if "SHA-512-256" not in kind])
def test_curl_convinces_the_same_server_so_the_server_is_right(asked: str) -> None:
    with serving(asked) as server:
        url = f"http://127.0.0.1:{server.server_port}/in/a%20b?c=d"
        curl = ["curl", "--silent", "--noproxy", "*", "--digest", "--user"]
        subprocess.run([*curl, "Mufasa:Circle of Life", url], check=True, timeout=20)
        assert [status for _, status in server.answered] == [401, 200]
        server.answered.clear()
        subprocess.run([*curl, "Mufasa:wrong", url], check=True, timeout=20)
        assert {status for _, status in server.answered} == {401}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx that lets in Mufasa with his password, and "Jäsøn" with "£"."""
    program = shutil.which(
        "nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
    )
    if program is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "in").mkdir()
    (folder / "in" / "file").write_bytes(b"here")
    (folder / "users").write_text("Mufasa:{PLAIN}Circle of Life\nJäsøn:{PLAIN}£\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid nginx.pid; error_log error.log;
        events {{}}
        http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
                uwsgi_temp_path t4; scgi_temp_path t5;
            server {{ listen 127.0.0.1:{port}; root .;
                location /in/ {{ auth_basic "some, where"; auth_basic_user_file users; }} }} }}"""
    )
    with subprocess.Popen(
        [program, "-p", str(folder), "-e", "error.log", "-c", str(folder / "nginx.conf")]
    ) as process:
        try:
            wait_for(port, process, folder)
            yield port
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    pytest.fail((folder / "error.log").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("user", "password", "status"),
    [("Mufasa", "Circle of Life", 200), ("Jäsøn", "£", 200), ("Mufasa", "wrong", 401), ("", "", 401)],
)
def test_nginx_lets_in_whom_it_knows(nginx: int, user: str, password: str, status: int) -> None:
    authenticator = an_authenticator(credential(None, user, password))
    assert ask(nginx, authenticator, "/in/file", "GET") == status
    assert authenticator.schemes_offered == ("Basic",)
    if status == 200:
        assert base64.b64decode(said(authenticator).split()[1]).decode() == f"{user}:{password}"
