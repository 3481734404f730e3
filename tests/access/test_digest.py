"""Digest: passwords that are proved and never said, each proof once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from bitsferry.access.digest import Digest
from bitsferry.access.htdigest import digest_lines, read_htdigest
from bitsferry.access.nonces import Nonces, Use
from bitsferry.access.scheme import Claim, Link
from bitsferry.access.watched_file import WatchedFile
from bitsferry.client.challenges import read_challenges
from bitsferry.client.digest import Digest as Client
from bitsferry.client.digest import best_digest

from .asking import claim, identified, refused


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Digest over a file of users."""

    def __init__(
        self, folder: Path, *lines: str, realm: str = "bitsferry", nonces: Nonces | None = None
    ) -> None:
        self.path = folder / "users.digest"
        self.write(*lines)
        self.clock = Clock()
        self.realm = realm
        self.nonces = nonces or Nonces(self.clock)
        file = WatchedFile(str(self.path), lambda text: read_htdigest(text, realm), self.clock)
        self.scheme = Digest(file, realm, self.nonces)

    def write(self, *lines: str) -> None:
        self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def client(
        self, user: str = "alice", password: str = "secret", *, algorithm: str | None = None
    ) -> Client:
        """Somebody who was asked."""
        asked = read_challenges(self.scheme.challenges(claim()))
        if algorithm:
            asked = [each for each in asked if each.parameters["algorithm"] == algorithm]
        challenge = best_digest(asked)
        assert challenge is not None
        return Client(challenge, user, password)


def proof(client: Client, target: str = "/in/file", link: Link | None = None) -> Claim:
    """A request by a client that was asked."""
    request = claim({"authorization": client.authorization("BITS_POST", "/in/file")})
    request.target = target
    request.link = link
    return request


def twisted(request: Claim, old: str, new: str) -> Claim:
    """The same, with something else in it."""
    header = request.headers["authorization"]
    assert old in header
    return claim({"authorization": header.replace(old, new)})


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(
        tmp_path, *digest_lines("alice", "bitsferry", b"secret"), *digest_lines("jörg", "bitsferry", b"x")
    )


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
def test_a_password_is_proved_and_the_server_proves_that_it_knows_it_too(door: Door, algorithm: str) -> None:
    request = proof(door.client(algorithm=algorithm))
    identity = identified(door.scheme, request)
    assert identity is not None
    assert (identity.user, identity.scheme) == ("alice", "digest")
    told = {
        name: value.strip('"')
        for name, _, value in (
            each.partition("=")
            for each in request.headers["authorization"].removeprefix("Digest ").split(", ")
        )
    }
    kind = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}[algorithm]
    secret = kind(b"alice:bitsferry:secret").hexdigest()
    between = f"{told['nonce']}:{told['nc']}:{told['cnonce']}:auth"
    expected = kind(f"{secret}:{between}:{kind(b':/in/file').hexdigest()}".encode()).hexdigest()
    ((name, value),) = identity.headers
    assert name == "Authentication-Info"
    assert f'rspauth="{expected}"' in value


class _Fixed(Nonces):
    def is_good(self, nonce: str) -> bool:
        return nonce == "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"

    def use(self, nonce: str, count: int) -> Use:
        return Use.TAKEN


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_the_rfc(tmp_path: Path, algorithm: str, response: str) -> None:
    """RFC 7616 3.9.1."""
    realm = "http-auth@example.org"
    door = Door(tmp_path, *digest_lines("Mufasa", realm, b"Circle of Life"), realm=realm, nonces=_Fixed())
    said = (
        f'Digest username="Mufasa", realm="{realm}", uri="/dir/index.html", algorithm={algorithm}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
        f'response="{response}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    identity = identified(door.scheme, Claim("GET", "/dir/index.html", {"authorization": said}))
    assert identity is not None
    assert identity.user == "Mufasa"


def test_both_kinds_are_asked_for_the_stronger_first(door: Door) -> None:
    stronger, weaker = door.scheme.challenges(claim())
    assert "algorithm=SHA-256," in stronger
    assert "algorithm=MD5," in weaker
    for each in (stronger, weaker):
        assert each.startswith('Digest realm="bitsferry", qop="auth", ')


def test_only_what_somebody_in_the_file_can_use_is_asked_for(tmp_path: Path) -> None:
    (asked,) = Door(tmp_path, digest_lines("alice", "bitsferry", b"secret")[1]).scheme.challenges(claim())
    assert "algorithm=MD5," in asked


@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("bob", "secret"), ("Alice", "secret")])
def test_what_is_wrong_is_wrong_and_nobody_learns_which_half(door: Door, user: str, password: str) -> None:
    error = refused(door.scheme, proof(door.client(user, password)))
    assert (str(error), error.user, error.counts) == ("wrong user name or password", user, True)


