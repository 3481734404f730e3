"""What a Windows client really said, said to our server."""

from __future__ import annotations

from itertools import pairwise

from transcripts.reader import Direction, Message, read

from .conftest import Serve
from .ferry import Ferry
from .raw import Answer, Line

# True of every server in its own way.
ITS_OWN = {"date", "server", "bits-session-id"}


def exchanges(transcript: str) -> list[tuple[Message, Message]]:
    """Every BITS_POST of the client with the answer it got; what the application said does not matter."""
    heard = [m for m in read(transcript) if m.direction in (Direction.CLIENT_ASKS, Direction.SERVER_ANSWERS)]
    pairs = [(asked, answered) for asked, answered in pairwise(heard) if asked.start_line.startswith("BITS")]
    assert all(answered.direction is Direction.SERVER_ANSWERS for _, answered in pairs)
    return pairs


def play(line: Line, asked: Message, session: str) -> Answer:
    """Say a message as Windows did, but for the session id, which is the server's to give."""
    theirs = dict(asked.headers).get("BITS-Session-Id", "none")
    return line.ask(asked.to_bytes().replace(theirs.encode(), session.encode()))


def spoken(headers: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers if name.lower() not in ITS_OWN}


def test_the_plain_upload_is_answered_as_the_transcript_says(serve: Serve) -> None:
    ferry = serve(top='method_override = true\n[[directory]]\nurl = "/upload/"\nfolder = "./upload"')
    body, session = b"", ""
    with ferry.line() as line:
        for asked, answered in exchanges("plain-upload"):
            answer = play(line, asked, session)
            assert f"HTTP/1.1 {answer.status} OK" == answered.start_line
            assert spoken(list(answer.headers)) == spoken(answered.headers)
            session = answer.session or session
            body += asked.body
    assert (ferry.folder / "upload" / "2000mb-rfc2119.txt").read_bytes() == body


def test_the_upload_of_the_upload_reply_is_answered_but_for_the_reply(serve: Serve) -> None:
    """Without an application there is no reply to name; host and fallback are as in the transcript."""
    ferry = serve(
        top='[[directory]]\nurl = "/upload-ref-isapi-WebFarm/"\nfolder = "./farm"\n'
        'host_id = "FRANKCAO8"\nhost_id_fallback_timeout = 110'
    )
    body, session = b"", ""
    with ferry.line() as line:
        for asked, answered in exchanges("upload-reply"):
            answer = play(line, asked, session)
            expected = spoken(answered.headers)
            expected.pop("bits-reply-url", None)
            assert f"HTTP/1.1 {answer.status} OK" == answered.start_line
            assert spoken(list(answer.headers)) == expected
            session = answer.session or session
            body += asked.body
    assert (ferry.folder / "farm" / "2100mb-rfc2119.txt").read_bytes() == body


def test_every_ack_of_the_session_names_it_where_iis_is_silent(server: Ferry) -> None:
    upload = server.begun()
    assert upload.ping().session is None
    assert upload.fragment(b"data").session == upload.session
    assert upload.close().session == upload.session
