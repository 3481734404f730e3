"""The way to a server leads through the proxy that the job, or the system, names for it."""

import contextlib
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.client.proxies import Proxy, ProxySettings, ProxyUsage, proxy_for
from bitsferry.protocol.errors import InvalidProxy

SYSTEM = ProxySettings()
PROXY = Proxy("proxy", 3128)


def by(settings: ProxySettings, url: str = "http://server.example.com:80", **environ: str) -> Proxy | None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return proxy_for(settings, scheme, host, int(port), environ)


# What the job says


def test_a_job_without_a_proxy_goes_straight_whatever_the_system_says() -> None:
    assert by(ProxySettings(ProxyUsage.NO_PROXY), http_proxy="http://proxy:3128") is None


def test_a_job_with_a_proxy_uses_it_whatever_the_system_says() -> None:
    settings = ProxySettings.override("proxy:3128")
    assert by(settings, http_proxy="http://other:1", no_proxy="*") == PROXY
    assert by(settings, "https://server:443") == PROXY


def test_a_proxy_that_cannot_be_detected_is_the_systems() -> None:
    assert by(ProxySettings(ProxyUsage.AUTODETECT), http_proxy="proxy:3128") == PROXY


@pytest.mark.parametrize(
    ("entry", "proxy"),
    [
        ("proxy", Proxy("proxy", 80)),
        ("proxy:3128", PROXY),
        ("http://proxy:3128", PROXY),
        ("http://proxy:3128/", PROXY),
        ("http=proxy:3128", PROXY),
        ("HTTP=HTTP://PROXY:3128", PROXY),
        ("http=http://10.0.0.1", Proxy("10.0.0.1", 80)),
        ("[2001:db8::1]:8080", Proxy("2001:db8::1", 8080)),
        ("https=other:1 http=proxy:3128", PROXY),
        ("other:1 http=proxy:3128", PROXY),
        ("https=other:1  proxy:3128\tlast:2", PROXY),
        ("https=other:1", None),
    ],
)
def test_a_list_names_proxies_as_in_windows(entry: str, proxy: Proxy | None) -> None:
    assert by(ProxySettings.override(entry)) == proxy


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://",
        "=proxy",
        "http=",
        "http=https=proxy",
        "proxy:port",
        "proxy:0",
        "proxy:65536",
        "pro/xy",
        "proxy?x",
        "proxy#x",
        "[::1",
        "[proxy]:80",
        "::1",
        "https://proxy:443",
        "socks5://proxy:1080",
        "user:secret@proxy:3128",
        "x" * 4001,
        " ".join(["proxy:3128"] * 364),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_without_showing_what_may_be_secret(entry: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        ProxySettings.override(entry)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_lists_go_with_the_usage() -> None:
    with pytest.raises(InvalidProxy, match="OVERRIDE needs"):
        ProxySettings(ProxyUsage.OVERRIDE)
    for usage in set(ProxyUsage) - {ProxyUsage.OVERRIDE}:
        with pytest.raises(InvalidProxy, match="goes with OVERRIDE only"):
            ProxySettings(usage, ("proxy",))
        with pytest.raises(InvalidProxy, match="goes with OVERRIDE only"):
            ProxySettings(usage, (), ("host",))


def test_settings_can_be_kept_as_plain_values() -> None:
    settings = ProxySettings.override("http=a b:1", "<local> *.x", tunnel=True)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=ProxySettings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert [usage.name for usage in ProxyUsage] == ["PRECONFIG", "NO_PROXY", "OVERRIDE", "AUTODETECT"]


# Which hosts are reached without


@pytest.mark.parametrize(
    ("bypass", "url"),
    [
        ("server", "http://server:80"),
        ("SERVER.Example.com", "http://server.example.COM:80"),
        ("server", "http://server.:80"),
        ("*.example.com", "http://a.b.example.com:80"),
        ("*example.com", "http://anexample.com:80"),
        (".example.com", "http://a.b.example.com:80"),
        ("10.*", "http://10.1.2.3:80"),
        ("*", "http://anything:80"),
        ("<local>", "http://server:80"),
        ("<LOCAL>", "http://localhost:80"),
        ("10.0.0.1", "http://10.0.0.1:80"),
        ("10.0.0.0/8", "http://10.1.2.3:80"),
        ("2001:db8::/32", "http://[2001:db8::1]:80"),
        ("2001:DB8:0::1", "http://[2001:db8::1]:80"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:8080"),
        ("server:8080", "http://server:8080"),
        ("*.example.com:443", "https://a.example.com:443"),
        ("other <local> 10.0.0.1", "http://10.0.0.1:80"),
    ],
)
def test_a_host_in_the_bypass_list_is_reached_straight(bypass: str, url: str) -> None:
    assert by(ProxySettings.override("proxy:3128", bypass), url) is None


@pytest.mark.parametrize(
    ("bypass", "url"),
    [
        ("", "http://localhost:80"),
        ("", "http://127.0.0.1:80"),
        ("example.com", "http://server.example.com:80"),
        ("*.example.com", "http://example.com:80"),
        (".example.com", "http://example.com:80"),
        (".example.com", "http://anexample.com:80"),
        ("a.c", "http://abc:80"),
        ("<local>", "http://server.example.com:80"),
        ("<local>", "http://127.0.0.1:80"),
        ("<local>", "http://[::1]:80"),
        ("10.0.0.0/8", "http://11.1.2.3:80"),
        ("10.0.0.0/8", "http://ten:80"),
        ("server:8080", "http://server:80"),
        ("10.0.0.1:8080", "http://10.0.0.1:80"),
    ],
)
def test_another_host_is_not(bypass: str, url: str) -> None:
    assert by(ProxySettings.override("proxy:3128", bypass), url) == PROXY


@pytest.mark.parametrize("bypass", ["http://server", "a/b", "<remote>", "[::1", "x" * 4001, "host:http"])
def test_a_bypass_list_that_cannot_be_read_is_refused(bypass: str) -> None:
    with pytest.raises(InvalidProxy):
        ProxySettings.override("proxy:3128", bypass)


# What the system says


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"http_proxy": "http://proxy:3128"}, PROXY, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, PROXY, None),
        ({"https_proxy": "proxy:3128"}, None, PROXY),
        ({"HTTPS_PROXY": "proxy:3128"}, None, PROXY),
        ({"http_proxy": "proxy:3128", "HTTP_PROXY": "other"}, PROXY, None),
        ({"all_proxy": "proxy:3128"}, PROXY, PROXY),
        ({"ALL_PROXY": "other", "https_proxy": "proxy:3128"}, Proxy("other", 80), PROXY),
        ({"all_proxy": "proxy:3128", "http_proxy": ""}, None, PROXY),
        ({"http_proxy": "  http://proxy:3128/ "}, PROXY, None),
        ({"HTTP_PROXY": "from:80", "REQUEST_METHOD": "GET", "https_proxy": "proxy:3128"}, None, PROXY),
    ],
)
def test_the_environment_is_read_as_by_curl(
    environ: dict[str, str], http: Proxy | None, https: Proxy | None
) -> None:
    if not environ:
        environ["http_proxy"] = ""  # or Windows and macOS would be asked
    assert by(SYSTEM, "http://server:80", **environ) == http
    assert by(SYSTEM, "https://server:443", **environ) == https


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "anything"),
        ("server", "server"),
        ("example.com", "example.com"),
        ("example.com", "a.b.example.com"),
        (".example.com", "example.com"),
        (".example.com", "a.example.com"),
        ("Example.COM", "a.example.com"),
        ("other,example.com", "example.com"),
        ("other, example.com ", "example.com"),
        ("other example.com", "example.com"),
        ("localhost,127.0.0.1,::1", "[::1]"),
        ("localhost,127.0.0.1,::1", "127.0.0.1"),
        ("192.168.0.0/16", "192.168.7.7"),
        ("server:80", "server"),
        ("example.com:80", "a.example.com"),
    ],
)
def test_no_proxy_is_read_as_by_curl(no_proxy: str, host: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert by(SYSTEM, f"http://{host}:80", http_proxy="proxy:3128", **{name: no_proxy}) is None


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("", "localhost"),
        ("", "127.0.0.1"),
        (",", "server"),
        ("example.com", "anexample.com"),
        ("example.com", "example.com.evil"),
        ("168.1.1", "192.168.1.1"),
        ("1.1", "192.168.1.1"),
        ("192.168.0.0/16", "192.169.7.7"),
        ("server:443", "server"),
    ],
)
def test_what_no_proxy_does_not_name_goes_through_the_proxy(no_proxy: str, host: str) -> None:
    assert by(SYSTEM, f"http://{host}:80", http_proxy="proxy:3128", no_proxy=no_proxy) == PROXY


