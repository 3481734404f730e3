"""Applications that hear of uploads: in threads of the test, right and wrong ones, and one in a process."""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import raw
from .ferry import Ferry, Upload
from .raw import Answer

END = b"\r\n\r\n"
_KEPT = 1 << 20


@dataclass
class Heard:
    """One request as it came; of a body over 1 MiB only `size` and `digest` are kept."""

    start_line: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    size: int = 0
    digest: str = ""
    peer: Any = None
    """The client's certificate."""

    @property
    def method(self) -> str:
        return self.start_line.split()[0]

    @property
    def target(self) -> str:
        return self.start_line.split()[1]

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, name
        return values[0] if values else None

    @property
    def file(self) -> Path:
        """Where the upload is, by reference."""
        return Path(self.get("BITS-Request-DataFile-Name") or "")

    @property
    def reply(self) -> Path:
        """Where the reply belongs, by reference."""
        return Path(self.get("BITS-Response-DataFile-Name") or "")


Answering = Callable[[Heard], bytes]
"""The bytes to say to a request; none: hang up without a word."""


def say(status: int = 200, body: bytes = b"", **headers: str | None) -> bytes:
    """An answer; headers that are None are left out: `content_length=None`."""
    fields: dict[str, str | None] = {"Content-Length": str(len(body))}
    fields |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines]).encode("latin-1") + END + body


COPY: dict[str, Any] = {"bits_copy_file_to_destination": "yes"}


@dataclass
class Application:
    """Listens on a free port until `close`; what it answers may be changed at any time."""

    answer: Answering
    tls: ssl.SSLContext | None = None
    reads_bodies: bool = True
    polite: bool = True
    """Over TLS it says farewell."""
    heard: list[Heard] = field(default_factory=list)
    beginning: bytes = b""
    """What is said before an answer is thought about."""
    hung_up: threading.Event = field(default_factory=threading.Event)
    """The server broke off while its answer was being thought about."""

    def __post_init__(self) -> None:
        self.ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def url(self, target: str = "/handle", host: str = "127.0.0.1") -> str:
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}{target}"

    @property
    def last(self) -> Heard:
        return self.heard[-1]

    @property
    def keys(self) -> set[str | None]:
        return {heard.get("Idempotency-Key") for heard in self.heard}

    def close(self) -> None:
        self.ending.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> None:
        while not self.ending.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                line, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._converse, args=(line,)))
                self._threads[-1].start()

    def _converse(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            line.settimeout(10)
            if self.tls is not None:
                line = self.tls.wrap_socket(line, server_side=True)
            with line:
                heard = self._hear(line)
                line.sendall(self.beginning)
                answer = self.answer(heard)
                if select.select([line], [], [], 0)[0]:
                    self.hung_up.set()
                line.sendall(answer)
                if isinstance(line, ssl.SSLSocket) and self.polite:
                    line.unwrap()
                if not self.reads_bodies:
                    reset(line)

    def _hear(self, line: socket.socket) -> Heard:
        early = bytearray()
        while END not in early:
            block = line.recv(65536)
            if not block:
                raise ConnectionError
            early += block
            if not early[:1].isalpha():
                line.sendall(say(400))  # as servers do that hear TLS
                raise ConnectionError
        head, _, rest = bytes(early).partition(END)
        start_line, *lines = head.decode("utf-8").split("\r\n")
        pairs = [each.partition(": ")[::2] for each in lines]
        heard = Heard(start_line, [(name, value) for name, value in pairs])
        heard.peer = line.getpeercert() if isinstance(line, ssl.SSLSocket) else None
        if self.reads_bodies:
            self._read_body(line, heard, rest)
        self.heard.append(heard)
        return heard

    def _read_body(self, line: socket.socket, heard: Heard, block: bytes) -> None:
        digest, length = hashlib.sha256(), int(heard.get("Content-Length") or 0)
        while True:
            digest.update(block)
            heard.size += len(block)
            heard.body = (heard.body + block)[: _KEPT + 1]
            if heard.size >= length:
                break
            block = line.recv(1 << 18)
            if not block:
                raise ConnectionError
        heard.body = heard.body if heard.size <= _KEPT else b""
        heard.digest = digest.hexdigest()


def reset(line: socket.socket) -> None:
    """Let the close be a rude one."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Slow:
    """An answer that is not given before the test says so."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self._go = threading.Event()
        self.at_work = threading.Event()

    def __call__(self, heard: Heard) -> bytes:
        self.at_work.set()
        assert self._go.wait(20)
        return self._answer(heard)

    def finish(self) -> None:
        self._go.set()


def replying(reply: bytes, **headers: Any) -> Answering:
    """Answers by reference, with this reply in its file."""

    def answer(heard: Heard) -> bytes:
        heard.reply.write_bytes(reply)
        return say(**headers)

    return answer


def telling(application: Application, kind: str, target: str = "/handle") -> str:
    """The settings of a directory whose uploads this application hears of."""
    return f'notification_type = "{kind}"\nnotification_url = "{application.url(target)}"\n'


# One server with one application behind several directories, for tests that need no server of their own

STAGE = """
listen = ["127.0.0.1:0"]
store = "file:./store"

[[directory]]
url = "/reference/"
folder = "./reference"
{reference}

[[directory]]
url = "/value/"
folder = "./value"
{value}

[[directory]]
url = "/quick/"
folder = "./quick"
{value}
notification_timeout = 0.3
max_reply_size = 1000

[[directory]]
url = "/quick-reference/"
folder = "./quick-reference"
{reference}
notification_timeout = 0.3
max_reply_size = 1000
"""


class Stage:
    """Each test sets `answer`, uploads, and looks at `heard`."""

    def __init__(self, folder: Path) -> None:
        self.application = Application(lambda heard: say())
        settings = {kind: telling(self.application, kind) for kind in ("reference", "value")}
        try:
            self.ferry = Ferry(folder, STAGE.format(**settings))
        except BaseException:
            self.application.close()
            raise

    def answer(self, answer: Answering | bytes) -> None:
        """From now on, every request gets this."""
        self.application.answer = answer if callable(answer) else lambda heard: answer

    @property
    def heard(self) -> list[Heard]:
        """What the application heard in this test."""
        return self.application.heard

    def upload(self, under: str = "/value/", name: str | None = None) -> Upload:
        return self.ferry.begun(under, name)

    def get(self, target: str, method: str = "GET", **headers: str | None) -> Answer:
        return get(self.ferry, target, method, **headers)

    def clear(self) -> None:
        """The end of a test."""
        self.application.heard.clear()
        self.answer(say())
        self.ferry.forget()

    def close(self) -> None:
        self.ferry.stop()
        self.application.close()


def get(ferry: Ferry, target: str, method: str = "GET", **headers: str | None) -> Answer:
    fields = {name.replace("_", "-").title(): value for name, value in headers.items()}
    with ferry.line() as line:
        line.send(raw.request(f"{method} {target} HTTP/1.1", fields))
        return line.answer(bodiless=method == "HEAD")


def reply_url(upload: Upload, ack: Answer) -> str:
    """Where a reply is, as its client finds it: beside the file's URL."""
    url = ack.get("BITS-Reply-URL")
    assert url is not None
    return upload.url.rpartition("/")[0] + "/" + url


def outcome(answer: Answer) -> tuple[int, str | None, str | None]:
    """Status, HRESULT and context."""
    assert answer.get("BITS-Error") == answer.get("BITS-Error-Code")
    return answer.status, answer.get("BITS-Error-Code"), answer.get("BITS-Error-Context")
