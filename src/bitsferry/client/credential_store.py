"""The credentials of jobs, kept until they are forgotten."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.locking import lock, unlock
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult

__all__ = ["CredentialName", "CredentialStore", "Keyring", "PasswordUnreadable", "system_keyring"]

_SERVICE = "bitsferry"
_LONGEST_BLOB = 2560  # bytes of UTF-16 in Windows' Credential Manager (CRED_MAX_CREDENTIAL_BLOB_SIZE)
_WAITING = 10.0  # seconds for other processes, each of which needs a few milliseconds


class PasswordUnreadable(BitsError):
    """A password that was kept cannot be read just now."""

    hresult = HResult.E_ACCESSDENIED
    context = Context.GENERAL_QUEUE_MANAGER
    transient = True


@dataclass(frozen=True, slots=True)
class CredentialName:
    """What may be shown of a credential."""

    target: Target
    scheme: Scheme | None
    user: str


class Keyring(Protocol):
    """What keeps passwords better than a file; raises any Exception when it is locked or broken."""

    def get_password(self, service: str, username: str) -> str | None:
        """The password, or None when there is none."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""

    def delete_password(self, service: str, username: str) -> None:
        """Keep it no more."""


def system_keyring() -> Keyring | None:
    """The system's, if the package `keyring` is installed and has found one that protects what it keeps."""
    try:
        import keyring
    except ImportError:
        return None
    found = keyring.get_keyring()
    return found if found.priority >= 1 else None  # below: a plain file, or nothing at all


@dataclass(frozen=True, slots=True)
class _Kept:
    """A credential in the file; without a password, the keyring has it."""

    target: Target
    scheme: Scheme | None
    user: str
    password: str | None = field(repr=False)

    def is_for(self, target: Target | None, scheme: Scheme | None) -> bool:
        """Whether it is one of these; None: any."""
        return target in (None, self.target) and scheme in (None, self.scheme)


_Owners = dict[str, list[_Kept]]


class CredentialStore:
    """Credentials by owner, the id of a job; each owner has at most one for a target and scheme.

    Who they are stands in one file, `credentials.json` in `folder`; their passwords in the keyring if there
    is one that takes them, else in that file too. Only its owner can read it (0600); on Windows it has the
    rights of its folder, which in a user's profile are those of the user. Several processes may use it.

    Methods raise OSError when the file cannot be read or written, PasswordUnreadable when it is damaged.
    """

    def __init__(self, folder: str, keyring: Callable[[], Keyring | None] = system_keyring) -> None:
        """`keyring` is asked for one when the first password is to be kept or read."""
        self._folder = folder
        self._path = os.path.join(folder, "credentials.json")
        self._keyring = functools.cache(keyring)

    def keep(self, owner: str, credential: Credential) -> None:
        """Keep it, in the place of an earlier one for the same target and scheme."""
        target, scheme = credential.target, credential.scheme
        in_keyring = self._give_to_keyring(_key(owner, target, scheme), credential.password)
        kept = _Kept(target, scheme, credential.user, None if in_keyring else credential.password)
        with self._changing() as owners:
            earlier = [
                each for each in owners.get(owner, []) if (each.target, each.scheme) == (target, scheme)
            ]
            owners[owner] = [*(each for each in owners.get(owner, []) if each not in earlier), kept]
        if not in_keyring:
            self._take_from_keyring(owner, earlier)

    def of(self, owner: str) -> list[Credential]:
        """All of an owner's. Raises PasswordUnreadable when the keyring is locked, too."""
        return [
            Credential(kept.target, kept.scheme, kept.user, self._password(owner, kept))
            for kept in self._kept(owner)
        ]

    def names(self, owner: str) -> list[CredentialName]:
        """All of an owner's, without their passwords; no keyring is asked."""
        return [CredentialName(kept.target, kept.scheme, kept.user) for kept in self._kept(owner)]

    def remove(self, owner: str, target: Target | None = None, scheme: Scheme | None = None) -> None:
        """Forget an owner's for this target and this scheme; None: for any."""
        if not any(kept.is_for(target, scheme) for kept in self._kept(owner)):
            return
        with self._changing() as owners:
            kept = owners.get(owner, [])
            gone = [each for each in kept if each.is_for(target, scheme)]
            owners[owner] = [each for each in kept if each not in gone]
        self._take_from_keyring(owner, gone)

    def forget(self, owner: str) -> None:
        """Forget all of an owner's."""
        self.remove(owner)

    # The keyring

    def _give_to_keyring(self, key: str, password: str) -> bool:
        """Whether the keyring has it now; one that is locked or broken leaves it to the file."""
        keyring = self._keyring()
        if keyring is None or len(password.encode("utf-16-le")) > _LONGEST_BLOB:
            return False
        with contextlib.suppress(Exception):
            keyring.set_password(_SERVICE, key, password)
            return True
        return False

    def _take_from_keyring(self, owner: str, gone: list[_Kept]) -> None:
        """A keyring that is locked just now keeps what nobody asks for any more."""
        for each in gone:
            if each.password is None and (keyring := self._keyring()) is not None:
                with contextlib.suppress(Exception):
                    keyring.delete_password(_SERVICE, _key(owner, each.target, each.scheme))

    def _password(self, owner: str, kept: _Kept) -> str:
        if kept.password is not None:
            return kept.password
        what = f"the password of {kept.user!r} for the {kept.target} is in the system's keyring, "
        keyring = self._keyring()
        if keyring is None:
            raise PasswordUnreadable(what + "which cannot be reached from here: set it again")
        try:
            password = keyring.get_password(_SERVICE, _key(owner, kept.target, kept.scheme))
        except Exception as error:
            raise PasswordUnreadable(what + f"which does not open ({type(error).__name__})") from error
        if password is None:
            raise PasswordUnreadable(what + "where it is no more: set it again")
        return password

    # The file

    def _kept(self, owner: str) -> list[_Kept]:
        if not os.path.exists(self._path):
            return []  # as most users have it: no lock is needed, and no folder
        with self._locked():
            return self._read().get(owner, [])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Owners]:
        """What is kept; what it was changed to is kept when the block ends."""
        with self._locked():
            owners = self._read()
            yield owners
            self._write({owner: kept for owner, kept in owners.items() if kept})

    def _read(self) -> _Owners:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=_Owners)
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not what is wrong with it: that could quote a password.
            raise PasswordUnreadable(
                f"{self._path} is damaged: remove it and set the credentials of all jobs again"
            ) from None

    def _write(self, owners: _Owners) -> None:
        """As a whole or not at all."""
        if not owners:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        beside = self._path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)  # whatever rights it had, nobody has a hold on ours
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(owners))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = self._path + ".lock"
        until = time.monotonic() + _WAITING
        while True:
            try:
                descriptor = lock(path)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"another process has had {path} for {_WAITING:.0f} s") from None
            time.sleep(0.005)
        try:
            yield
        finally:
            unlock(descriptor, path)


def _key(owner: str, target: Target, scheme: Scheme | None) -> str:
    return f"{owner}/{target}/{scheme or 'any'}"
