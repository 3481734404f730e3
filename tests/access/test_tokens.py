"""Tokens of a file: only their hashes are at rest, and nobody reads one in a log."""

from __future__ import annotations

import datetime
import logging
import os
from pathlib import Path

import pytest

from bitsferry.access.asker import Identity
from bitsferry.access.bearer import Bearer
from bitsferry.access.guard import Guard
from bitsferry.access.throttle import Throttle
from bitsferry.access.tokens import TokenFile, new_token, parse_tokens, token_line
from bitsferry.access.watched_file import WatchedFile
from bitsferry.protocol.errors import AuthenticationRequired

from .asking import claim, identified, refused, run

# As new_token makes them, but the same each time: they are in the names of tests.
TOKEN = "Ndxj162_g5BmqrymKRKH_Izv3Xy-o6B2Z0VLHbhvhvU"
OTHER = "EV6kDgm9t3CW_9C3KQwrLbOfwcAmtREVO__kJdRGx3I"
OLD = "Ms1ZydMVXxQoKpA3z9ivnVXRLk0zmnpay-_157Z67co"
NOON = datetime.datetime(2027, 1, 31, 12, tzinfo=datetime.UTC)


class Clock:
    now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    lines = [
        "# machines",
        "",
        token_line("host1", TOKEN),
        token_line("host1", OTHER, NOON.date()),
        token_line("host 2", OLD, NOON.date() - datetime.timedelta(1)),
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def tokens(path: Path) -> TokenFile:
    return WatchedFile(str(path), parse_tokens)


@pytest.fixture
def scheme(tokens: TokenFile) -> Bearer:
    return Bearer(tokens, clock=Clock())


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer   {TOKEN} "},
        {"x-api-key": TOKEN},
        {"authorization": "Basic YTpi", "x-api-key": TOKEN},
    ],
)
def test_a_token_is_understood_in_authorization_and_in_a_header_of_its_own(
    scheme: Bearer, headers: dict[str, str]
) -> None:
    assert identified(scheme, claim(headers)) == Identity("host1", "bearer")


def test_the_header_of_its_own_has_the_name_that_is_set(tokens: TokenFile) -> None:
    scheme = Bearer(tokens, api_key_header="X-Corp-Key")
    assert identified(scheme, claim({"x-corp-key": TOKEN})) == Identity("host1", "bearer")
    assert identified(scheme, claim({"x-api-key": TOKEN})) is None


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"x-api-key": " "}])
def test_without_a_token_it_says_nothing(scheme: Bearer, headers: dict[str, str]) -> None:
    assert identified(scheme, claim(headers)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        "TOgdKfrn8K0SsseIRQyLVZUvCsz9KTHEcrPzjZbR-0c",
        TOKEN[:-1],
        TOKEN + "A",
        TOKEN.swapcase(),
        f"{TOKEN}, {OTHER}",
        f"{TOKEN} {OTHER}",
        "",
        "\xff",
        "\ud800",
        "a.b.c",
        "x" * 16000,
    ],
)
def test_any_other_is_refused_as_rfc_6750_has_it(scheme: Bearer, wrong: str) -> None:
    error = refused(scheme, claim({"authorization": f"Bearer {wrong}"}))
    assert error.challenges == ('Bearer realm="bitsferry", error="invalid_token"',)
    assert error.counts


def test_a_token_is_good_until_its_day_is_over(tokens: TokenFile) -> None:
    clock = Clock()
    scheme = Bearer(tokens, clock=clock)
    said = claim({"x-api-key": OTHER})
    clock.now = datetime.datetime(2027, 1, 31, 23, 59, 59, tzinfo=datetime.UTC).timestamp()
    assert identified(scheme, said) == Identity("host1", "bearer")
    clock.now += 1
    error = refused(scheme, said)
    assert (str(error), error.user) == ("the token is expired", "host1")


def test_the_challenge_names_the_realm(tokens: TokenFile) -> None:
    assert Bearer(tokens, realm="the office").challenges(claim()) == ('Bearer realm="the office"',)


def test_a_line_that_is_taken_out_ends_its_token(path: Path) -> None:
    now = 0.0
    scheme = Bearer(WatchedFile(str(path), parse_tokens, lambda: now))
    said = claim({"x-api-key": TOKEN})
    assert identified(scheme, said)
    path.write_text(token_line("host1", OTHER))
    os.utime(path, ns=(1, 1))
    now = 2.0
    assert str(refused(scheme, said)) == "nobody knows the token"


def test_no_token_is_in_the_file_the_log_or_an_error(
    scheme: Bearer, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert TOKEN not in path.read_text()
    guard = Guard([scheme], throttle=Throttle(wrong_password_delay=0))
    caplog.set_level(logging.DEBUG)
    for wrong in (OLD, TOKEN + "x", "eyJhbGciOiJub25lIn0.e30.AAAA"):
        for headers in ({"authorization": f"Bearer {wrong}"}, {"x-api-key": wrong}):
            with pytest.raises(AuthenticationRequired) as error:
                run(guard.admit(claim(headers)))
            assert wrong not in caplog.text + repr(error.value) + str(error.value.__context__)
            assert not any(
                wrong in str(value) for record in caplog.records for value in vars(record).values()
            )
    assert guard.refusals["bearer", "the token is expired"] == 2
    assert guard.refusals["bearer", "nobody knows the token"] == 4


@pytest.mark.parametrize(
    "line",
    [
        TOKEN,
        f"host3:{TOKEN}",
        f"host3:sha256:{TOKEN}",
        f":sha256:{'0' * 64}",
        f"host3:sha256:{'0' * 63}",
        f"host3:md5:{'0' * 64}",
        f"host3:sha256:{'0' * 64}:tomorrow",
        f"host3:sha256:{'0' * 64}:2027-02-31",
        f" \N{RIGHT-TO-LEFT OVERRIDE}:sha256:{'0' * 64}",
    ],
)
def test_a_line_that_is_wrong_is_told_by_its_number_only(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2 ") as error:
        parse_tokens(f"# \n{line}")
    assert TOKEN not in str(error.value)


def test_one_token_cannot_be_two_users() -> None:
    with pytest.raises(ValueError, match=r"^line 2 has the token of another line"):
        parse_tokens(f"{token_line('a', TOKEN)}\n{token_line('b', TOKEN)}")


def test_new_tokens_are_long_and_never_the_same() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) == 43


@pytest.mark.parametrize("user", ["", "a:b", "#a", "a\nb", " a", "x" * 301])
def test_a_name_that_could_not_be_read_again_gets_no_line(user: str) -> None:
    with pytest.raises(ValueError, match="user"):
        token_line(user, TOKEN)
