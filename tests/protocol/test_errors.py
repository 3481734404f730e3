"""The promises of `BitsError` and `HResult`: what the wire shows, what people read, whether there is hope."""

import inspect

import pytest

from bitsferry.protocol import errors
from bitsferry.protocol.errors import BitsError, Context
from bitsferry.protocol.hresult import HResult, http_error, name_of, spell
from bitsferry.protocol.packets import Ack
from bitsferry.protocol.upload import error_of_ack
from bitsferry.protocol.wire import ack_of_error, read_ack, write_ack

FATAL, TRANSIENT = False, True

# What a server says: MC-BUP 2.2.1.2 and our choices (spec-notes).
SERVER_SAYS = [
    (errors.InvalidMessage(), 400, 0x80070057, FATAL),
    (errors.NoCommonProtocol(), 400, 0x80070057, FATAL),
    (errors.InvalidName(), 400, 0x80070057, FATAL),
    (errors.DestinationIsFolder(), 400, 0x80070057, FATAL),
    (errors.LengthRequired(), 411, 0x80070057, FATAL),
    (errors.UnsupportedEncoding(), 415, 0x80070057, FATAL),
    (errors.FragmentTooLarge(), 413, None, TRANSIENT),
    (errors.AuthenticationRequired(), 401, None, FATAL),
    (errors.AccessDenied(), 403, 0x80070005, FATAL),
    (errors.DestinationExists(), 403, 0x80070005, FATAL),
    (errors.UnknownUrl(), 404, None, FATAL),
    (errors.FolderNotFound(), 404, 0x80070003, FATAL),
    (errors.UploadsDisabled(), 501, 0x80070005, FATAL),
    (errors.SessionNotFound(), 500, 0x8020001F, TRANSIENT),
    (errors.OutOfStep(50), 416, None, TRANSIENT),
    (errors.FileTooLarge(), 500, 0x80200020, FATAL),
    (errors.FragmentDamaged(), 500, 0x80070017, TRANSIENT),
    (errors.DigestMismatch(), 400, 0x80070017, FATAL),
    (errors.Busy(), 503, None, TRANSIENT),
    (errors.TooManySessions(), 503, None, TRANSIENT),
    (errors.TooManyRequests(), 503, None, TRANSIENT),
    (errors.OverQuota(), 503, None, TRANSIENT),
    (errors.StoreFailed(), 500, 0x8007045D, TRANSIENT),
    (errors.DiskFull(), 500, 0x80070070, TRANSIENT),
    (errors.WriteProtected(), 500, 0x80070013, TRANSIENT),
]

# What a client says to the person before it, beyond what a server said: MC-BUP 3.1.5, spec-notes.
CLIENT_SAYS = [
    (errors.TransportFailed(), 0x80072EFE, Context.GENERAL_TRANSPORT, TRANSIENT),
    (errors.CannotConnect(), 0x80072EFD, Context.GENERAL_TRANSPORT, TRANSIENT),
    (errors.HostNotFound(), 0x80072EE7, Context.GENERAL_TRANSPORT, TRANSIENT),
    (errors.TimedOut(), 0x80072EE2, Context.GENERAL_TRANSPORT, TRANSIENT),
    (errors.NetworkDisconnected(), 0x80200010, Context.GENERAL_TRANSPORT, TRANSIENT),
    (errors.InvalidServerResponse(), 0x8020001B, Context.REMOTE_FILE, TRANSIENT),
    (errors.ProtocolMismatch(), 0x80200022, Context.REMOTE_FILE, FATAL),
    (errors.NoProgress(), 0x80200024, Context.REMOTE_FILE, TRANSIENT),
    (errors.LocalFileChanged(), 0x8020001D, Context.LOCAL_FILE, FATAL),
    (errors.LocalFileMissing(), 0x80070002, Context.LOCAL_FILE, FATAL),
    (errors.ProxyAuthenticationRequired(), 0x80190197, Context.REMOTE_FILE, FATAL),
    (errors.InvalidProxy(), 0x8020003F, Context.GENERAL_TRANSPORT, FATAL),
    (errors.UserNameTooLong(), 0x80200025, Context.GENERAL_QUEUE_MANAGER, FATAL),
    (errors.PasswordTooLong(), 0x80200026, Context.GENERAL_QUEUE_MANAGER, FATAL),
    (errors.MissingFileSize(), 0x80200011, Context.REMOTE_FILE, FATAL),
    (errors.InsufficientRangeSupport(), 0x80200013, Context.REMOTE_FILE, FATAL),
    (errors.RemoteFileChanged(), 0x8019019C, Context.REMOTE_FILE, TRANSIENT),
    (errors.LocalDiskFull(), 0x80070070, Context.LOCAL_FILE, TRANSIENT),
    (errors.LocalDiskFailed(), 0x8007045D, Context.LOCAL_FILE, FATAL),
    (errors.LocalAccessDenied(), 0x80070005, Context.LOCAL_FILE, FATAL),
    (errors.LocalFolderMissing(), 0x80070003, Context.LOCAL_FILE, FATAL),
    (errors.LocalFileInTheWay(), 0x80070050, Context.LOCAL_FILE, FATAL),
]

