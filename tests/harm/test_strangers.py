"""Who knows the id of somebody else's upload can do nothing with it, not even get in its way."""

from __future__ import annotations

import base64

import pytest

from server import raw
from server.conftest import Serve

CONTENT = bytes(range(256)) * 40


def basic(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stranger_who_knows_the_id_does_not_even_interrupt_the_body(serve: Serve, workers: int) -> None:
    ferry = serve(top=f"workers = {workers}")
    hashed = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
    (ferry.folder / "users").write_text(f"anna:{hashed}\neve:{hashed}\n")
    ferry.configure(
        ferry.folder.joinpath("bitsferry.toml").read_text() + 'auth = ["basic"]\nhtpasswd = "users"\n'
    )
    ferry.restart()
    with ferry.line() as anna, ferry.line() as eve:
        session = anna.ask(raw.create("/in/a", authorization=basic("anna"))).session
        assert session is not None
        whole = raw.fragment("/in/a", session, CONTENT, authorization=basic("anna"))
        anna.send(whole[: -len(CONTENT) // 2])
        ferry.catch_up()
        for said in (
            raw.fragment("/in/a", session, b"x", authorization=basic("eve")),
            raw.close("/in/a", session, authorization=basic("eve")),
            raw.cancel("/in/a", session, authorization=basic("eve")),
        ):
            assert eve.ask(said).verdict == (403, 0x80070005)
        anna.send(whole[-len(CONTENT) // 2 :])
        assert anna.answer().received == len(CONTENT)
    assert (ferry.folder / "in" / "a").read_bytes() == CONTENT
