"""Ways to a server: through proxies, by TLS, past those who ask who we are."""

import contextlib
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from bitsferry.client.agent import NotTrusted
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.options import HttpOptions
from bitsferry.client.proxies import ProxySettings, ProxyUsage
from bitsferry.client.trust import Ignore, TlsSettings
from bitsferry.protocol.errors import (
    AuthenticationRequired,
    BitsError,
    CannotConnect,
    ProxyAuthenticationRequired,
    Refused,
)
from bitsferry.protocol.packets import Ack, Fragment
from bitsferry.protocol.wire import write_ack

from .conftest import Sender, password
from .hostile import Exchange, HostileServer, Proxy

GATE = Credential(Target.PROXY, None, "gate", "secret")


@pytest.fixture
def proxies() -> Iterator[Callable[..., Proxy]]:
    """Makes proxies that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(Proxy(**options)))


def through(proxy: Proxy, bypass: str = "", *, tunnel: bool = False) -> HttpOptions:
    return HttpOptions(proxy=ProxySettings.override(f"http://{proxy.address}", bypass, tunnel=tunnel))


# Proxies


def test_a_proxy_is_told_the_whole_url(
    sender: Sender, server: HostileServer, proxies: Callable[..., Proxy]
) -> None:
    proxy = proxies()
    sender.run(http=through(proxy))
    assert sender.arrived
    assert {*proxy.heard} == {("BITS_POST", server.url())}
    assert {heard.headers["host"] for heard in server.heard} == {f"127.0.0.1:{server.port}"}


def test_a_proxy_that_asks_is_told_name_and_password_and_the_server_is_not(
    sender: Sender, server: HostileServer, proxies: Callable[..., Proxy]
) -> None:
    proxy = proxies(user="gate", password="secret")
    sender.run(http=through(proxy), credentials=[GATE, password("inga", "pw")])
    assert sender.arrived
    assert len(proxy.heard) == len(server.heard) + 1
    assert not any("authorization" in heard.headers for heard in server.heard)


@pytest.mark.parametrize("credentials", [[], [Credential(Target.PROXY, None, "gate", "wrong")]])
@pytest.mark.parametrize("tunnel", [True, False])
def test_a_proxy_that_says_no_is_asked_once(
    sender: Sender,
    server: HostileServer,
    proxies: Callable[..., Proxy],
    credentials: list[Credential],
    tunnel: bool,
) -> None:
    proxy = proxies(user="gate", password="secret")
    with pytest.raises(ProxyAuthenticationRequired) as caught:
        sender.run(http=through(proxy, tunnel=tunnel), credentials=credentials)
    sentence = (
        "refuses the user name 'gate'" if credentials else r"wants a user name and a password \(Basic\)"
    )
    assert re.search(f"the proxy {sentence}", caught.value.message)
    assert len(proxy.heard) == 1 + len(credentials)
    assert server.heard == []


def test_http_goes_by_a_tunnel_where_that_is_wanted(
    sender: Sender, server: HostileServer, proxies: Callable[..., Proxy]
) -> None:
    proxy = proxies(user="gate", password="secret")
    sender.run(http=through(proxy, tunnel=True), credentials=[GATE])
    assert sender.arrived
    assert proxy.heard == 2 * [("CONNECT", f"127.0.0.1:{server.port}")]
    assert not any("proxy-authorization" in heard.headers for heard in server.heard)


def test_a_bypass_list_leads_straight(
    sender: Sender, server: HostileServer, proxies: Callable[..., Proxy]
) -> None:
    proxy = proxies()
    sender.run(http=through(proxy, "*.example.com 127.0.0.0/8"))
    assert sender.arrived
    assert proxy.heard == []


def test_the_systems_proxy_is_used_unless_it_is_not_wanted(
    sender: Sender, server: HostileServer, proxies: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxies(user="gate", password="secret")
    monkeypatch.setenv("http_proxy", f"http://gate:secret@{proxy.address}")
    sender.run()
    assert sender.arrived
    assert proxy.heard
    count = len(proxy.heard)
    sender.run(http=HttpOptions(proxy=ProxySettings(ProxyUsage.NO_PROXY)))
    assert len(proxy.heard) == count


def test_a_proxy_nobody_answers_at_is_named(sender: Sender, proxies: Callable[..., Proxy]) -> None:
    proxy = proxies()
    proxy.close()
    port = proxy.address.partition(":")[2]
    with pytest.raises(
        CannotConnect, match=rf"127\.0\.0\.1 cannot be reached: nobody answers at port {port}"
    ):
        sender.run(http=through(proxy), patience=0)


@pytest.mark.parametrize(("status", "transient"), [(403, False), (404, False), (502, True), (503, True)])
def test_a_proxy_may_open_no_tunnel(sender: Sender, status: int, transient: bool) -> None:
    with (
        contextlib.closing(Proxy(refuses=status)) as proxy,
        pytest.raises(Refused, match=f"opens no way to .* {status}") as caught,
    ):
        sender.run(http=through(proxy, tunnel=True), patience=0)
    assert caught.value.transient == transient


def test_a_proxys_error_page_is_an_error_like_the_servers(sender: Sender, server: HostileServer) -> None:
    @server.on(first=2)
    def be_a_proxy_that_reaches_nobody(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.say_plainly(
            504, [("Content-Type", "text/html"), ("Content-Length", "14")], b"<h1>504</h1>\r\n"
        )

    sender.run()
    assert sender.arrived
    assert [retry.error.status for retry in sender.retries] == [504, 504]


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Callable[..., HostileServer]]:
    """Makes servers that speak TLS."""
    with contextlib.ExitStack() as stack:

        def make(certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> HostileServer:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            if clients is not None:
                clients.configure_trust(context)
                context.verify_mode = ssl.CERT_REQUIRED
            server = HostileServer(tls=context, scheme="https")
            return stack.enter_context(contextlib.closing(server))

        yield make


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def test_https_goes_through_a_proxy_by_a_tunnel(
    sender: Sender,
    secure: Callable[..., HostileServer],
    authority: trustme.CA,
    ca_file: str,
    proxies: Callable[..., Proxy],
) -> None:
    proxy = proxies(user="gate", password="secret")
    sender.server = secure(authority.issue_cert("127.0.0.1"))
    options = through(proxy)
    http = HttpOptions(proxy=options.proxy, tls=TlsSettings(ca_file=ca_file))
    sender.run(http=http, credentials=[GATE, password("inga", "pw")])
    assert sender.arrived
    assert proxy.heard == 2 * [("CONNECT", f"127.0.0.1:{sender.server.port}")]
    assert not any("proxy-authorization" in heard.headers for heard in sender.server.heard)


@pytest.mark.parametrize("with_one", [True, False])
def test_a_server_may_want_a_certificate_of_ours(
    sender: Sender,
    secure: Callable[..., HostileServer],
    authority: trustme.CA,
    ca_file: str,
    tmp_path: Path,
    with_one: bool,
) -> None:
    sender.server = secure(authority.issue_cert("127.0.0.1"), authority)
    ours = tmp_path / "ours.pem"
    authority.issue_cert("inga@example.com").private_key_and_cert_chain_pem.write_to_path(str(ours))
    tls = TlsSettings(ca_file=ca_file, client_certificate=str(ours) if with_one else None)
    with contextlib.nullcontext() if with_one else pytest.raises(BitsError):
        sender.run(http=HttpOptions(tls=tls), patience=0)
    assert sender.arrived == with_one


YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.mark.parametrize("fault", [Ignore.CN, Ignore.DATE, Ignore.CA])
@pytest.mark.parametrize("ignored", [Ignore(0), Ignore.CN, Ignore.DATE, Ignore.CA])
def test_a_file_goes_to_a_server_with_a_fault_only_where_that_fault_is_overlooked(
    sender: Sender,
    secure: Callable[..., HostileServer],
    authority: trustme.CA,
    ca_file: str,
    fault: Ignore,
    ignored: Ignore,
) -> None:
    signer = trustme.CA() if fault is Ignore.CA else authority
    name = "elsewhere.example" if fault is Ignore.CN else "127.0.0.1"
    until = YESTERDAY if fault is Ignore.DATE else None
    sender.server = secure(signer.issue_cert(name, not_after=until))
    http = HttpOptions(tls=TlsSettings(ca_file=ca_file, ignore=ignored))
    if ignored is fault:
        sender.run(http=http)
        assert sender.arrived
        return
    with pytest.raises(NotTrusted, match="not trusted") as caught:
        sender.run(http=http)
    assert not caught.value.transient
    assert sender.server.heard == []


# Who is asking


def digest_of(exchange: Exchange, challenge: dict[str, str], secret: str) -> str:
    """What a client that knows the password answers (RFC 7616 3.4.1)."""
    said = dict(re.findall(r'(\w+)="?([^",]+)"?', exchange.headers.get("authorization", "")))

    def hashed(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    first = hashed(f"inga:{challenge['realm']}:{secret}")
    second = hashed(f"{exchange.method}:{exchange.target}")
    counted = f"{said.get('nc')}:{said.get('cnonce')}"
    expected = hashed(f"{first}:{challenge['nonce']}:{counted}:auth:{second}")
    return "right" if said.get("response") == expected else f"wrong: {said}"


def test_a_digest_is_said_for_each_request_and_the_password_never(
    sender: Sender, server: HostileServer
) -> None:
    challenge = {"realm": "in", "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093"}
    asked = (
        f'Digest realm="{challenge["realm"]}", nonce="{challenge["nonce"]}", qop="auth", algorithm=SHA-256'
    )

    @server.on()
    def ask(exchange: Exchange) -> None:
        if digest_of(exchange, challenge, "pw") == "right":
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.say(Ack(401, challenges=("Basic", asked)))

    sender.run(credentials=[password("inga", "pw")])
    assert sender.arrived
    said = [heard.headers.get("authorization", "") for heard in server.heard]
    assert said[0] == ""
    assert all(each.startswith("Digest ") for each in said[1:])
    assert len(set(said)) == len(said), "each has another count"


def test_a_token_is_said_from_the_first_request_on(sender: Sender, server: HostileServer) -> None:
    sender.run(credentials=[password("", "tok.en", Scheme.BEARER)])
    assert {heard.headers.get("authorization") for heard in server.heard} == {"Bearer tok.en"}


@pytest.mark.parametrize(
    ("challenges", "credentials", "sentence"),
    [
        (["Hoba"], [password("inga", "pw")], "the server wants Hoba; only Negotiate"),
        (["Basic"], [password("inga", "pw")], "refuses the user name 'inga' or its password"),
        (["Basic"], [], r"wants a user name and a password \(Basic\)"),
        ([], [password("", "tok.en", Scheme.BEARER)], "refuses the token"),
        (["Basic"], [password("inga", "pw", Scheme.DIGEST)], "wants Basic; what was given is for Digest"),
    ],
)
def test_whom_the_server_does_not_know_it_says_what_it_wants(
    sender: Sender,
    server: HostileServer,
    challenges: list[str],
    credentials: list[Credential],
    sentence: str,
) -> None:
    @server.on()
    def ask(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.say(Ack(401, challenges=tuple(challenges)))

    with pytest.raises(AuthenticationRequired, match=sentence) as caught:
        sender.run(credentials=credentials)
    assert "pw" not in str(caught.value)
    assert len(server.heard) <= 2


def test_a_server_that_asks_again_in_the_middle_is_told_again(sender: Sender, server: HostileServer) -> None:
    """A new nonce, after the old one went stale."""
    nonces = iter(["one", "two", "three"])
    challenge = {"realm": "in", "nonce": next(nonces)}

    def challenged() -> Ack:
        return Ack(
            401,
            challenges=(
                f'Digest realm="in", nonce="{challenge["nonce"]}", qop="auth", algorithm=SHA-256, stale=true',
            ),
        )

    @server.on()
    def ask(exchange: Exchange) -> None:
        if isinstance(exchange.packet, Fragment) and len(server.fragments()) == 2:
            challenge["nonce"] = next(nonces)
        if digest_of(exchange, challenge, "pw") == "right":
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.say_plainly(401, write_ack(challenged()))

    sender.run(credentials=[password("inga", "pw")])
    assert sender.arrived
    assert challenge["nonce"] == "two"
