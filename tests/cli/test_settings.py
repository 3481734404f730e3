"""bitsferry.toml: what may stand in it, and what is said when something else does."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.cli.settings import KEYS, Settings, SettingsError, read_settings, settings_of_folder
from bitsferry.server.backend import Timing
from bitsferry.server.connections import Limits
from bitsferry.server.directory import Directory
from bitsferry.server.http_backend import HttpBackend, Trust, basic, bearer
from bitsferry.server.listeners import Address
from bitsferry.server.outgoing import Waits

IN = '[[directory]]\nurl = "/in/"\nfolder = "in"\n'

Read = Callable[[str], Settings]
Complain = Callable[[str], str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """What a text means as a settings file."""

    def read(text: str) -> Settings:
        path = tmp_path / "bitsferry.toml"
        path.write_text(text, encoding="utf-8", newline="")
        return read_settings(str(path))

    return read


@pytest.fixture
def complain(read: Read, tmp_path: Path) -> Complain:
    """What is said about a text, without the folder the file is in."""

    def complain(text: str) -> str:
        with pytest.raises(SettingsError) as error:
            read(text)
        return str(error.value).replace(str(tmp_path) + "/", "")

    return complain


# What is right


def test_a_directory_is_all_a_file_needs(read: Read, tmp_path: Path) -> None:
    assert read(IN) == Settings((Directory("/in/", f"{tmp_path}/in"),), store=f"file:{tmp_path}/store")


def test_a_folder_needs_no_file_and_hides_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings_of_folder("inbox") == Settings(
        (Directory("/", f"{tmp_path}/inbox"),), store=f"file:{tmp_path}/inbox/.bitsferry"
    )


def test_every_setting_arrives(read: Read, tmp_path: Path) -> None:
    settings = read("""
        listen = ["0.0.0.0:80", ":81", "[::1]:0", "unix:run/socket"]
        store = "file:elsewhere"
        durability = "process"
        workers = 4
        cleanup_interval = "10 minutes"
        method_override = false

        [[directory]]
        url = "/a b/ü/"
        folder = "/srv/a"
        upload_enabled = false
        allow_overwrites = true
        max_upload_size = "10 GB"
        max_fragment_size = "1 MiB"
        quota = "2 TB"
        free_space_reserve = "1 GB"
        sessions_per_user = 50
        session_timeout = "14 days"
        create_folders = true
        read_back = "everybody"
        host_id = "node1.example"
        host_id_fallback_timeout = "1 day"

        [[directory]]
        url = "/"
        folder = "b"

        [limits]
        connections = 5
        connections_per_address = 4
        head_size = "8 KiB"
        header_value_size = 1000
        head_time = 1
        idle_time = 2
        stall_time = 3
        drain_time = 0
        drain_size = 5
        linger_size = 6
        linger_time = 0.5
        """)
    first = Directory(
        "/a b/ü/",
        "/srv/a",
        upload_enabled=False,
        allow_overwrites=True,
        max_upload_size=10**10,
        max_fragment_size=2**20,
        quota=2 * 10**12,
        free_space_reserve=10**9,
        sessions_per_user=50,
        session_timeout=14 * 86400,
        create_folders=True,
        read_back="everybody",
        host_id="node1.example",
        host_id_fallback_timeout=86400,
    )
    assert settings == Settings(
        (first, Directory("/", f"{tmp_path}/b")),
        store=f"file:{tmp_path}/elsewhere",
        listen=(
            Address("0.0.0.0", 80),
            Address("", 81),
            Address("::1", 0),
            Address(path=f"{tmp_path}/run/socket"),
        ),
        durability="process",
        workers=4,
        cleanup_interval=600,
        method_override=False,
        header_value_size=1000,
        limits=Limits(
            connections=5,
            connections_per_address=4,
            head_size=8192,
            head_time=1,
            idle_time=2,
            stall_time=3,
            drain_time=0,
            drain_size=5,
            linger_size=6,
            linger_time=0.5,
        ),
    )


def test_the_names_scripts_rely_on_are_known(read: Read, tmp_path: Path) -> None:
    settings = read("""