EVERY_CLASS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BitsError)]


def called(case: object) -> str | None:
    return type(case).__name__ if isinstance(case, BitsError) else None


@pytest.mark.parametrize(("error", "status", "hresult", "transient"), SERVER_SAYS, ids=called)
def test_an_error_has_its_status_its_number_and_its_hope(
    error: BitsError, status: int, hresult: int | None, transient: bool
) -> None:
    assert (error.status, error.hresult, error.transient) == (status, hresult, transient)
    assert error.context is Context.REMOTE_FILE


@pytest.mark.parametrize(("error", "code", "context", "transient"), CLIENT_SAYS, ids=called)
def test_a_clients_own_error_has_its_number_its_context_and_its_hope(
    error: BitsError, code: int, context: Context, transient: bool
) -> None:
    assert (error.code, error.context, error.transient) == (code, context, transient)


def test_no_error_is_without_a_line_in_these_tables() -> None:
    told = {type(case[0]) for case in [*SERVER_SAYS, *CLIENT_SAYS]}
    as_they_come = {BitsError, errors.Refused, errors.ServerFailed}  # their numbers are those of an Ack
    assert told | as_they_come == set(EVERY_CLASS)


@pytest.mark.parametrize("case", SERVER_SAYS, ids=lambda case: type(case[0]).__name__)
def test_a_client_reads_a_servers_error_as_it_was_meant(
    case: tuple[BitsError, int, int | None, bool],
) -> None:
    error, *_ = case
    if isinstance(error, errors.OutOfStep | errors.FragmentTooLarge):
        return  # the protocol mends these two: see test_upload
    ack = ack_of_error(error)
    headers = {name.lower(): value for name, value in write_ack(ack)}
    understood = error_of_ack(read_ack(ack.status, headers))
    assert understood.transient == error.transient
    assert understood.code == error.code or understood.status == error.status
    assert understood.retry_after == error.retry_after


@pytest.mark.parametrize("kind", EVERY_CLASS, ids=lambda kind: kind.__name__)
def test_every_error_says_by_itself_what_happened(kind: type[BitsError]) -> None:
    first_line = (kind.__doc__ or "").splitlines()[0]
    assert first_line.endswith(".")
    if "__init__" not in vars(kind) and not issubclass(kind, errors.Refused):
        assert kind().message == first_line


def test_an_error_is_shown_with_its_windows_name_its_number_and_its_sentence() -> None:
    assert str(errors.DiskFull("no room in /in/")) == "ERROR_DISK_FULL (0x80070070): no room in /in/"
    assert errors.DiskFull("no room in /in/").message == "no room in /in/"


def test_a_bare_status_is_shown_with_the_number_windows_gives_it() -> None:
    assert str(errors.UnknownUrl("nothing is here")) == "BG_E_HTTP_ERROR_404 (0x80190194): nothing is here"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 0x80190190),
        (401, 0x80190191),
        (403, 0x80190193),
        (404, 0x80190194),
        (407, 0x80190197),
        (409, 0x80190199),
        (411, 0x8019019B),
        (413, 0x8019019D),
        (416, 0x801901A0),
        (500, 0x801901F4),
        (501, 0x801901F5),
        (503, 0x801901F7),
        (504, 0x801901F8),
        (505, 0x801901F9),
    ],
)
def test_the_number_of_a_bare_status_is_that_of_bitsmsg_h(status: int, code: int) -> None:
    assert http_error(status) == code
    assert name_of(code) == f"BG_E_HTTP_ERROR_{status}"


