"""An application in a process of its own, as old as the transcripts: no answer of it has a length."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

END = b"\r\n\r\n"


@contextmanager
def old_application(reply: Path, head: Path) -> Iterator[tuple[int, Callable[[], list[str]]]]:
    """Runs until the end of the `with`; gives its port, and what lists the heads it heard.

    It copies the file `reply` to where replies belong, says what is in the file `head`, and hangs up.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, str(reply), str(head)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    heads = head.with_name("heads")
    try:
        port = int(process.stdout.readline())
        yield port, lambda: heads.read_bytes().decode("utf-8").split("\r\n\r\n")[:-1]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def _be_old(reply: Path, head: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            line, _ = listener.accept()
            with line:
                said = b""
                while not said.endswith(END):
                    said += line.recv(65536)
                with head.with_name("heads").open("ab") as heads:
                    heads.write(said)
                named = next(
                    each for each in said.decode("utf-8").split("\r\n") if each.startswith("BITS-Response-")
                )
                Path(named.partition(": ")[2]).write_bytes(reply.read_bytes())
                line.sendall(head.read_bytes())


if __name__ == "__main__":
    _be_old(Path(sys.argv[1]), Path(sys.argv[2]))