listen = ["127.0.0.1:8080"]
store = "file:./store"              # where sessions live
durability = "power"                # or "process"

[[directory]]
url = "/in/"
folder = "./in"
upload_enabled = true
allow_overwrites = false            # BITSAllowOverwrites
max_upload_size = "10 GB"           # BITSMaximumUploadSize; absent: no limit
session_timeout = "14 days"         # BITSSessionTimeout
sessions_per_user = 50              # BITSNumberOfSessionsLimit; absent: no limit
host_id = "node1.example"           # BITSHostId
host_id_fallback_timeout = "1 day"  # BITSHostIdFallbackTimeout
notification_type = "reference"     # BITSServerNotificationType: none, reference, value
notification_url = "http://127.0.0.1:9000/handle"
auth = ["none"]                     # any of none, basic, digest, bearer, ntlm, negotiate, certificate, proxy
""")
    assert [directory.url for directory in settings.directories] == ["/in/"]


# The application behind a directory

TOLD = IN + 'notification_type = "value"\nnotification_url = "http://127.0.0.1:9000/handle"\n'
TLS = TOLD.replace("http:", "https:")


def backend_of(settings: Settings) -> HttpBackend:
    backend = settings.directories[0].backend
    assert isinstance(backend, HttpBackend)
    return backend


def test_an_application_is_told_by_reference_or_by_value(read: Read, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9000/handle"
    by_value = Directory("/in/", f"{tmp_path}/in", backend=HttpBackend(url, by_value=True))
    assert read(TOLD) == Settings((by_value,), store=f"file:{tmp_path}/store")
    by_reference = Directory("/in/", f"{tmp_path}/in", backend=HttpBackend(url))
    assert read(TOLD.replace("value", "reference")).directories == (by_reference,)


def test_every_setting_of_an_application_arrives(read: Read, tmp_path: Path) -> None:
    authority, ours = trustme.CA(), trustme.CA().issue_cert("ferry.example")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "ours.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "ours.key"))
    (tmp_path / "password").write_text("open sesame\n", encoding="utf-8")
    (directory,) = read(
        TLS
        + """
        notification_user = "ferry"
        notification_password_file = "password"
        notification_ca = "ca.pem"
        notification_certificate = "ours.pem"
        notification_key = "ours.key"
        notification_timeout = "10 s"
        notification_patience = "1 hour"
        max_reply_size = "2 MB"
        reply_url_base = "https://node1.example/in/"
        """
    ).directories
    assert directory.backend == HttpBackend(
        "https://127.0.0.1:9000/handle",
        by_value=True,
        authorization=basic("ferry", "open sesame"),
        trust=Trust(*(str(tmp_path / name) for name in ("ca.pem", "ours.pem", "ours.key"))),
        largest_reply=2_000_000,
        waits=Waits(10, 10, 10, 10),
    )
    assert directory.timing == Timing(patience=3600)
    assert directory.reply_base == "https://node1.example/in/"


def test_a_long_time_for_an_application_is_not_one_to_reach_it(read: Read) -> None:
    assert backend_of(read(TOLD + 'notification_timeout = "1 hour"')).waits == Waits(30, 3600, 3600, 3600)


@pytest.mark.parametrize("text", ["s3same", "s3same\n", "s3same\r\n"])
def test_a_token_is_a_line_of_a_file(read: Read, tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8", newline="")
    settings = read(TOLD + 'notification_token_file = "token"\n')
    assert backend_of(settings).authorization == bearer("s3same")
    assert "s3same" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "base", "whole"),
    [
        ("myasp.asp", "https://h/myvdir/", "https://h/myvdir/myasp.asp"),
        ("myasp.asp?a=b", "https://h/myvdir", "https://h/myvdir/myasp.asp?a=b"),
        ("/app/x", "http://h:81/in/", "http://h:81/app/x"),
        ("../app", "http://h/a/in/", "http://h/a/app"),
        ("HTTP://other/x", "http://h/in/", "HTTP://other/x"),
    ],
)
def test_a_relative_url_begins_where_clients_find_the_directory(
    read: Read, url: str, base: str, whole: str
) -> None:
    text = TOLD.replace("http://127.0.0.1:9000/handle", url) + f'reply_url_base = "{base}"\n'
    assert backend_of(read(text)).url == whole


def test_an_application_may_be_switched_off_with_one_word(read: Read) -> None:
    off = TOLD.replace('"value"', '"none"') + 'notification_token_file = "not there"\n'
    assert read(off) == read(IN)


# What is said about an application that cannot be meant. `{here}` is the file's folder.
MISTAKEN = {
    "no url": (
        IN + 'notification_type = "value"\n',
        "line 4: notification_type: there is no notification_url; say where the application is",
    ),
    "no type": (
        IN + 'notification_url = "http://host/"\n',
        "line 4: notification_url: nobody is told of an upload without a notification_type: write"
        ' "reference" or "value"',
    ),
    "no type for something else": (
        IN + "max_reply_size = 5\n",
        "line 4: max_reply_size: nobody is told of an upload without a notification_type: write"
        ' "reference" or "value"',
    ),
    "another type": (
        IN + "notification_type = 1\n",
        'line 4: notification_type: 1 is none of "none", "reference", "value"',
    ),
    "another kind of url": (
        TOLD.replace("http:", "ftp:"),
        "line 5: notification_url: a URL begins with http:// or https:// and a host",
    ),
    "a long url": (
        TOLD.replace("handle", "h" * 2200),
        "line 5: notification_url: the URL has 2222 characters; 2200 are the most",
    ),
    "a secret in the url": (
        TOLD.replace("127", "me:sesame@127"),
        "line 5: notification_url: a name or a password must not stand in a URL",
    ),
    "relative to nothing": (
        TOLD.replace("http://127.0.0.1:9000/", ""),
        "line 5: notification_url: a relative one begins where clients find this directory: say where that is"
        " as reply_url_base, or write the whole URL, with http:// or https://",
    ),
    "too long together": (
        TOLD.replace("http://127.0.0.1:9000/", "h" * 2100) + f'reply_url_base = "http://host/{"b" * 100}"\n',
        "line 5: notification_url: the URL has 2219 characters; 2200 are the most",
    ),
    "a base with a query": (
        IN + 'reply_url_base = "http://host/in?x"\n',
        "line 4: reply_url_base: a URL below which there are others is ASCII, and has no '?'",
    ),
    "a base that is none": (
        IN + 'reply_url_base = "/in/"\n',
        "line 4: reply_url_base: a URL begins with http:// or https:// and a host",
    ),
    "a user without a password": (
        TOLD + 'notification_user = "me"\n',
        "line 6: notification_user: there is no notification_password_file; write the password into a file,"
        " and name that",
    ),
    "a password without a user": (
        TOLD + 'notification_password_file = "password"\n',
        "line 6: notification_password_file: there is no notification_user; say whose password it is",
    ),
    "a user that cannot be": (
        TOLD + 'notification_user = "a:b"\nnotification_password_file = "password"\n',
        "line 6: notification_user: a user's name has at least one letter, no colon and no control"
        " characters",
    ),
    "both": (
        TOLD
        + 'notification_user = "a"\nnotification_password_file = "password"\n'
        + 'notification_token_file = "password"\n',
        "line 8: notification_token_file: there is a notification_user already; choose one",
    ),
    "no such file": (
        TOLD + 'notification_token_file = "none"\n',
        "line 6: notification_token_file: {here}none cannot be read: No such file or directory",
    ),
    "more than a secret": (
        TOLD + 'notification_token_file = "lines"\n',
        "line 6: notification_token_file: {here}lines must hold the secret, in one line, and nothing else",
    ),
    "no secret": (
        TOLD + 'notification_token_file = "empty"\n',
        "line 6: notification_token_file: {here}empty must hold the secret, in one line, and nothing else",
    ),
    "no token": (
        TOLD + 'notification_token_file = "words"\n',
        "line 6: notification_token_file: a token has visible ASCII characters, no spaces",
    ),
    "no text": (
        TOLD + 'notification_token_file = "latin"\n',
        "line 6: notification_token_file: {here}latin is not UTF-8: save it as UTF-8",
    ),
    "authorities over http": (
        TOLD + 'notification_ca = "ca.pem"\n',
        "line 6: notification_ca: this is for a notification_url that begins with https://",
    ),
    "no such authorities": (
        TLS + 'notification_ca = "none"\n',
        "line 6: notification_ca: {here}none cannot be used: No such file or directory",
    ),
    "no authorities": (
        TLS + 'notification_ca = "words"\n',
        "line 6: notification_ca: {here}words cannot be used: that is not what is in there",
    ),
    "a key without a certificate": (
        TLS + 'notification_key = "words"\n',
        "line 6: notification_key: there is no notification_certificate; say whose key it is",
    ),
    "no certificate": (
        TLS + 'notification_certificate = "words"\nnotification_key = "none"\n',
        "line 6: notification_certificate: {here}words with {here}none cannot be used: that is not what"
        " is in there",
    ),
    "no time": (
        TOLD + "notification_timeout = 0\n",
        "line 6: notification_timeout: a time of 0 makes no sense here",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_what_is_wrong_about_an_application_is_told_with_its_line(
    read: Read, tmp_path: Path, mistake: str
) -> None:
    secrets = {"password": "open sesame\n", "lines": "two\nlines\n", "empty": "\n", "words": "open sesame\n"}
    for name, content in secrets.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "latin").write_text("ü", encoding="latin-1")
    text, sentence = MISTAKEN[mistake]
    with pytest.raises(SettingsError) as error:
        read(text)
    assert str(error.value) == f"{tmp_path}/bitsferry.toml, {sentence.format(here=f'{tmp_path}/')}"
    assert "sesame" not in str(error.value)


# Sizes, times and paths


@pytest.mark.parametrize(
    ("key", "value", "field", "meant"),
    [
        ("max_upload_size", '"10 GB"', "max_upload_size", 10_000_000_000),
        ("max_upload_size", '"64KiB"', "max_upload_size", 65536),
        ("max_upload_size", "10_000", "max_upload_size", 10_000),
        ("max_upload_size", '"1844674407370955"', "max_upload_size", 1844674407370955),
        ("session_timeout", '"14 days"', "session_timeout", 1_209_600),
        ("session_timeout", '"1.5 h"', "session_timeout", 5400),
        ("session_timeout", "90", "session_timeout", 90),
        ("session_timeout", "0.5", "session_timeout", 0.5),
        ("host_id_fallback_timeout", '"never"', "host_id_fallback_timeout", None),
    ],
)
def test_sizes_and_times_are_numbers_or_words(
    read: Read, key: str, value: str, field: str, meant: float | None
) -> None:
    (directory,) = read(IN + f"{key} = {value}\n").directories
    assert getattr(directory, field) == meant


@pytest.mark.parametrize("store", ["elsewhere", "file:elsewhere", "file:./elsewhere", "./elsewhere"])
def test_relative_paths_are_relative_to_the_file(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.chdir("/")
    settings = read(f'store = "{store}"\n{IN}')
    assert Path(settings.store.removeprefix("file:")) == tmp_path / "elsewhere"
    assert Path(settings.directories[0].folder) == tmp_path / "in"


@pytest.mark.parametrize("store", ["/var/lib/b", "file:/var/lib/b", "file:///var/lib/b"])
def test_absolute_paths_stay(read: Read, store: str) -> None:
    assert read(f'store = "{store}"\n{IN}').store == "file:/var/lib/b"


def test_what_notepad_writes_is_read(read: Read) -> None:
    assert read("\ufeff" + IN.replace("\n", "\r\n")) == read(IN)


# What is wrong: each with the sentence it gets, all of it

TWO = IN + '\n[[directory]]\nurl = "/two/"\nfolder = "two"\n'

WRONG = {
    "unknown at the top": ('lisen = []\n' + IN, 'line 1: the key "lisen" is unknown; did you mean listen?'),
    "unknown in limits": (
        IN + "[limits]\nidle_time = 5\nidel_time = 5\n",
        'line 6: the key "idel_time" is unknown in [limits]; did you mean idle_time?',
    ),
    "unknown in the second directory": (
        TWO + "allow_overwrite = true\n",
        'line 8: the key "allow_overwrite" is unknown in a [[directory]]; did you mean allow_overwrites?',
    ),
    "unknown between two directories": (
        IN + "allow_overwrite = true\n" + TWO.replace("in", "on"),
        'line 4: the key "allow_overwrite" is unknown in a [[directory]]; did you mean allow_overwrites?',
    ),
    "what IIS calls it": (
        IN + "BITSAllowOverwrites = 1\n",
        'line 4: the key "BITSAllowOverwrites" is unknown in a [[directory]]; did you mean allow_overwrites?',
    ),
    "like nothing we know": (
        IN + "[limits]\nxyzzy = 1\n",
        'line 5: the key "xyzzy" is unknown in [limits]; known here: connections, connections_per_address,'
        " head_size, header_value_size, head_time, idle_time, stall_time, drain_time, drain_size,"
        " linger_size, linger_time, wrong_passwords, wrong_password_delay",
    ),
    "in the wrong table": (
        IN + 'listen = ["127.0.0.1:1"]\n',
        'line 4: the key "listen" is unknown in a [[directory]]; it belongs at the top, before all tables',
    ),
    "for all directories": (
        "allow_overwrites = true\n" + IN,
        'line 1: the key "allow_overwrites" is unknown; it belongs in a [[directory]]',
    ),
    "a limit outside": (
        "idle_time = 5\n" + IN,
        'line 1: the key "idle_time" is unknown; it belongs in [limits]',
    ),
    "an unknown table": ("[limit]\n" + IN, 'line 1: the key "limit" is unknown; did you mean limits?'),
    "text for a number": (
        IN + 'sessions_per_user = "50"\n',
        'line 4: sessions_per_user: "50" is no whole number from 1 to 1000000000',
    ),
    "a number for text": ('store = 5\n' + IN, "line 1: store: 5 is no text: put it between quotes"),
    "text for a truth": (
        IN + 'allow_overwrites = "yes"\n',
        'line 4: allow_overwrites: "yes" is neither true nor false (without quotes)',
    ),
    "a number for a truth": (
        IN + "allow_overwrites = 1\n",
        "line 4: allow_overwrites: 1 is neither true nor false (without quotes)",
    ),
    "a truth for a number": (
        "workers = true\n" + IN,
        "line 1: workers: true is no whole number from 1 to 64",
    ),
    "no such choice": (
        'durability = "always"\n' + IN,
        'line 1: durability: "always" is none of "power", "process"',
    ),
    "too many": ("workers = 65\n" + IN, "line 1: workers: 65 is no whole number from 1 to 64"),
    "a bad size": (
        IN + 'max_upload_size = "10 GG"\n',
        "line 4: max_upload_size: 'GG' in '10 GG' is no unit of a size: write a number of bytes, or a size"
        " such as '500 MB', '10 GB' or '64 KiB'",
    ),
    "no size": (
        IN + "max_upload_size = 0\n",
        "line 4: max_upload_size: a limit of 0 would let nothing in; leave it out for no limit",
    ),
    "a huge size": (
        IN + 'quota = "9000000 TB"\nmax_upload_size = "10000 PB"\n',
        'line 5: max_upload_size: "10000 PB" must be at least one byte, and less than 8 EiB',
    ),
    "a bad duration": (
        IN + 'session_timeout = "1 fortnight"\n',
        "line 4: session_timeout: 'fortnight' in '1 fortnight' is no unit of a time: write a number of"
        " seconds, or a time such as '90 s', '5 minutes', '12 hours' or '14 days'",
    ),
    "a negative duration": (
        IN + "session_timeout = -5\n",
        "line 4: session_timeout: -5 is not a time: write a number of seconds, or a time such as '90 s',"
        " '5 minutes', '12 hours' or '14 days'",
    ),
    "no duration": (
        IN + "[limits]\nstall_time = 0\n",
        "line 5: stall_time: a time of 0 makes no sense here",
    ),
    "for ever": (
        IN + 'session_timeout = "40000 days"\n',
        'line 4: session_timeout: "40000 days" is more than a hundred years',
    ),
    "no url": ('[[directory]]\nfolder = "in"\n', "line 1: this [[directory]] has no url"),
    "no folder": (IN + '[[directory]]\nurl = "/two/"\n', "line 4: this [[directory]] has no folder"),
    "an empty folder": ('[[directory]]\nurl = "/"\nfolder = ""\n', 'line 3: folder: "" is no path'),
    "a url twice": (
        TWO.replace("/two/", "/in/"),
        'line 6: url: there is a [[directory]] for "/in/" already',
    ),
    "half a url": (
        IN.replace("/in/", "/in"),
        "line 2: url: \"/in\" is no path that begins and ends in '/', such as '/in/'",
    ),
    "a whole url": (
        IN.replace("/in/", "http://host/in/"),
        "line 2: url: \"http://host/in/\" is no path that begins and ends in '/', such as '/in/'",
    ),
    "a url upwards": (
        IN.replace("/in/", "/../"),
        "line 2: url: no upload could reach \"/../\": the URL has an empty part, '.' or '..' where a name"
        " belongs",
    ),
    "a url Windows cannot say": (
        IN.replace("/in/", "/aux/"),
        "line 2: url: no upload could reach \"/aux/\": the name 'aux' is a device on Windows",
    ),
    "an address": (
        'listen = ["8080"]\n' + IN,
        "line 1: listen: '8080' is no address to listen on: write HOST:PORT, [::1]:PORT or unix:/path",
    ),
    "a port": (
        'listen = ["a:1",\n"a:65536"]\n' + IN,
        "line 1: listen: 'a:65536' is no address to listen on: write HOST:PORT, [::1]:PORT or unix:/path",
    ),
    "one address": (
        'listen = "127.0.0.1:1"\n' + IN,
        'line 1: listen: write a list of addresses, such as ["127.0.0.1:8080"]',
    ),
    "a store elsewhere": (
        'store = "s3://bucket"\n' + IN,
        'line 1: store: there is no store of the kind "s3"; write file:FOLDER',
    ),
    "a store nowhere": ('store = "file:"\n' + IN, 'line 1: store: "" is no path'),
    "a host": (
        IN + 'host_id = "http://node1:80/"\n',
        'line 4: host_id: "http://node1:80/" is no host name or address, without scheme and port',
    ),
    "single brackets": (
        IN.replace("[[directory]]", "[directory]"),
        "line 1: directory: write [[directory]] with double brackets, and its url and its folder below",
    ),
    "no directory": (
        "workers = 2\n",
        "line 1: at least one directory is needed: write [[directory]] with double brackets, and its url and"
        " its folder below",
    ),
    "an empty file": (
        "",
        "line 1: at least one directory is needed: write [[directory]] with double brackets, and its url and"
        " its folder below",
    ),
    "no table": (
        "limits = 5\n" + IN,
        "line 1: limits: 5 is no table of keys and values",
    ),
    "a list of no tables": (
        'directory = [5]\n',
        "line 1: directory: 5 is no table of keys and values",
    ),
    "inside an inline table": (
        'directory = [\n  {url = "/in/", folder = "in"},\n  {url = "/two/", folder = "on", quoata = 1},\n]\n',
        'line 1: the key "quoata" is unknown in a [[directory]]; did you mean quota?',
    ),
    "dotted": (
        'limits.idel_time = 5\n' + IN,
        'line 1: the key "idel_time" is unknown in [limits]; did you mean idle_time?',
    ),
    "after text over many lines": (
        IN + 'host_id = """\\\n  node1"""\nquoata = """\nquota = 5\n"""\n',
        'line 6: the key "quoata" is unknown in a [[directory]]; did you mean quota?',
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_with_its_line(complain: Complain, wrong: str) -> None:
    text, sentence = WRONG[wrong]
    assert complain(text) == f"bitsferry.toml, {sentence}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('listen = [\n"a:1",\n' + IN, 3),
        (IN.replace('"in"', r'"C:\in"'), 3),
        (IN + 'url = "/in/"\n', 4),
        (IN + "quota 5\n", 4),
        (IN.replace("]]", "]"), 1),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(complain: Complain, text: str, line: int) -> None:
    assert complain(text).startswith(f"bitsferry.toml, line {line}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"/none\.toml cannot be read: No such file or directory"):
        read_settings(str(tmp_path / "none.toml"))


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes("[[directory]]\nurl = '/in/'\nfolder = 'C:/Übergabe'".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"windows\.toml is not UTF-8 \(byte 40\): save it as UTF-8"):
        read_settings(str(path))


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "workers = " + "9" * 5000, "a = 0x" + "f" * 5000])
def test_what_python_itself_gives_up_on_is_an_error_of_the_file(complain: Complain, text: str) -> None:
    assert complain(text).startswith("bitsferry.toml")


def test_the_line_of_a_mistake_in_a_large_file_is_found_quickly(complain: Complain) -> None:
    text = "".join(f'[[directory]]\nurl = "/{number}/"\nfolder = "{number}"\n\n' for number in range(1000))
    assert complain(text + "[[directory]]\nurl = 5\n").startswith("bitsferry.toml, line 4002: url: ")


# Where sessions may not live


@pytest.mark.parametrize("store", ["file:in", "file:in/store", "file:in/a/b", "in/../in/store"])
def test_sessions_do_not_live_where_uploads_land(complain: Complain, store: str) -> None:
    said = complain(f'store = "{store}"\n{IN}')
    assert said.startswith("bitsferry.toml: the store in")
    assert "lies in the folder of /in/, where uploads could write into it" in said


def test_a_link_does_not_hide_where_sessions_live(complain: Complain, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    assert "lies in the folder of /in/" in complain(f'store = "link/store"\n{IN}')


@pytest.mark.parametrize("store", ["store", "inn", "in/.bitsferry", "in/.bitsferry-sessions/a", "in2/store"])
def test_sessions_may_live_where_no_upload_can_go(read: Read, store: str) -> None:
    assert read(f'store = "{store}"\n{IN}')


def test_options_are_checked_as_the_file_is(read: Read, tmp_path: Path) -> None:
    settings = read(IN)
    with pytest.raises(SettingsError, match="lies in the folder of /in/"):
        replace(settings, store=f"file:{tmp_path}/in/x")


# Whatever stands in it


def spelt(value: Any) -> str:
    """A value as TOML has it, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spelt(key)} = {spelt(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelt, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


keys = st.sampled_from(sorted({key for keys in KEYS.values() for key in keys})) | st.text(max_size=5)
scalars = (
    st.booleans()
    | st.integers()
    | st.integers(0, 100)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "/",
            "/in/",
            "none",
            "value",
            "http://host/x",
            "10 GB",
            "14 days",
            "never",
            "1e999 days",
            "127.0.0.1:0",
            "unix:a",
        ]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
directories = st.fixed_dictionaries(
    {"url": st.just("/in/") | scalars, "folder": st.just("in") | scalars},
    optional={key: values for key in KEYS["directory"] if key not in ("url", "folder")},
)
tables = st.fixed_dictionaries(
    {"directory": st.lists(directories, min_size=1, max_size=2)},
    optional={key: values for key in KEYS[""] if key != "directory"}
    | {"limits": st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS["limits"], values))},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "bitsferry.toml"


def outcome(place: Path, text: str) -> Settings | str:
    place.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        return read_settings(str(place))
    except SettingsError as error:
        return str(error)


@given(text=st.text() | st.text(alphabet="[]={}\"'\n\\.,#aurl\r"))
def test_any_text_is_settings_or_a_sentence(place: Path, text: str) -> None:
    said = outcome(place, text)
    assert isinstance(said, str)
    assert said.startswith(str(place))


@given(table=tables)
def test_any_values_are_settings_or_a_sentence(place: Path, table: dict[str, Any]) -> None:
    said = outcome(place, "".join(f"{spelt(key)} = {spelt(value)}\n" for key, value in table.items()))
    if isinstance(said, str):
        assert re.match(re.escape(str(place)) + r"(, line \d+)?: .", said), said
        assert len(said) < 1000
