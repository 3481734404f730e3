"""Who an application is, who we are to it, and what of that nobody else may see."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from . import raw
from .applications import COPY, Answering, Application, Heard, outcome, say, telling
from .conftest import Serve
from .ferry import Ferry

DATA = os.urandom(20_000)
FINE = (200, None, None)
NOT_TRUSTED = (502, "0x80072F8F", "0x7")
SECRET = "open sesame: ü"
TOKEN = "eyJhbGciOi.J9-_~+/=="

Ask = Callable[..., Application]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Starts applications, over TLS when there is a context."""
    started: list[Application] = []

    def ask(answer: Answering | bytes, tls: ssl.SSLContext | None = None) -> Application:
        started.append(Application(answer if callable(answer) else lambda heard: answer, tls))
        return started[-1]

    yield ask
    for application in started:
        application.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    """Its certificate in a file."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return f'notification_ca = "{tmp_path}/ca.pem"\n'


def server_side(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def secret_file(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    return path


# Over TLS


@pytest.mark.parametrize("kind", ["reference", "value"])
def test_c14_an_application_is_reached_over_https(
    serve: Serve, ask: Ask, authority: trustme.CA, ca: str, kind: str
) -> None:
    reply = b"safely" if kind == "value" else b""
    application = ask(say(body=reply, **COPY), server_side(authority, "127.0.0.1"))
    upload = serve(directory=telling(application, kind) + ca).begun()
    data = os.urandom(3 << 20)
    ack = upload.fragment(data)
    assert outcome(ack) == FINE
    assert (ack.get("BITS-Reply-URL") is not None) == (kind == "value")
    assert application.last.size == (len(data) if kind == "value" else 0)
    assert upload.file.read_bytes() == data


@pytest.mark.parametrize("wrong", ["nobody vouches for it", "another name", "no TLS"])
def test_c14_one_that_cannot_be_trusted_hears_nothing_and_may_be_mended(
    serve: Serve, ask: Ask, authority: trustme.CA, ca: str, wrong: str
) -> None:
    """A 5xx: a certificate that ran out must not cost anybody an upload."""
    if wrong == "no TLS":
        application = ask(say())
        settings = telling(application, "value").replace("http:", "https:")
    else:
        known = trustme.CA() if wrong == "nobody vouches for it" else authority
        name = "elsewhere.example" if wrong == "another name" else "127.0.0.1"
        application = ask(say(), server_side(known, name))
        settings = telling(application, "value")
    ferry = serve(directory=settings + ca)
    assert outcome(ferry.begun().fragment(DATA)) == NOT_TRUSTED
    assert not [heard for heard in application.heard if heard.method == "POST"]
    assert f"no safe line to the application at https://127.0.0.1:{application.port}/handle" in text(ferry)


def text(ferry: Ferry) -> str:
    return ferry.log.read_text(encoding="utf-8")


def test_c14_without_a_file_of_authorities_the_systems_count(
    serve: Serve, ask: Ask, authority: trustme.CA
) -> None:
    application = ask(say(), server_side(authority, "127.0.0.1"))
    assert outcome(serve(directory=telling(application, "value")).begun().fragment(DATA)) == NOT_TRUSTED


@pytest.mark.parametrize("key_apart", [True, False])
def test_we_have_a_certificate_where_we_need_one(
    serve: Serve, ask: Ask, authority: trustme.CA, ca: str, tmp_path: Path, key_apart: bool
) -> None:
    context = server_side(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    application = ask(say(**COPY), context)
    ours = authority.issue_cert("ferry.example")
    settings = telling(application, "value") + ca + f'notification_certificate = "{tmp_path}/ours.pem"\n'
    if key_apart:
        ours.cert_chain_pems[0].write_to_path(str(tmp_path / "ours.pem"))
        ours.private_key_pem.write_to_path(str(tmp_path / "ours.key"))
        settings += f'notification_key = "{tmp_path}/ours.key"\n'
    else:
        ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "ours.pem"))
    assert outcome(serve(directory=settings).begun().fragment(DATA)) == FINE
    assert ("DNS", "ferry.example") in application.last.peer["subjectAltName"]


def test_by_value_a_reply_without_a_length_that_anybody_may_have_cut_is_none(
    serve: Serve, ask: Ask, authority: trustme.CA, ca: str
) -> None:
    """RFC 9112 9.8: TLS has a farewell, and where nothing else says how long a body is it counts."""
    application = ask(say(content_length=None, body=b"a reply"), server_side(authority, "127.0.0.1"))
    ferry = serve(directory=telling(application, "value") + ca)
    upload = ferry.begun()
    application.polite = False
    assert outcome(upload.fragment(DATA)) == (502, "0x80072EFE", "0x7")
    application.polite = True
    assert upload.fragment(DATA).get("BITS-Reply-URL") is not None


def test_by_reference_an_old_server_may_just_hang_up_where_nothing_is_missing(
    serve: Serve, ask: Ask, authority: trustme.CA, ca: str
) -> None:
    application = ask(say(content_length=None, body=b"a page", **COPY), server_side(authority, "127.0.0.1"))
    application.polite = False
    ferry = serve(directory=telling(application, "reference") + ca)
    assert outcome(ferry.begun().fragment(DATA)) == FINE
    application.answer = lambda heard: say(body=b"a page", **COPY)[:-1]
    assert outcome(ferry.begun().fragment(DATA)) == (502, "0x80072EFE", "0x7")


# Names, passwords, tokens


def test_a_name_and_a_password_are_said_at_once(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    application = ask(say())
    secret_file(tmp_path / "password", SECRET)
    settings = f'notification_user = "ferry"\nnotification_password_file = "{tmp_path}/password"\n'
    serve(directory=telling(application, "value") + settings).begun().fragment(DATA)
    expected = base64.b64encode(f"ferry:{SECRET}".encode()).decode()
    assert [heard.get("Authorization") for heard in application.heard] == [f"Basic {expected}"]


def test_so_is_a_token(serve: Serve, ask: Ask, tmp_path: Path) -> None:
    application = ask(say())
    secret_file(tmp_path / "token", TOKEN)
    settings = f'notification_token_file = "{tmp_path}/token"\n'
    serve(directory=telling(application, "value") + settings).begun().fragment(DATA)
    assert [heard.get("Authorization") for heard in application.heard] == [f"Bearer {TOKEN}"]


def test_nothing_is_said_where_nothing_is_set(serve: Serve, ask: Ask) -> None:
    application = ask(say())
    serve(directory=telling(application, "value")).begun().fragment(DATA)
    assert application.last.get("Authorization") is None


def test_what_the_client_says_to_us_is_not_said_to_the_application(serve: Serve, ask: Ask) -> None:
    application = ask(say())
    headers: dict[str, Any] = {
        "authorization": "Basic bWU6bXk=",
        "cookie": "mine=1",
        "bits_copy_file_to_destination": "yes",
    }
    upload = serve(directory=telling(application, "value")).begun()
    assert outcome(upload.fragment(DATA, **headers)) == FINE
    for header in headers:
        assert application.last.get(header.replace("_", "-")) is None
    assert not upload.file.exists()


def test_secrets_are_for_the_one_application_and_not_for_another_it_names(
    serve: Serve, ask: Ask, tmp_path: Path
) -> None:
    other = ask(say(**COPY))
    application = ask(say(202, location=other.url("/jobs/1"), retry_after="1"))
    secret_file(tmp_path / "token", TOKEN)
    settings = f'notification_token_file = "{tmp_path}/token"\n'
    upload = serve(directory=telling(application, "value") + settings).begun()
    assert outcome(upload.fragment(DATA))[0] == 503
    assert raw.eventually(lambda: upload.fragment(DATA).status == 200)
    assert application.last.get("Authorization") == f"Bearer {TOKEN}"
    assert (other.last.method, other.last.get("Authorization")) == ("GET", None)


# The log


@pytest.mark.parametrize("status", [403, 500])
def test_the_log_names_the_application_and_keeps_the_secrets(
    serve: Serve, ask: Ask, tmp_path: Path, status: int
) -> None:
    application = ask(say(status))
    secret_file(tmp_path / "password", SECRET)
    settings = f'notification_user = "ferry"\nnotification_password_file = "{tmp_path}/password"\n'
    ferry = serve(directory=telling(application, "value", "/handle?key=hidden") + settings)
    assert outcome(ferry.begun().fragment(DATA))[0] == status
    log = text(ferry)
    assert f"the application at http://127.0.0.1:{application.port}/handle" in log
    for secret in ("hidden", SECRET, "Basic", base64.b64encode(SECRET.encode()).decode()[:8]):
        assert secret not in log


def test_a_password_that_changed_is_read_again_with_the_settings(
    serve: Serve, ask: Ask, tmp_path: Path
) -> None:
    def answer(heard: Heard) -> bytes:
        return say(**COPY) if heard.get("Authorization") == "Bearer new" else say(401)

    path = secret_file(tmp_path / "token", "old")
    ferry = serve(directory=telling(ask(answer), "value") + f'notification_token_file = "{path}"\n')
    upload = ferry.begun()
    assert outcome(upload.fragment(DATA))[0] == 502
    secret_file(path, "new")
    ferry.reload()
    assert raw.eventually(lambda: "settings read again" in text(ferry))
    assert outcome(upload.fragment(DATA)) == FINE
