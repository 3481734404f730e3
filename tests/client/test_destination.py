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
