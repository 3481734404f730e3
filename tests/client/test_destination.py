"""The URL a file is sent to."""

import pytest

from bitsferry.client.destination import Destination


def test_a_url_is_taken_apart() -> None:
    destination = Destination.parse("https://host.example:8443/in/a.bin?account=1")
    assert destination == Destination("https", "host.example", 8443, "/in/a.bin?account=1")
    assert str(destination) == "https://host.example:8443/in/a.bin?account=1"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.bin", "/in/a.bin"),
        ("a b#c%?.bin", "/in/a%20b%23c%25%3F.bin"),
        ("Bericht für Zoë.pdf", "/in/Bericht%20f%C3%BCr%20Zo%C3%AB.pdf"),
        ("\udcff.bin", "/in/%FF.bin"),
    ],
)
def test_a_folder_takes_the_files_name(name: str, target: str) -> None:
    assert Destination.parse("http://host/in/", name).target == target


def test_what_is_encoded_stays_as_it_is() -> None:
    assert Destination.parse("http://host/in/a%20b.bin?x=%2F").target == "/in/a%20b.bin?x=%2F"


def test_what_a_person_types_is_encoded() -> None:
    assert Destination.parse("http://host/in/für uns.bin").target == "/in/f%C3%BCr%20uns.bin"
    assert Destination.parse("http://bücher.example/x").host == "xn--bcher-kva.example"


def test_the_port_is_said_only_when_it_is_special() -> None:
    assert Destination.parse("http://host:80/x").authority == "host"
    assert Destination.parse("http://host:8080/x").authority == "host:8080"
    assert Destination.parse("http://[::1]:8080/x").authority == "[::1]:8080"


@pytest.mark.parametrize("host_id", ["node1", "192.0.2.1", "2001:db8::1", "[2001:db8::1]"])
def test_a_host_id_replaces_the_host_alone(host_id: str) -> None:
    moved = Destination.parse("http://farm:8080/in/a.bin?b=1").on_host(host_id)
    assert moved.host == host_id.strip("[]")
    assert str(moved).endswith(":8080/in/a.bin?b=1")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("host/in/", "write http://HOST/FOLDER/"),
        ("ftp://host/in/", "write http://HOST/FOLDER/"),
        ("http:///in/", "write http://HOST/FOLDER/"),
        ("http://host:port/in/", "is no URL"),
        ("http://[::1/in/", "is no URL"),
        ("http://inga:pw@host/in/", "--user"),
        ("http://host/in/a#b", "%23"),
    ],
)
def test_what_is_no_url_is_said_in_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Destination.parse(url, "a.bin")


# Where a server points to

HERE = Destination.parse("https://host.example:8443/in/a%20b/file.bin?x=1")
GUID = "{C85B4E0A-9EB9-4114-BFA4-8A43B4710091}"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("reply.bin", "https://host.example:8443/in/a%20b/reply.bin"),
        (
            rf"BITS-Sessions\Replies\{GUID}\responsefile.bin",
            "https://host.example:8443/in/a%20b/BITS-Sessions/Replies/"
            "%7BC85B4E0A-9EB9-4114-BFA4-8A43B4710091%7D/responsefile.bin",
        ),
        ("/replies/für uns?key=a/b%2F", "https://host.example:8443/replies/f%C3%BCr%20uns?key=a/b%2F"),
        (r"\replies\1", "https://host.example:8443/replies/1"),
        (r"?path=a\b", r"https://host.example:8443/in/a%20b/file.bin?path=a%5Cb"),
        ("../up/1", "https://host.example:8443/in/up/1"),
        ("../../../../1", "https://host.example:8443/1"),
        ("a/./../b", "https://host.example:8443/in/a%20b/b"),
        ("//other.example/1", "https://other.example/1"),
        ("//other.example", "https://other.example/"),
        ("http://Other.example:80/1?k=2#top", "http://other.example/1?k=2"),
        (r"https:\\other.example\1", "https://other.example/1"),
        ("HTTPS://[2001:db8::1]/1", "https://[2001:db8::1]/1"),
        ("  /1 ", "https://host.example:8443/1"),
        ("/" + "x" * 2199, "https://host.example:8443/" + "x" * 2199),
    ],
)
def test_a_server_points_from_its_own_url_to_another(reference: str, url: str) -> None:
    assert str(HERE.relative(reference)) == url


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("", "no URL is given"),
        (" ", "no URL is given"),
        ("/" + "x" * 2200, "2201 characters; 2200 are allowed"),
        ("/a\r\nX-Evil: 1", "control characters"),
        ("/a\tb", "control characters"),
        ("/a\x00", "control characters"),
        ("ftp://other.example/1", "ftp: is neither http nor https"),
        ("file:///etc/passwd", "file: is neither"),
        (r"C:\replies\1", "c: is neither"),
        ("http:///1", "none that can be followed"),
        ("http://[::1/1", "none that can be followed"),
        ("http://other.example:port/1?key=pw", "none that can be followed"),
        ("http://inga:pw@other.example/1", "none that can be followed"),
    ],
)
def test_what_leads_nowhere_is_said_in_a_sentence(reference: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        HERE.relative(reference)
    assert "pw" not in str(caught.value)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert HERE.origin == ("https", "host.example", 8443)
    assert HERE.on_host("HOST.example").origin == HERE.origin
    assert HERE.relative("http://host.example:8443/").origin != HERE.origin
