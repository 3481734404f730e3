"""Requirements on settings no other test holds; docs/reference/conformance.md names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitsferry.cli.settings import Settings, SettingsError, read_settings


def settings(folder: Path, host_id: str) -> Settings:
    """Those of one directory with this host id."""
    path = folder / "bitsferry.toml"
    path.write_text(f'[[directory]]\nurl = "/in/"\nfolder = "in"\nhost_id = {json.dumps(host_id)}\n')
    return read_settings(str(path))


@pytest.mark.parametrize(
    "host_id", ["node1", "node1.example", "NODE_1", "192.0.2.1", "2001:db8::1", "::1", "::ffff:192.0.2.1"]
)
def test_a_host_id_is_a_name_or_an_address(tmp_path: Path, host_id: str) -> None:
    assert settings(tmp_path, host_id).directories[0].host_id == host_id


@pytest.mark.parametrize(
    "host_id",
    ["", "http://node1", "node1:80", "192.0.2.1:80", "[::1]", "[::1]:80", "fe80::1%eth0", "node1/in", "a b"],
)
def test_a_host_id_has_no_scheme_port_or_path(tmp_path: Path, host_id: str) -> None:
    with pytest.raises(SettingsError, match=r"host_id: .* is no host name or address"):
        settings(tmp_path, host_id)
