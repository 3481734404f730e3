"""Handshakes over a line: who proves to be somebody, with which program, and in which request."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .raw import Answer, Line

Step = Callable[[bytes | None], bytes]
"""What a client says next, to what it heard."""


def authorization(title: str, token: bytes) -> str:
    return f"{title} {base64.b64encode(token).decode('ascii')}"


def token_of(answer: Answer) -> bytes:
    """What the server says by its one challenge."""
    (challenge,) = answer.all("WWW-Authenticate")
    return base64.b64decode(challenge.partition(" ")[2])


def first_leg(line: Line, title: str, step: Step, request: Callable[[str], bytes]) -> bytes:
    """What the client says to the answer to its first leg, before that is sent."""
    answer = line.ask(request(authorization(title, step(None))))
    assert answer.status == 401
    return step(token_of(answer))


def handshake(
    line: Line,
    title: str,
    step: Step,
    request: Callable[[str], bytes],
    last: Callable[[str], bytes] | None = None,
) -> Answer:
    """The answer to the last leg, which `last` makes of an Authorization, as `request` makes the others."""
    said = authorization(title, first_leg(line, title, step, request))
    return line.ask((last or request)(said))


def pyspnego(user: str, password: str, protocol: str = "ntlm") -> Step:
    import spnego

    context = spnego.client(user, password, hostname="127.0.0.1", service="HTTP", protocol=protocol)
    return lambda heard: context.step(heard) or b""


@contextmanager
def samba(user: str, password: str, helper: str = "ntlmssp-client-1") -> Iterator[Step]:
    """Samba's ntlm_auth, which reads nothing of this machine's."""
    program = ["ntlm_auth", f"--helper-protocol={helper}", "--configfile=/dev/null", "--domain=CORP"]
    target = ["--target-service=http", "--target-hostname=localhost"]
    with subprocess.Popen(
        [*program, *target, f"--username={user}", f"--password={password}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, heard = process.stdin, process.stdout

        def step(token: bytes | None) -> bytes:
            said = "YR" if token is None else f"TT {base64.b64encode(token).decode('ascii')}"
            told.write(f"{said}\n")
            told.flush()
            verdict, _, answer = heard.readline().strip().partition(" ")
            assert verdict in ("YR", "KK", "AF", "TT"), verdict
            return base64.b64decode(answer)

        yield step