def test_a_proxys_name_and_password_are_taken_from_its_url_and_not_shown() -> None:
    proxy = by(SYSTEM, http_proxy="http://DOM%5cuser:s%65cret%40@proxy:3128")
    assert proxy == Proxy("proxy", 3128, "DOM\\user", "secret@")
    assert "secret" not in repr(proxy)


@pytest.mark.parametrize(
    "url", ["socks5h://user:secret@proxy", "https://user:secret@p", "http://user:secret@:x"]
)
def test_a_proxy_of_the_system_that_cannot_be_used_is_an_error_not_the_straight_way(url: str) -> None:
    with pytest.raises(InvalidProxy, match="all_proxy") as caught:
        by(SYSTEM, all_proxy=url)
    assert "secret" not in str(caught.value)
    assert not caught.value.transient


@given(st.text(max_size=30), st.text(max_size=30), st.text("*.:[]0/aé", max_size=12))
def test_whatever_is_set_is_used_or_refused_in_a_sentence(proxies: str, bypass: str, host: str) -> None:
    with contextlib.suppress(InvalidProxy):
        proxy_for(ProxySettings.override(proxies or "proxy", bypass), "http", host, 80)
    for proxy in (proxies, "proxy"):
        with contextlib.suppress(InvalidProxy):
            proxy_for(SYSTEM, "http", host, 80, {"http_proxy": proxy, "no_proxy": bypass})
