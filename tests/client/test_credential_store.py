"""Credentials are kept for their job, by whatever protects them best, until they are forgotten."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitsferry.client import credential_store
from bitsferry.client.credential_store import (
    CredentialName,
    CredentialStore,
    PasswordUnreadable,
    system_keyring,
)
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.locking import lock, unlock

JOB, OTHER = "{1}", "{2}"
ANY = Credential(Target.SERVER, None, "u", "secret-any")
BASIC = Credential(Target.SERVER, Scheme.BASIC, "Jäsøn", "secret-£")
PROXY = Credential(Target.PROXY, Scheme.BASIC, "p", "secret-proxy")
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


class Ring:
    """A keyring in memory, which can be locked."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def _open(self) -> dict[tuple[str, str], str]:
        if self.is_locked:
            raise RuntimeError("locked")
        return self.kept

    def get_password(self, service: str, username: str) -> str | None:
        return self._open().get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._open()[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self._open()[service, username]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bitsferry"


@pytest.fixture(params=[False, True], ids=["file", "keyring"])
def ring(request: pytest.FixtureRequest) -> Ring | None:
    return Ring() if request.param else None


@pytest.fixture
def store(folder: Path, ring: Ring | None) -> CredentialStore:
    return CredentialStore(str(folder), lambda: ring)


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir()) if folder.exists() else b""


# What every store promises


def test_what_is_kept_is_there_for_the_next_process(
    folder: Path, store: CredentialStore, ring: Ring | None
) -> None:
    for credential in (ANY, BASIC, PROXY):
        store.keep(JOB, credential)
    store.keep(OTHER, PROXY)
    again = CredentialStore(str(folder), lambda: ring)
    assert again.of(JOB) == [ANY, BASIC, PROXY]
    assert again.of(OTHER) == [PROXY]
    assert again.of("{3}") == []


def test_a_second_credential_for_the_same_takes_the_place_of_the_first(store: CredentialStore) -> None:
    store.keep(JOB, ANY)
    store.keep(JOB, BASIC)
    newer = Credential(Target.SERVER, None, "new", "secret-new")
    store.keep(JOB, newer)
    assert store.of(JOB) == [BASIC, newer]


def test_names_are_shown_without_passwords(store: CredentialStore) -> None:
    store.keep(JOB, BASIC)
    assert store.names(JOB) == [CredentialName(Target.SERVER, Scheme.BASIC, "Jäsøn")]
    assert "secret" not in repr(store.names(JOB)) + repr(vars(store))


@pytest.mark.parametrize(
    ("target", "scheme", "left"),
    [
        (None, None, []),
        (Target.SERVER, None, [PROXY]),
        (Target.SERVER, Scheme.BASIC, [ANY, PROXY]),
        (None, Scheme.BASIC, [ANY]),
        (Target.PROXY, Scheme.DIGEST, [ANY, BASIC, PROXY]),
    ],
)
def test_what_is_removed_is_gone_and_nothing_else(
    store: CredentialStore, target: Target | None, scheme: Scheme | None, left: list[Credential]
) -> None:
    for credential in (ANY, BASIC, PROXY):
        store.keep(JOB, credential)
    store.keep(OTHER, BASIC)
    store.remove(JOB, target, scheme)
    assert store.of(JOB) == left
    assert store.of(OTHER) == [BASIC]


def test_what_is_forgotten_leaves_nothing(folder: Path, store: CredentialStore, ring: Ring | None) -> None:
    for credential in (ANY, BASIC, PROXY):
        store.keep(JOB, credential)
    store.forget(JOB)
    assert store.of(JOB) == []
    assert list(folder.iterdir()) == []
    assert ring is None or ring.kept == {}


def test_who_keeps_nothing_needs_no_folder(folder: Path, store: CredentialStore) -> None:
    assert store.of(JOB) == []
    assert store.names(JOB) == []
    store.remove(JOB)
    store.forget(JOB)
    assert not folder.exists()


# The file


@posix
def test_nobody_else_can_read_it_at_any_time(folder: Path) -> None:
    folder.mkdir(parents=True)
    leftover = folder / "credentials.json.new"
    leftover.write_bytes(b"of a process that died")
    leftover.chmod(0o666)
    umask = os.umask(0)
    try:
        store = CredentialStore(str(folder))
        with leftover.open("rb") as watched:  # who had it open sees nothing of what comes
            store.keep(JOB, ANY)
            store.keep(JOB, BASIC)
            assert b"secret" not in watched.read()
    finally:
        os.umask(umask)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "credentials.json": 0o600
    }


