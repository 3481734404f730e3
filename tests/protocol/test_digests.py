"""The promises of RFC 9530's fields: a digest by an algorithm one may trust, none at all, or a refusal."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsferry.protocol import digests
from bitsferry.protocol.digests import Digest
from bitsferry.protocol.errors import InvalidMessage

DATA = b'{"hello": "world"}'
SHA_256 = Digest("sha-256", hashlib.sha256(DATA).digest())
SHA_512 = Digest("sha-512", hashlib.sha512(DATA).digest())

# As RFC 9530 prints them: 3, and appendix D.
PRINTED = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
MD5, SHA, CRC = "md5=:Sd/dVLAcvNLSq16eXua5uQ==:", "sha=:07CavjDP4u3/TungoUHJO/Wzr4c=:", "crc32c=:cHVr0w==:"


def read(field: str) -> Digest | None:
    return digests.read_digest("Repr-Digest", field)


def test_a_digest_is_spelt_as_the_rfc_prints_it() -> None:
    assert str(SHA_256) == PRINTED
    assert read(PRINTED) == SHA_256
    assert SHA_256.hex == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    "both", [f"{SHA_256}, {SHA_512}", f"{SHA_512},{SHA_256}", f"{SHA_512}\t , {SHA_256}"]
)
def test_of_several_the_strongest_counts(both: str) -> None:
    assert read(both) == SHA_512


@pytest.mark.parametrize(
    "field",
    ["", "  ", MD5, f"{SHA}, {CRC}", "unixsum=:AAA=:", "blake3=:AAAA:", "id-sha-256=?1", "a=b;c=d, e=-1.5"],
)
def test_what_nobody_may_trust_or_knows_is_passed_over(field: str) -> None:
    assert read(field) is None
    if field.strip():
        assert read(f"{field}, {SHA_256}") == SHA_256
        assert read(f"{SHA_256}, {field}") == SHA_256


def test_the_last_of_two_of_a_kind_counts() -> None:
    other = Digest("sha-256", bytes(32))
    assert read(f"{other}, {SHA_256}") == SHA_256


def test_parameters_say_nothing() -> None:
    assert read(f'{SHA_256};a;b=1; c="x, y", z=tok/en;q=0.5') == SHA_256


def test_a_digest_without_its_padding_is_one() -> None:
    assert read(PRINTED.replace("=:", ":").replace("256:", "256=:")) == SHA_256


@pytest.mark.parametrize(
    "field",
    [
        "SHA-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        f"{SHA_256},",
        f",{SHA_256}",
        f"{SHA_256} {SHA_512}",
        f"{SHA_256};",
        "sha-256",
        "sha-256=abc",
        "sha-256=1",
        'sha-256="X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="',
        "sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
        f"sha-256=:{SHA_256.hex}:",
        "sha-256=:AAAA:",
        "sha-256=::",
        "sha-256=:X48E9qOo=kqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBP_-:",
        "md5=(a b)",
        'md5="',
        "md5=:é:",
        "=",
        "\x00",
    ],
)
def test_what_breaks_the_rules_is_refused_with_a_word_on_what_is_right(field: str) -> None:
    with pytest.raises(InvalidMessage, match="Repr-Digest is not as RFC 9530 has it, such as sha-256="):
        read(field)


@given(st.sampled_from(sorted(digests.ALGORITHMS)), st.data())
def test_every_digest_is_read_as_it_was_written(algorithm: str, data: st.DataObject) -> None:
    length = digests.ALGORITHMS[algorithm]
    digest = Digest(algorithm, data.draw(st.binary(min_size=length, max_size=length)))
    assert read(str(digest)) == digest


@given(st.text(st.characters(max_codepoint=255)) | st.text('sha-25612=:;,"\\ AB?', max_size=60))
def test_whatever_stands_there_is_a_digest_or_none_or_a_refusal(field: str) -> None:
    digests.read_wanted(field)
    try:
        digest = read(field)
    except InvalidMessage:
        return
    assert digest is None or read(str(digest)) == digest


@pytest.mark.parametrize(
    "evil", ["a=b{0}", 'a="{0}', "a;b={0}!", "{0}!", "a=:{0}", "a={0}\\", 'a="{0}\\', "a;b{0};", "a={0}.1.1"]
)
@pytest.mark.parametrize("part", [" ", "a", "\\\\", ";a=b", "1", ";b"])
def test_a_long_field_costs_its_length(evil: str, part: str) -> None:
    begun = time.process_time()
    with_room = evil.format(part * 200_000)
    try:
        read(with_room)
    except InvalidMessage:
        pass
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (digests.write_wanted("sha-256"), "sha-256"),
        ("sha-512=3, sha-256=10", "sha-256"),
        ("sha-512=1, sha-256=1", "sha-512"),
        ("sha-512=0, sha-256=1", "sha-256"),
        ("sha-256=0", None),
        ("md5=10", None),
        ("sha-256=:AAAA:, unixsum=1", None),
        ("sha-256", None),
        ("", None),
        ("no such thing!", None),
    ],
)
def test_the_wish_for_a_digest_is_read_with_its_weights(field: str, wanted: str | None) -> None:
    assert digests.read_wanted(field) == wanted


def test_base64_is_not_the_sort_of_the_urls() -> None:
    value = bytes([0xFB, 0xFF, 0xFE]) + bytes(29)
    urlsafe = base64.urlsafe_b64encode(value).decode()
    with pytest.raises(InvalidMessage):
        read(f"sha-256=:{urlsafe}:")
