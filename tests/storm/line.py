"""A client's line to a server, and an uploader that never gives up and trusts no Ack it did not hear."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PATIENCE = 20.0
_PIECE = 30_000


@dataclass(frozen=True)
class Heard:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage

    @property
    def received(self) -> int:
        return int(self.headers["BITS-Received-Content-Range"])

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers.items())}"


class Line:
    """One connection; raises OSError or HTTPException when it breaks."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def say(
        self, path: str, packet: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Heard:
        connection = self._connection
        connection.putrequest("BITS_POST", quote(path))
        connection.putheader("BITS-Packet-Type", packet)
        connection.putheader("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        for piece in pieces(body):
            connection.send(piece)
        with connection.getresponse() as answer:
            answer.read()
            return Heard(answer.status, answer.headers)

    def create(self, path: str) -> Heard:
        protocols = {"BITS-Supported-Protocols": "{7df0354d-249b-430f-820d-3d2a9bef4931}"}
        return self.say(path, "Create-Session", protocols)

    def fragment(self, path: str, session: str, data: bytes, start: int, stop: int) -> Heard:
        range_ = f"bytes {start}-{stop - 1}/{len(data)}"
        headers = {"BITS-Session-Id": session, "Content-Range": range_}
        return self.say(path, "Fragment", headers, data[start:stop])

    def close_session(self, path: str, session: str) -> Heard:
        return self.say(path, "Close-Session", {"BITS-Session-Id": session})

    def close(self) -> None:
        self._connection.close()


def pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


class Uploader(threading.Thread):
    """Uploads one file after the other until the storm is over, and notes the first broken promise."""

    def __init__(self, number: int, port: int, folder: Path, storm_is_over: threading.Event) -> None:
        super().__init__(name=f"uploader-{number}", daemon=True)
        self._chance = random.Random(number)
        self._port = port
        self._folder = folder
        self._storm_is_over = storm_is_over
        self._line: Line | None = None
        self.broken_lines = 0
        self.arrived: dict[str, tuple[bytes, int]] = {}
        """By name: what was sent, with the file's inode when the server first said that all is there."""
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._storm_is_over.is_set():
                name = f"{self.name} file {len(self.arrived)}.bin"
                size = self._chance.choice((1, 1000, 100_000, 1_000_000, 3_000_000))
                self._upload(name, self._chance.randbytes(size))
        except BaseException as failure:
            self.failure = failure
        finally:
            self._hang_up()

    def _upload(self, name: str, data: bytes) -> None:
        path = "/" + name
        session = self._insist(lambda line: line.create(path)).headers["BITS-Session-Id"]
        acknowledged = 0
        while acknowledged < len(data) or self._chance.random() < 0.2:  # the last one again, now and then
            start = max(0, acknowledged - self._chance.choice((0, 0, 0, 1, 50_000)))
            if acknowledged == len(data):
                start = min(start, len(data) - 1)
            stop = min(len(data), start + self._chance.choice((1, 5000, 100_000, 1_000_000)))
            heard = self._insist(lambda line: line.fragment(path, session, data, start, stop))  # noqa: B023
            assert heard.received >= max(acknowledged, stop), f"bytes were taken back: {heard}"
            acknowledged = heard.received
        there = self._folder / name
        assert there.read_bytes() == data, "the Ack came before the file"
        self.arrived[name] = data, there.stat().st_ino
        self._insist(lambda line: line.close_session(path, session))

    def _insist(self, say: Callable[[Line], Heard]) -> Heard:
        """What the server answers when it is there; an answer that sends us away is a broken promise."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self._line = self._line or Line(self._port)
                heard = say(self._line)
            except (OSError, http.client.HTTPException):
                self.broken_lines += 1
                self._hang_up()
                time.sleep(0.01)
                continue
            if heard.status == 503:
                time.sleep(0.01)
                continue
            assert heard.status == 200, f"sent away: {heard}"
            return heard
        raise TimeoutError("the server does not come back")

    def _hang_up(self) -> None:
        if self._line is not None:
            with suppress(OSError):
                self._line.close()
        self._line = None
