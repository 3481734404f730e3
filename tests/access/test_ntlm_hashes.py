"""The file of NT hashes: many spellings, no surprises, no secrets in what is said of it."""

from __future__ import annotations

import pytest
from passlib.hash import nthash

from bitsferry.access.nt_hashes import read_nt_hashes

HASH = nthash.hash("secret")
EMPTY = nthash.hash("")
LM = "aad3b435b51404eeaad3b435b51404ee"


@pytest.mark.parametrize(
    "line",
    [
        f"alice:{HASH}",
        f"alice:{HASH.upper()}",
        f"\ufeffalice:{HASH}\r\n",
        f"# people\n\n  alice:{HASH}  \n",
        f"alice:1001:{LM}:{HASH}:::",
        f"alice:1001:{LM}:{HASH}:Alice of the farm::",
        f"alice:1000:{'X' * 32}:{HASH.upper()}:[U          ]:LCT-5F5E1000:",
    ],
)
def test_a_user_with_a_hash_is_known(line: str) -> None:
    account = read_nt_hashes(line).find("ALICE", "ANY")
    assert account is not None
    assert (account.name, account.hash) == ("alice", bytes.fromhex(HASH))


def test_a_domain_is_asked_for_where_the_file_names_one() -> None:
    accounts = read_nt_hashes(f"CORP\\alice:{HASH}\nHOST1$:{HASH}\n")
    assert accounts.find("alice", "OTHER") is None
    assert accounts.find("alice", "") is None
    assert accounts.find("host1$", "OTHER") is not None
    account = accounts.find("Alice", "corp")
    assert account is not None
    assert account.name == "CORP\\alice"


def test_of_two_the_one_of_the_domain_is_meant() -> None:
    accounts = read_nt_hashes(f"alice:{HASH}\nCORP\\alice:{nthash.hash('other')}\n")
    names = [account.name for domain in ("CORP", "HOST") if (account := accounts.find("alice", domain))]
    assert names == ["CORP\\alice", "alice"]


@pytest.mark.parametrize(
    "line",
    [
        f"Guest:501:{LM}:{EMPTY}:::",
        f"guest:501:{'X' * 32}:{'X' * 32}:[U          ]:LCT-00000000:",
        f"guest:501:NO PASSWORD{'*' * 21}:NO PASSWORD{'*' * 21}:::",
        f"guest:501:{'*' * 32}:{'*' * 32}:::",
        f"guest:501:{'X' * 32}:{HASH}:[DU         ]:LCT-00000000:",
    ],
)
def test_accounts_without_a_password_and_disabled_ones_are_left_out(line: str) -> None:
    assert read_nt_hashes(line).find("guest", "") is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "write user:hash"),
        ("alice:1001:abc", "write user:hash"),
        (f":{HASH}", "no user's name"),
        (f"al\tice:{HASH}", "no user's name"),
        ("alice:secret", "32 hexadecimal digits"),
        (f"alice:{HASH}0", "32 hexadecimal digits"),
        (f"alice:1001:{LM}:secret:::", "32 hexadecimal digits"),
        (f"alice:{EMPTY}", "the password is empty"),
        (f"ALICE:{HASH}\nalice:{HASH}", "named before"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_without_what_stands_there(line: str, why: str) -> None:
    text = f"bob:{HASH}\n{line}"
    with pytest.raises(ValueError, match=why) as told:
        read_nt_hashes(text)
    assert str(told.value).startswith(f"line {text.count(chr(10)) + 1}: ")
    assert HASH not in str(told.value)
    assert "secret" not in str(told.value)


def test_no_hash_is_shown() -> None:
    account = read_nt_hashes(f"alice:{HASH}").find("alice", "")
    assert HASH not in repr(account).lower()
    assert repr(bytes.fromhex(HASH))[2:-1] not in repr(account)