def test_a_name_may_be_said_in_utf_8_or_as_an_extended_one_or_in_latin_1(door: Door) -> None:
    extended = proof(door.client("jörg", "x"))
    assert "username*=UTF-8''j%C3%B6rg" in extended.headers["authorization"]
    for name in ('"' + "jörg".encode().decode("latin-1") + '"', '"jörg"'):
        plain = twisted(proof(door.client("jörg", "x")), "username*=UTF-8''j%C3%B6rg", f"username={name}")
        assert identified(door.scheme, plain) is not None
    assert identified(door.scheme, extended) is not None


def test_a_proof_counts_once(door: Door) -> None:
    client = door.client()
    first = proof(client)
    assert identified(door.scheme, first) is not None
    error = refused(door.scheme, first)
    assert (str(error), error.counts) == ("said before", True)
    assert all("stale=true" in each for each in error.challenges), (
        "an honest client comes in with a new nonce"
    )
    assert identified(door.scheme, proof(client)) is not None


def test_requests_may_overtake_each_other(door: Door) -> None:
    client = door.client()
    requests = [proof(client) for _ in range(200)]
    for each in reversed(requests):
        assert identified(door.scheme, each) is not None
    for each in requests:
        refused(door.scheme, each)


def test_who_is_far_behind_is_not_believed(door: Door) -> None:
    client = door.client()
    requests = [proof(client) for _ in range(300)]
    assert identified(door.scheme, requests[-1]) is not None
    assert str(refused(door.scheme, requests[0])) == "said before"


def test_a_wrong_proof_uses_up_nothing(door: Door) -> None:
    client = door.client()
    request = proof(client)
    refused(door.scheme, twisted(request, 'response="', 'response="0'))
    assert identified(door.scheme, request) is not None


def test_an_old_nonce_wants_another_round_and_is_no_guess(door: Door) -> None:
    client = door.client()
    assert identified(door.scheme, proof(client)) is not None
    door.clock.now += 3601
    error = refused(door.scheme, proof(client))
    assert not error.counts
    assert client.goes_on(read_challenges(error.challenges))
    assert identified(door.scheme, proof(client)) is not None


@pytest.mark.parametrize(
    "nonce",
    ["", "abc", "A" * 56, "é", "/" * 56],
    ids=["empty", "short", "forged", "no ASCII", "other base64"],
)
def test_a_nonce_that_we_did_not_make_is_like_an_old_one(door: Door, nonce: str) -> None:
    client = door.client()
    request = proof(client)
    made = request.headers["authorization"].partition('nonce="')[2].partition('"')[0]
    error = refused(door.scheme, twisted(request, made, nonce))
    assert not error.counts
    assert all("stale=true" in each for each in error.challenges)


def test_a_nonce_from_before_a_restart_is_like_an_old_one(tmp_path: Path, door: Door) -> None:
    other = Door(tmp_path, *digest_lines("alice", "bitsferry", b"secret"))
    request = proof(door.client())
    assert identified(door.scheme, request) is not None
    assert not refused(other.scheme, request).counts


def test_a_proof_is_for_its_method_and_its_url_only(door: Door) -> None:
    client = door.client()
    assert str(refused(door.scheme, proof(client, "/in/other"))) == "for another URL"
    get = proof(client)
    get.method = "GET"
    assert str(refused(door.scheme, get)) == "wrong user name or password"
    assert identified(door.scheme, proof(client, "http://host:8080/in/file")) is not None
    mounted = proof(client, "/file")
    mounted.mount = "/in"
    assert identified(door.scheme, mounted) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("qop=auth", "qop=auth-int"),
        (", qop=auth", ""),
        ("nc=00000001", "nc=1"),
        ("nc=00000001", "nc=00000000"),
        ("algorithm=SHA-256", "algorithm=SHA-256-sess"),
        ("algorithm=SHA-256", "algorithm=SHA-512-256"),
        ('realm="bitsferry"', 'realm="elsewhere"'),
        ('username="alice"', "username*=latin-1''alice"),
        ('username="alice"', 'username="alice", username="bob"'),
        ('username="alice"', "username*=UTF-8''alice, username=\"alice\""),
        ('username="alice"', 'username="al\tice"'),
        ('username="alice", ', ""),
        ('response="', 'response="é'),
        ("Digest ", "Digest ="),
        ("Digest ", "Digest " + "," * 100),
        ('"bitsferry"', '"bitsferry'),
    ],
)
def test_what_no_client_says_is_refused(door: Door, old: str, new: str) -> None:
    refused(door.scheme, twisted(proof(door.client()), old, new))