@posix
def test_the_folder_is_made_for_its_owner_alone(folder: Path) -> None:
    CredentialStore(str(folder)).keep(JOB, ANY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_that_cannot_be_replaced_stays_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CredentialStore(str(folder))
    store.keep(JOB, ANY)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            store.keep(JOB, BASIC)
    assert store.of(JOB) == [ANY]
    store.keep(JOB, BASIC)
    assert store.of(JOB) == [ANY, BASIC]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"{1}": 1}', b'{"{1}": [{"target": "secret"}]}', b'{"\xff\xfe": []}']
)
def test_a_damaged_file_is_said_to_be_one_and_is_not_overwritten(folder: Path, damage: bytes) -> None:
    store = CredentialStore(str(folder))
    store.keep(JOB, ANY)
    (folder / "credentials.json").write_bytes(damage)
    for act in (lambda: store.of(JOB), lambda: store.keep(JOB, BASIC), lambda: store.forget(JOB)):
        with pytest.raises(PasswordUnreadable, match=r"credentials\.json is damaged: remove it") as caught:
            act()
        assert "secret" not in str(caught.value)
    assert everything(folder) == damage


def test_many_processes_may_keep_at_the_same_time(folder: Path) -> None:
    program = (
        "import sys\n"
        "from bitsferry.client.credential_store import CredentialStore\n"
        "from bitsferry.client.credentials import Credential, Target\n"
        "store = CredentialStore(sys.argv[1])\n"
        "for number in range(10):\n"
        "    store.keep(f'{sys.argv[2]}-{number}', Credential(Target.SERVER, None, 'u', 'secret'))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(folder), name]) for name in ("a", "b", "c")
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    store = CredentialStore(str(folder))
    assert all(len(store.of(f"{name}-{number}")) == 1 for name in "abc" for number in range(10))


def test_a_lock_that_nobody_gives_back_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(credential_store, "_WAITING", 0.0)
    path = str(folder / "credentials.json.lock")
    descriptor = lock(path)
    try:
        with pytest.raises(TimeoutError, match=r"another process has had .*credentials\.json\.lock"):
            CredentialStore(str(folder)).keep(JOB, ANY)
    finally:
        unlock(descriptor, path)


# The keyring


def test_a_password_in_the_keyring_is_not_in_the_file(folder: Path) -> None:
    ring = Ring()
    CredentialStore(str(folder), lambda: ring).keep(JOB, ANY)
    assert b"secret" not in everything(folder)
    assert ring.kept == {("bitsferry", "{1}/server/any"): "secret-any"}


@pytest.mark.parametrize("length", [1280, 1281, 65_535])
def test_a_password_that_windows_keyring_could_not_hold_is_kept_in_the_file(
    folder: Path, length: int
) -> None:
    ring = Ring()
    store = CredentialStore(str(folder), lambda: ring)
    store.keep(JOB, ANY)
    long = Credential(Target.SERVER, None, "u", "x" * length)
    store.keep(JOB, long)
    assert store.of(JOB) == [long]
    assert len(ring.kept) == (length <= 1280)


def test_a_keyring_that_is_locked_leaves_the_password_to_the_file(folder: Path) -> None:
    ring = Ring()
    ring.is_locked = True
    store = CredentialStore(str(folder), lambda: ring)
    store.keep(JOB, ANY)
    assert store.of(JOB) == [ANY]


def test_a_password_behind_a_locked_keyring_is_awaited(folder: Path) -> None:
    ring = Ring()
    store = CredentialStore(str(folder), lambda: ring)
    store.keep(JOB, ANY)
    ring.is_locked = True
    with pytest.raises(PasswordUnreadable, match="'u' for the server is in the system's keyring") as caught:
        store.of(JOB)
    assert caught.value.transient
    assert store.names(JOB) == [CredentialName(Target.SERVER, None, "u")]
    ring.is_locked = False
    assert store.of(JOB) == [ANY]


def test_a_password_that_went_with_its_keyring_is_to_be_set_again(folder: Path) -> None:
    ring = Ring()
    CredentialStore(str(folder), lambda: ring).keep(JOB, ANY)
    with pytest.raises(PasswordUnreadable, match="cannot be reached from here: set it again"):
        CredentialStore(str(folder), lambda: None).of(JOB)
    ring.kept.clear()
    with pytest.raises(PasswordUnreadable, match="where it is no more: set it again"):
        CredentialStore(str(folder), lambda: ring).of(JOB)


def test_a_job_can_be_forgotten_while_the_keyring_is_locked(folder: Path) -> None:
    ring = Ring()
    store = CredentialStore(str(folder), lambda: ring)
    store.keep(JOB, ANY)
    ring.is_locked = True
    store.forget(JOB)
    assert store.of(JOB) == []


def test_a_keyring_that_protects_nothing_is_none() -> None:
    keyring = pytest.importorskip("keyring", reason="the extra `keyring` is not installed")
    backend = pytest.importorskip("keyring.backend")

    class Fake(backend.KeyringBackend):  # type: ignore[misc,name-defined]
        priority = 0.5

        get_password = set_password = delete_password = None

    before = keyring.get_keyring()
    try:
        keyring.set_keyring(Fake())
        assert system_keyring() is None
        Fake.priority = 5
        assert isinstance(system_keyring(), Fake)
    finally:
        keyring.set_keyring(before)


def test_without_the_package_there_is_no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert system_keyring() is None