def test_a_number_without_a_name_is_spelt_out() -> None:
    assert name_of(0xA0001234) == "0xA0001234"
    assert name_of(0x80190000 + 99) == "0x80190063"


def test_a_number_has_eight_upper_case_digits_even_when_it_came_with_a_sign() -> None:
    assert spell(0x1F) == "0x0000001F"
    assert spell(-2147024891) == "0x80070005"


# bitsmsg.h, winerror.h and MC-BUP's table (2.2.1.2)
WINDOWS_SAYS = {
    "S_OK": 0,
    "E_FAIL": 0x80004005,
    "ERROR_FILE_NOT_FOUND": 0x80070002,
    "ERROR_PATH_NOT_FOUND": 0x80070003,
    "E_ACCESSDENIED": 0x80070005,
    "ERROR_WRITE_PROTECT": 0x80070013,
    "ERROR_FILE_EXISTS": 0x80070050,
    "ERROR_DISK_FULL": 0x80070070,
    "E_INVALIDARG": 0x80070057,
    "ERROR_IO_DEVICE": 0x8007045D,
    "BG_E_NETWORK_DISCONNECTED": 0x80200010,
    "BG_E_MISSING_FILE_SIZE": 0x80200011,
    "BG_E_INSUFFICIENT_HTTP_SUPPORT": 0x80200012,
    "BG_E_INSUFFICIENT_RANGE_SUPPORT": 0x80200013,
    "BG_E_INVALID_SERVER_RESPONSE": 0x8020001B,
    "BG_E_TOO_MANY_FILES": 0x8020001C,
    "BG_E_LOCAL_FILE_CHANGED": 0x8020001D,
    "BG_E_SESSION_NOT_FOUND": 0x8020001F,
    "BG_E_TOO_LARGE": 0x80200020,
    "BG_E_STRING_TOO_LONG": 0x80200021,
    "BG_E_CLIENT_SERVER_PROTOCOL_MISMATCH": 0x80200022,
    "BG_E_SERVER_EXECUTE_ENABLED": 0x80200023,
    "BG_E_NO_PROGRESS": 0x80200024,
    "BG_E_USERNAME_TOO_LARGE": 0x80200025,
    "BG_E_PASSWORD_TOO_LARGE": 0x80200026,
    "BG_E_BLOCKED_BY_POLICY": 0x8020003E,
    "BG_E_INVALID_PROXY_INFO": 0x8020003F,
    "BG_E_MAXDOWNLOAD_TIMEOUT": 0x80200054,
    "BG_E_TOKEN_REQUIRED": 0x80200056,
}


@pytest.mark.parametrize("name", WINDOWS_SAYS)
def test_a_number_is_the_one_windows_gives(name: str) -> None:
    assert HResult[name] == WINDOWS_SAYS[name]


def test_the_contexts_have_the_numbers_of_bg_error_context() -> None:
    assert [(context.name, context.value) for context in Context] == [
        ("NONE", 0),
        ("UNKNOWN", 1),
        ("GENERAL_QUEUE_MANAGER", 2),
        ("QUEUE_MANAGER_NOTIFICATION", 3),
        ("LOCAL_FILE", 4),
        ("REMOTE_FILE", 5),
        ("GENERAL_TRANSPORT", 6),
        ("REMOTE_APPLICATION", 7),
    ]


@pytest.mark.parametrize("member", HResult, ids=lambda member: member.name)
def test_every_number_has_one_name_and_back(member: HResult) -> None:
    assert name_of(int(member)) == member.name


def test_c8_disk_full_is_sent_by_its_right_number_and_read_by_the_misprinted_one_too() -> None:
    assert errors.DiskFull().code == 0x80070070
    assert isinstance(error_of_ack(Ack(500, hresult=0x80070112)), errors.DiskFull)


def test_the_time_to_wait_is_the_errors_own_unless_said_otherwise() -> None:
    assert errors.Busy().retry_after == 10
    assert errors.TooManySessions().retry_after == 60
    assert errors.Busy(retry_after=3).retry_after == 3
    assert errors.Busy().retry_after == 10  # the class has not learnt it
    assert errors.DiskFull().retry_after is None


def test_a_gap_says_in_words_which_byte_is_wanted() -> None:
    assert "50" in errors.OutOfStep(50).message
    assert errors.OutOfStep(50, "byte 50, please").message == "byte 50, please"
