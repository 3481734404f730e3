"""The network that goes is noticed, and the one that comes back, without a packet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest

from bitsferry.client.network import RESOLVE_EVERY, Network, Seen, addresses_of, local_address

SAME = Seen(changed=False, lost=frozenset())
CHANGED = Seen(changed=True, lost=frozenset())
HOST = "198.51.100.7"


def lost(*hosts: str) -> Seen:
    return Seen(changed=False, lost=frozenset(hosts))


@dataclass
class Machine:
    """One with routes by prefix, and a name service that can be told to say nothing."""

    routes: dict[str, str] = field(default_factory=lambda: {"": "192.168.1.5", "127.": "127.0.0.1"})
    names: dict[str, list[str]] = field(default_factory=dict)
    now: float = 0.0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answering = threading.Event()
        self.network = Network(route=self.route, resolve=self.resolve, clock=lambda: self.now)

    def route(self, address: str) -> str | None:
        best = max((prefix for prefix in self.routes if address.startswith(prefix)), key=len, default=None)
        return None if best is None else self.routes[best]

    def resolve(self, name: str) -> list[str]:
        self.asked.append(name)
        self.answering.wait()
        return self.names.get(name, [])

    def look(self, *hosts: str) -> Seen:
        """Names are answered after the look."""
        self.answering.clear()
        seen = self.network.look(hosts)
        self.answering.set()
        for thread in threading.enumerate():
            if thread.name == "resolver":
                thread.join()
        return seen

    def unplug(self) -> None:
        del self.routes[""]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_nothing_new_is_nothing(machine: Machine) -> None:
    assert [machine.look(HOST) for _ in range(3)] == [SAME] * 3
    assert machine.asked == []


def test_a_network_that_goes_takes_every_host_but_this_machine_itself(machine: Machine) -> None:
    machine.look(HOST, "127.0.0.1")
    machine.unplug()
    assert machine.look(HOST, "127.0.0.1") == lost(HOST)
    assert machine.look(HOST, "127.0.0.1") == lost(HOST)


def test_a_network_that_comes_back_is_a_change(machine: Machine) -> None:
    machine.look(HOST)
    machine.unplug()
    machine.look(HOST)
    machine.routes[""] = "192.168.1.5"
    assert machine.look(HOST) == CHANGED
    assert machine.look(HOST) == SAME


def test_a_machine_that_starts_without_a_network_knows_it(machine: Machine) -> None:
    machine.unplug()
    assert machine.look(HOST) == lost(HOST)
    machine.routes[""] = "192.168.1.5"
    assert machine.look(HOST) == CHANGED


def test_another_network_is_a_change(machine: Machine) -> None:
    machine.look(HOST)
    machine.routes[""] = "172.20.10.2"
    assert machine.look(HOST) == CHANGED


@pytest.mark.parametrize("prefix", ["10.", "198.51.100."])
def test_a_way_into_a_company_is_a_change(machine: Machine, prefix: str) -> None:
    machine.look(HOST)
    machine.routes[prefix] = "10.8.0.2"
    assert machine.look(HOST) == CHANGED
    del machine.routes[prefix]
    assert machine.look(HOST) == CHANGED  # the default way leads there, too


def test_a_network_without_a_way_out_is_one(machine: Machine) -> None:
    machine.unplug()
    machine.routes["10.1."] = "10.1.0.5"
    assert machine.look("10.1.0.1", HOST) == lost(HOST)


# Names


def test_names_are_asked_for_now_and_then(machine: Machine) -> None:
    machine.names["server"] = [HOST]
    for _ in range(3):
        assert machine.look("server") == SAME
    assert machine.asked == ["server"]
    machine.now += RESOLVE_EVERY
    assert machine.look("server") == SAME
    assert machine.asked == ["server", "server"]


def test_a_name_that_becomes_known_is_a_change(machine: Machine) -> None:
    for _ in range(2):
        assert machine.look("server.corp") == SAME
    machine.names["server.corp"] = [HOST]
    machine.now += RESOLVE_EVERY
    assert [machine.look("server.corp") for _ in range(3)] == [SAME, CHANGED, SAME]


def test_nobody_is_given_up_before_his_name_is_known(machine: Machine) -> None:
    machine.unplug()
    machine.names["localhost"] = ["127.0.0.1"]
    assert machine.look("server", "localhost") == SAME
    assert machine.look("server", "localhost") == lost("server")


def test_a_name_service_that_went_with_the_network_makes_no_host_forgotten(machine: Machine) -> None:
    machine.names["server"] = [HOST]
    machine.look("server")
    machine.look("server")
    machine.unplug()
    machine.names.clear()
    machine.now += RESOLVE_EVERY
    assert machine.look("server") == lost("server")
    machine.routes[""] = "192.168.1.5"
    assert machine.look("server") == CHANGED


def test_a_slow_name_service_keeps_nobody_waiting() -> None:
    answer = threading.Event()
    network = Network(route=lambda address: "192.168.1.5", resolve=lambda name: [HOST] * answer.wait(10))
    began = time.monotonic()
    for _ in range(20):
        assert network.look(["server"]) == SAME
    assert time.monotonic() - began < 5
    answer.set()


# The real one


def test_this_machine_reaches_itself() -> None:
    assert local_address("127.0.0.1") == "127.0.0.1"
    assert "127.0.0.1" in addresses_of("localhost")


@pytest.mark.parametrize("name", ["", "nobody.invalid", "a..b", "a" * 70 + ".example"])
def test_a_name_that_is_none_has_no_address(name: str) -> None:
    assert addresses_of(name) == [] or name == ""


IN_A_NETWORK_OF_ITS_OWN = """
import subprocess
from bitsferry.client.network import Network

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

def up():
    ip("link set here up")
    ip("route add default via 10.99.0.2")

HOSTS = ["198.51.100.7", "127.0.0.1"]
network = Network()
ip("link set lo up")
print("alone", network.look(HOSTS))
ip("link add here type veth peer name there")
ip("addr add 10.99.0.1/24 dev here")
ip("link set there up")
up()
print("plugged in", network.look(HOSTS))
print("still", network.look(HOSTS))
ip("link set here down")
print("unplugged", network.look(HOSTS))
up()
print("back", network.look(HOSTS))
"""


def can_have_a_network() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    probe = ["unshare", "-n", "ip", "link", "add", "here", "type", "veth", "peer", "name", "there"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_a_real_network_that_goes_and_comes_back() -> None:
    if not can_have_a_network():
        pytest.skip("needs root, Linux and ip")
    command = ["unshare", "-n", sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert said.splitlines() == [
        f"alone {lost(HOST)}",
        f"plugged in {CHANGED}",
        f"still {SAME}",
        f"unplugged {lost(HOST)}",
        f"back {CHANGED}",
    ]