@pytest.mark.parametrize(
    "said", ["Digest", "Digest username", 'Digest a="' + "\\" * 9999, "Digest " + "a=b," * 3000]
)
def test_rubbish_is_refused_quickly(door: Door, said: str) -> None:
    refused(door.scheme, claim({"authorization": said}))


def test_what_is_proved_on_a_connection_needs_not_be_slowed_down_there(door: Door) -> None:
    client, link = door.client(), Link()
    request = proof(client, link=link)
    assert door.scheme.claimed(request) == "alice"
    identified(door.scheme, request)
    assert door.scheme.claimed(proof(client, link=link)) is None
    assert door.scheme.claimed(proof(client, link=Link())) == "alice"
    assert door.scheme.claimed(proof(door.client("bob"), link=link)) == "bob"
    refused(door.scheme, proof(door.client(password="guess"), link=link))
    assert door.scheme.claimed(proof(client, link=link)) == "alice"


def test_who_is_taken_out_of_the_file_is_out(door: Door) -> None:
    client = door.client()
    identified(door.scheme, proof(client))
    door.write(*digest_lines("bob", "bitsferry", b"secret"))
    door.clock.now += 2
    refused(door.scheme, proof(client))


def test_asking_costs_no_room_and_what_is_in_use_is_bounded() -> None:
    clock = Clock()
    nonces = Nonces(clock, slots=1)
    older, newer = nonces.fresh(), nonces.fresh()
    assert nonces.use(older, 1) is Use.TAKEN
    for _ in range(1000):
        nonces.fresh()
    assert nonces.use(older, 1) is Use.SAID_BEFORE
    assert nonces.use(newer, 7) is Use.FORGOTTEN, "made in the same moment: one of them has the slot"
    clock.now += 1
    newest = nonces.fresh()
    assert nonces.use(newest, 1) is Use.TAKEN
    assert nonces.use(older, 2) is Use.FORGOTTEN, "nobody knows any more which of its counts were used"
    assert nonces.use(newest, 1) is Use.SAID_BEFORE


def test_what_is_forgotten_wants_another_round_and_is_no_guess(tmp_path: Path) -> None:
    clock = Clock()
    door = Door(tmp_path, *digest_lines("alice", "bitsferry", b"secret"), nonces=Nonces(clock, slots=1))
    older = door.client()
    clock.now += 1
    assert identified(door.scheme, proof(door.client())) is not None
    error = refused(door.scheme, proof(older))
    assert not error.counts
    assert older.goes_on(read_challenges(error.challenges))


# Files


def test_users_of_other_realms_are_left_out() -> None:
    text = "\n".join([*digest_lines("alice", "bitsferry", b"a"), *digest_lines("alice", "printers", b"b")])
    users = read_htdigest("# people\n" + text, "printers")
    assert users.secret("MD5", "alice") == (hashlib.md5(b"alice:printers:b").hexdigest(), True)
    assert not users.secret("MD5", "bob")[1]


def test_a_file_of_nobody_is_no_mistake_but_one_of_another_realm_is() -> None:
    assert read_htdigest("", "bitsferry").algorithms == ("SHA-256", "MD5")
    with pytest.raises(ValueError, match='realm = "printers" would fit'):
        read_htdigest("\n".join(digest_lines("alice", "printers", b"b")), "bitsferry")


@pytest.mark.parametrize(
    "line", ["alice:bitsferry", "alice:bitsferry:abc", "alice:5ebe2294ecd0e0f08eab7690d2a6ee69"]
)
def test_what_is_no_line_is_told_by_its_number_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: ") as raised:
        read_htdigest(f"\n{line}\n", "bitsferry")
    assert "alice" not in str(raised.value)


def test_a_user_has_one_line_of_each_kind() -> None:
    line = digest_lines("alice", "bitsferry", b"a")[0]
    with pytest.raises(ValueError, match=r"^line 2: "):
        read_htdigest(f"{line}\n{line}\n", "bitsferry")


@pytest.mark.skipif(shutil.which("htdigest") is None, reason="htdigest (apache2-utils) is not installed")
def test_what_htdigest_writes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "users"
    command = ["htdigest", "-c", str(file), "bitsferry", "alice"]
    # Without a terminal it takes the password, and its repetition, from standard input.
    done = subprocess.run(
        command, input="secret\nsecret\n", text=True, capture_output=True, check=False, start_new_session=True
    )
    assert done.returncode == 0, done.stderr
    users = read_htdigest(file.read_text(encoding="utf-8"), "bitsferry")
    assert users.secret("MD5", "alice") == (hashlib.md5(b"alice:bitsferry:secret").hexdigest(), True)
    assert users.algorithms == ("MD5",)
