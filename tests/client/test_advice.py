"""Whatever goes wrong, somebody is told what to do about it."""

from collections.abc import Iterator

import pytest

from bitsferry.cli.advice import GO_ON, advise
from bitsferry.cli.spool import CannotKeep
from bitsferry.client.agent import NotTrusted
from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context

GENERAL = "Trying again will not help as long as nothing changes on the server or in the command."
KEPT = "It is kept there."


def kinds(of: type[BitsError] = BitsError) -> Iterator[type[BitsError]]:
    """Every error the client, and what it leans on, has a class for."""
    for kind in of.__subclasses__():
        if kind.__module__.split(".")[1] in ("protocol", "client", "cli") and kind not in (
            errors.Refused,
            errors.ServerFailed,
        ):
            yield kind
        yield from kinds(kind)


KINDS = sorted({*kinds()}, key=lambda kind: kind.__name__)


def made(kind: type[BitsError]) -> BitsError:
    return errors.OutOfStep(7) if kind is errors.OutOfStep else kind("it went wrong")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", [None, "", "inga"])
def test_every_error_comes_with_sentences(kind: type[BitsError], user: str | None) -> None:
    error = made(kind)
    advice = advise(error, user=user)
    assert advice.endswith(".")
    assert advice[0].isupper()
    assert (GO_ON in advice) == error.transient


@pytest.mark.parametrize("kind", KINDS)
def test_where_something_else_goes_on_that_is_said_whatever_happened(kind: type[BitsError]) -> None:
    advice = advise(made(kind), go_on=KEPT)
    assert advice.endswith(KEPT)
    assert "Run the same command again later" not in advice


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.HostNotFound(), "DNS"),
        (errors.CannotConnect(), "--proxy"),
        (errors.NetworkDisconnected(), "network"),
        (errors.ProxyAuthenticationRequired(), "--proxy-user"),
        (errors.InvalidProxy(), "http_proxy"),
        (NotTrusted("certificate"), "--cacert"),
        (errors.AuthenticationRequired(), "--user"),
        (errors.AccessDenied(), "name in the URL"),
        (errors.FileTooLarge(), "BITSMaximumUploadSize"),
        (errors.UploadsDisabled(), "switched on"),
        (errors.DiskFull(), "server's people for room"),
        (errors.LocalDiskFull(), "this machine's disk"),
        (CannotKeep(), "file of your own"),
        (errors.LocalFileChanged(), "starts over"),
        (errors.LocalFileMissing(), "name of the file"),
        (errors.MissingFileSize(), "reply"),
        (errors.InsufficientRangeSupport(), "parts"),
        (errors.FolderNotFound(), "create_folders"),
        (errors.UnknownUrl(), "IIS"),
        (errors.InvalidServerResponse(), "BITS server"),
    ],
)
def test_advice_says_what_can_be_done(error: BitsError, word: str) -> None:
    assert word in advise(error)


@pytest.mark.parametrize(
    ("status", "word"), [(302, "points to"), (400, "name"), (405, "--post"), (501, "--post"), (404, "IIS")]
)
def test_a_status_says_what_can_be_done(status: int, word: str) -> None:
    error = errors.Refused("no", status=status, hresult=None, context=Context.REMOTE_FILE, transient=False)
    assert word in advise(error)


def test_what_the_servers_application_refuses_is_not_the_servers_affair() -> None:
    error = errors.Refused(
        "no", status=422, hresult=None, context=Context.REMOTE_APPLICATION, transient=False
    )
    assert "application" in advise(error)


def test_where_nothing_is_known_nothing_is_promised() -> None:
    error = errors.Refused("no", status=418, hresult=None, context=Context.REMOTE_FILE, transient=False)
    assert advise(error) == GENERAL
