"""`bitsferry serve` over TLS: settings and options, certificates that are renewed, one of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server import raw
from server.authority import Authority, SecureLine
from server.raw import Line, eventually

from .conftest import Configure, Start
from .serving import SERVE, Served
from .test_systemd import ACTIVATED, listening

TLS = '[tls]\ncertificate = "server.pem"\nkey = "server.key"\n'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Its files lie beside the settings."""
    authority = Authority(tmp_path)
    issue(authority, "localhost")
    return authority


def issue(authority: Authority, name: str) -> None:
    """A new certificate, as certbot puts it there: the key last."""
    authority.issue("server.pem", name, "localhost", key="server.key")


def port(served: Served, number: int = 0) -> int:
    return urlsplit(served.urls[number]).port or 0


def shown(port: int, authority: Authority) -> str:
    with SecureLine(port, authority.trust()) as line:
        assert line.ask(raw.ping("/in/x")).status == 200
        return line.certificate


# Settings


def test_with_a_certificate_every_address_speaks_tls_but_those_that_say_otherwise(
    start: Start, configure: Configure, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    addresses = ["127.0.0.1:0", "http://127.0.0.1:0", "https://127.0.0.1:0", f"unix:{path}"]
    config = Path(configure(limits="idle_time = 60", directory=TLS))
    config.write_text(config.read_text().replace('["127.0.0.1:0"]', json.dumps(addresses)))
    served = start("--config", str(config)).ready(4)
    schemes = [url.partition(":")[0] for url in served.urls]
    assert schemes == ["https", "http", "https", "unix"]
    assert shown(port(served, 0), authority) == shown(port(served, 2), authority) == "localhost"
    for where in (port(served, 1), str(path)):
        with Line(where) as line:
            assert line.ask(raw.ping("/in/x")).status == 200


@pytest.mark.parametrize(
    ("settings", "line", "said"),
    [
        (TLS.replace("server.key", "none.key"), 13, "none.key cannot be read: No such file or directory"),
        ('[tls]\nkey = "server.key"', 11, "this [tls] has no certificate"),
        ('[tls]\ncertificat = "server.pem"', 12, "unknown in [tls]; did you mean certificate?"),
        (TLS + 'client_certificates = "yes"', 14, '"yes" is none of "optional", "required"'),
        (TLS + 'client_certificates = "required"', 14, "client_certificates: client_ca has to say which"),
        (TLS + 'client_ca = "ca.pem"', 14, "client_ca: nobody is asked for a certificate"),
        (TLS + 'minimum = "1.1"', 14, 'minimum: "1.1" is none of "1.2", "1.3"'),
        (
            "[[tls]]\n" + TLS[6:] + "[[tls]]\n" + TLS[6:] + 'client_ca = "ca.pem"',
            17,
            "client_ca: it is the same for all names, and belongs into the first [[tls]]",
        ),
        ("[[tls]]\n" + TLS[6:] + '[[tls]]\ncertificate = "none"', 15, "none cannot be read"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    start: Start, configure: Configure, authority: Authority, settings: str, line: int, said: str
) -> None:
    config = configure(directory=settings)
    served = start("--config", config, "--check-config")
    assert served.ended() == 2
    assert served.log.startswith(f"bitsferry: {config}, line {line}: "), served.log
    assert said in served.log


def test_tls_is_a_table(start: Start, configure: Configure) -> None:
    served = start("--config", configure(top="tls = true"))
    assert served.ended() == 2
    assert "line 3: tls: write [tls], and certificate and key below it" in served.log


def test_tls_without_a_certificate_is_a_mistake(start: Start, configure: Configure) -> None:
    served = start("--config", configure(), "--listen", "https://127.0.0.1:0")
    assert served.ended() == 2
    assert "listen: https://127.0.0.1:0 needs a certificate: write [tls]" in served.log


@pytest.mark.parametrize(
    "address", ["ftp://h:1", "https://h", "http://[::1:1", "h:1/", "https://h:1/x", "https:h:1"]
)
def test_what_is_no_address_is_told(start: Start, tmp_path: Path, address: str) -> None:
    served = start(str(tmp_path / "in"), "--listen", address)
    assert served.ended() == 2
    assert "is no address to listen on" in served.log.replace("\n", " ")


def test_several_names_each_have_their_certificate(
    start: Start, configure: Configure, authority: Authority
) -> None:
    authority.issue("other.pem", "other.example")
    settings = "[[tls]]\n" + TLS[6:] + '[[tls]]\ncertificate = "other.pem"\n'
    served = start("--config", configure(directory=settings)).ready()
    with SecureLine(port(served), authority.trust(), "other.example") as line:
        assert line.certificate == "other.example"
    assert shown(port(served), authority) == "localhost"


def test_sockets_from_systemd_speak_tls_if_there_is_a_certificate(
    start: Start, configure: Configure, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with listening(path) as (tcp, unix):
        given = (tcp.fileno(), unix.fileno())
        command = [*ACTIVATED, ",".join(map(str, given)), *SERVE]
        served = start("--config", configure(directory=TLS), command=command, descriptors=given).ready(2)
        assert served.urls == [f"https://127.0.0.1:{tcp.getsockname()[1]}/", f"unix:{path}"]
        assert shown(tcp.getsockname()[1], authority) == "localhost"
        with Line(str(path)) as line:
            assert line.ask(raw.ping("/in/x")).status == 200


# Options


def test_a_certificate_may_be_named_by_an_option(start: Start, authority: Authority, tmp_path: Path) -> None:
    given = f"{tmp_path}/server.pem,{tmp_path}/server.key"
    served = start(str(tmp_path / "in"), "--listen", "127.0.0.1:0", "--tls", given).ready()
    assert served.urls[0].startswith("https://127.0.0.1:")
    assert shown(port(served), authority) == "localhost"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.pem", "none.pem cannot be read"),
        ("server.pem,", "neither 'self-signed' nor CERTIFICATE"),
        (",server.key", "neither 'self-signed' nor CERTIFICATE"),
        ("{}/server.key", "what is needed is not in it"),
    ],
)
def test_one_that_cannot_be_used_is_wrong_usage(
    start: Start, authority: Authority, tmp_path: Path, given: str, said: str
) -> None:
    served = start(str(tmp_path / "in"), "--tls", given.format(tmp_path))
    assert served.ended() == 2
    assert said in " ".join(served.log.split())


# Renewal


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("told", [True, False])
def test_new_connections_get_the_new_certificate_and_running_ones_go_on(
    start: Start, configure: Configure, authority: Authority, tmp_path: Path, workers: str, told: bool
) -> None:
    served = start("--config", configure(directory=TLS), "--workers", workers).ready()
    with SecureLine(port(served), authority.trust()) as line:
        session = line.ask(raw.create("/in/file")).session or ""
        issue(authority, "new.example")
        if told:
            served.tell(signal.SIGHUP)
        news = ["settings read again"] if told else ["the files for TLS changed"] * int(workers)
        assert all(served.says(text, times=len(news)) for text in news)
        assert eventually(lambda: {shown(port(served), authority) for _ in range(8)} == {"new.example"}), (
            served.log
        )
        assert line.ask(raw.fragment("/in/file", session, b"bytes")).status == 200
        assert line.certificate == "localhost"
    assert (tmp_path / "in" / "file").read_bytes() == b"bytes"


def test_settings_with_a_wrong_pair_change_nothing(
    start: Start, configure: Configure, authority: Authority
) -> None:
    served = start("--config", configure(directory=TLS)).ready()
    authority.issue("server.pem", "new.example")
    served.tell(signal.SIGHUP)
    assert served.says("ERROR the settings stay as they were: ")
    assert "the key belongs to another certificate" in served.log
    assert shown(port(served), authority) == "localhost"


def test_tls_itself_comes_and_goes_with_a_restart(
    start: Start, configure: Configure, authority: Authority
) -> None:
    served = start("--config", configure(directory=TLS)).ready()
    configure()
    served.tell(signal.SIGHUP)
    assert served.says("these change with a restart only: tls")
    assert shown(port(served), authority) == "localhost"


def test_a_revoked_certificate_is_out_as_soon_as_the_list_says_so(
    start: Start, configure: Configure, authority: Authority
) -> None:
    client = authority.issue("client.pem", "host1")
    authority.revoke()
    policy = 'client_certificates = "required"\nclient_ca = "ca.pem"\nclient_crl = "revoked.pem"'
    served = start("--config", configure(directory=TLS + policy)).ready()
    context = authority.trust(client)
    with SecureLine(port(served), context) as line:
        assert line.ask(raw.ping("/in/x")).status == 200
    authority.revoke(client)
    served.tell(signal.SIGHUP)
    assert served.says("settings read again")
    with pytest.raises((ssl.SSLError, ConnectionError)), SecureLine(port(served), context) as line:
        line.ask(raw.ping("/in/x"))
    assert served.says("WARNING TLS refused: certificate revoked address=127.0.0.1")


def test_no_key_is_ever_told(
    start: Start, configure: Configure, authority: Authority, tmp_path: Path
) -> None:
    key = (tmp_path / "server.key").read_text().splitlines()[1]
    served = start("--config", configure(directory=TLS)).ready()
    (tmp_path / "server.key").write_text(f"not a key\n{key}\n")
    served.tell(signal.SIGHUP)
    assert served.says("the settings stay as they were")
    assert key not in served.log


# Its own


def own(start: Start, folder: Path, *options: str) -> Served:
    served = start(str(folder), "--listen", "127.0.0.1:0", "--tls", "self-signed", *options).ready()
    assert re.fullmatch(r"listening on https://127\.0\.0\.1:\d+/\n", served.out)
    return served


def trusting(file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the rule from Python 3.13 on
    return context


def test_a_self_signed_one_is_for_this_host_and_stays(start: Start, tmp_path: Path) -> None:
    served = own(start, tmp_path / "in")
    store = tmp_path / "in" / ".bitsferry"
    for name in ("self-signed.pem", "self-signed.key"):
        assert stat.S_IMODE(os.stat(store / name).st_mode) == 0o600
    before = (store / "self-signed.pem").read_bytes()
    with SecureLine(port(served), trusting(store / "self-signed.pem")) as line:
        assert line.ask(raw.ping("/x")).status == 200
    served.tell(signal.SIGHUP)
    assert served.says("settings read again")
    served.tell(signal.SIGTERM)
    assert served.ended() == 0
    again = own(start, tmp_path / "in")
    assert (store / "self-signed.pem").read_bytes() == before
    with SecureLine(port(again), trusting(store / "self-signed.pem"), "127.0.0.1") as line:
        assert line.ask(raw.ping("/x")).status == 200


def test_it_is_no_authority(start: Start, tmp_path: Path) -> None:
    from cryptography import x509

    own(start, tmp_path / "in")
    made = x509.load_pem_x509_certificate((tmp_path / "in/.bitsferry/self-signed.pem").read_bytes())
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_it_is_made_again_when_it_does_not_fit(start: Start, tmp_path: Path) -> None:
    served, store = own(start, tmp_path / "in"), tmp_path / "in" / ".bitsferry"
    served.tell(signal.SIGTERM)
    assert served.ended() == 0
    before = (store / "self-signed.pem").read_bytes()
    (store / "self-signed.key").write_text("torn")
    served = own(start, tmp_path / "in")
    assert (store / "self-signed.pem").read_bytes() != before
    with SecureLine(port(served), trusting(store / "self-signed.pem")) as line:
        assert line.ask(raw.ping("/x")).status == 200


def test_the_words_beside_the_log_make_others_trust_it(start: Start, tmp_path: Path) -> None:
    served = own(start, tmp_path / "in")
    assert served.says("Import-Certificate -FilePath $f -CertStoreLocation Cert:\\LocalMachine\\Root")
    (coded,) = re.findall(r"FromBase64String\('([A-Za-z0-9+/=]+)'\)", served.log)
    der = base64.b64decode(coded, validate=True)
    assert hashlib.sha256(der).digest().hex(":").upper() in served.log
    pem = (tmp_path / "in" / ".bitsferry" / "self-signed.pem").read_text()
    assert ssl.DER_cert_to_PEM_cert(der) == pem
    assert served.urls[0] in served.log
    assert "PRIVATE KEY" not in served.log


def test_a_log_in_json_stays_json(start: Start, tmp_path: Path) -> None:
    served = own(start, tmp_path / "in", "--log-format", "json")
    assert served.says("the certificate is self-signed")
    lines = [json.loads(line) for line in served.log.splitlines()]
    assert [len(line["sha256"]) for line in lines if "sha256" in line] == [32 * 3 - 1]


def test_looking_at_the_settings_makes_none(start: Start, tmp_path: Path) -> None:
    assert start(str(tmp_path / "in"), "--tls", "self-signed", "--check-config").ended() == 0
    assert not (tmp_path / "in").exists()


def test_workers_share_it(start: Start, tmp_path: Path) -> None:
    served = own(start, tmp_path / "in", "--workers", "2")
    context = trusting(tmp_path / "in" / ".bitsferry" / "self-signed.pem")
    for _ in range(8):
        with SecureLine(port(served), context) as line:
            assert line.ask(raw.ping("/x")).status == 200


def test_our_client_and_curl_reach_it_as_they_are_told(start: Start, tmp_path: Path) -> None:
    served = own(start, tmp_path / "in")
    pem = tmp_path / "in" / ".bitsferry" / "self-signed.pem"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    send = [sys.executable, "-m", "bitsferry", "send", str(source), served.urls[0], "--cacert", str(pem)]
    subprocess.run(send, check=True, capture_output=True, env=os.environ | {"HOME": str(tmp_path)})
    assert (tmp_path / "in" / "source").read_bytes() == source.read_bytes()
    distrusting = subprocess.run(send[:-2], check=False, capture_output=True, text=True)
    assert distrusting.returncode == 1
    if shutil.which("curl"):
        command = ["curl", "-sS", "-q", "--noproxy", "*", "--cacert", str(pem), "-w", "%{http_code}"]
        done = subprocess.run([*command, served.urls[0]], check=True, capture_output=True, text=True)
        assert done.stdout == "403"


# Its cost


def test_idle_connections_are_cheap_and_cost_nothing_when_they_are_gone(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    given = f"{tmp_path}/server.pem,{tmp_path}/server.key"
    served = start(str(tmp_path / "in"), "--listen", "127.0.0.1:0", "--tls", given).ready()
    context = authority.trust()

    def memory_with(number: int) -> int:
        with ExitStack() as stack:
            for _ in range(number):
                line = stack.enter_context(SecureLine(port(served), context))
                assert line.ask(raw.ping("/x")).status == 200
            status = Path(f"/proc/{served.pid}/status").read_text(encoding="utf-8")
        (resident,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
        return resident << 10

    before = memory_with(10)
    first = memory_with(300)
    assert first - before < 300 * 40_000
    assert memory_with(300) - first < 300 * 8_000
