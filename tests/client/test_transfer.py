"""A file arrives whole, whatever the server and the line do to it; and if it cannot, it is said why."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from bitsferry.client import events
from bitsferry.client.bandwidth import Limit
from bitsferry.protocol.errors import (
    AccessDenied,
    AuthenticationRequired,
    BitsError,
    Busy,
    DiskFull,
    FileTooLarge,
    FragmentTooLarge,
    LocalFileChanged,
    NoProgress,
    OutOfStep,
    SessionNotFound,
    TransportFailed,
)
from bitsferry.protocol.packets import Ack, CancelSession, CloseSession, CreateSession, Fragment, Packet
from bitsferry.protocol.wire import ack_of_error, write_ack

from .conftest import MIB, Sender, content, password
from .hostile import Exchange, HostileServer


def test_a_file_arrives(sender: Sender, server: HostileServer) -> None:
    sender.run()
    assert sender.arrived
    kinds = server.kinds()
    assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == ("CreateSession", {"Fragment"}, "CloseSession")
    assert server.connections == 1
    assert sender.told[0] == events.Connected()
    assert sender.told[-2] == events.Whole(sender.path.stat().st_size)
    assert sender.told[-1] == events.Done(server.url(), sender.path.stat().st_size, 0.0, repeated=0)


def test_an_empty_file_arrives(sender: Sender, server: HostileServer) -> None:
    sender.path.write_bytes(b"")
    sender.run()
    assert sender.arrived
    assert server.kinds() == ["CreateSession", "CloseSession"]


def test_fragments_grow_on_a_quick_line(sender: Sender, server: HostileServer) -> None:
    sender.run(fragment_limit=None)
    lengths = [fragment.range.length for fragment in server.fragments()[:-1]]
    assert lengths == sorted(set(lengths))


def test_fragments_are_no_longer_than_wished(sender: Sender, server: HostileServer) -> None:
    sender.run(fragment_limit=300_000)
    assert max(fragment.range.length for fragment in server.fragments()) == 300_000


# The line


@pytest.mark.parametrize("kind", [CreateSession, Fragment, CloseSession])
def test_lost_acks_cost_nothing_but_repetition(
    sender: Sender, server: HostileServer, kind: type[Packet]
) -> None:
    @server.on(kind, first=3)
    def lose_the_ack(exchange: Exchange) -> None:
        exchange.process()
        exchange.hang_up()

    sender.run()
    assert sender.arrived
    assert server.kinds()[-1] == "CloseSession"


def test_cut_bodies_end_in_a_whole_file(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=6)
    def keep_half(exchange: Exchange) -> None:
        exchange.process(int(exchange.headers["content-length"]) // 2)
        exchange.hang_up(reset=True)

    sender.run()
    assert sender.arrived


def test_after_a_broken_line_the_next_packet_is_a_ping(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=2)
    def cut(exchange: Exchange) -> None:
        exchange.process(1000)
        exchange.hang_up(reset=True)

    sender.run()
    # The first of the two was said again at once: its connection was a kept one, and they may be stale.
    assert server.kinds()[:5] == ["CreateSession", "Fragment", "Fragment", "Ping", "Fragment"]
    assert "broke" in sender.retries[0].error.message


def test_bytes_that_went_out_twice_are_counted(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=1)
    def lose_the_ack(exchange: Exchange) -> None:
        exchange.process()
        exchange.hang_up()

    sender.run()
    done = sender.told[-1]
    assert isinstance(done, events.Done)
    assert done.repeated == server.fragments()[1].range.length


def test_patience_ends_with_the_error_that_used_it_up(sender: Sender, server: HostileServer) -> None:
    server.close()
    with pytest.raises(TransportFailed, match=r"127\.0\.0\.1 cannot be reached: nobody answers"):
        sender.run(patience=60)
    assert sum(sender.clock.slept) == pytest.approx(60)
    assert sender.clock.slept[:6] == [1, 2, 4, 8, 16, 29]


def test_headway_restores_patience(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, every=2)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=50))

    sender.path.write_bytes(content(8 * MIB))
    sender.run(patience=60)
    assert sum(sender.clock.slept) > 120
    assert sender.arrived


# The server's moods


def test_a_vanished_session_starts_over(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=2)
    def forget(exchange: Exchange) -> None:
        ack = exchange.process()
        if len(server.fragments()) == 2:
            server.sessions.clear()
        exchange.say(ack if server.sessions else ack_of_error(SessionNotFound()))

    sender.run()
    assert sender.arrived
    assert server.kinds().count("CreateSession") == 2
    assert [retry.error.name for retry in sender.retries] == ["BG_E_SESSION_NOT_FOUND"]
    assert sender.clock.slept == []


def test_a_server_that_always_forgets_is_given_up_for_later(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def forget(exchange: Exchange) -> None:
        exchange.refuse(SessionNotFound())

    with pytest.raises(NoProgress) as caught:
        sender.run()
    assert caught.value.transient
    assert server.kinds().count("CreateSession") == 6


def test_fragments_shrink_until_the_server_takes_them(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def take_small_ones_only(exchange: Exchange) -> None:
        if int(exchange.headers["content-length"]) > 64 * 1024:
            exchange.refuse(FragmentTooLarge())
        else:
            exchange.say(exchange.process())

    sender.path.write_bytes(content(MIB))
    sender.run()
    assert sender.arrived
    assert [fragment.range.length // 1024 for fragment in server.fragments()[:4]] == [256, 128, 64, 64]
    assert sender.clock.slept == []


def test_a_rewinding_server_gets_what_it_wants_again(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, every=2)
    def rewind(exchange: Exchange) -> None:
        held = server.sessions[exchange.headers["bits-session-id"]]
        if len(server.fragments()) == 2:
            del held[100_000:]
            exchange.refuse(OutOfStep(len(held)))
        else:
            exchange.say(exchange.process())

    sender.run()
    assert sender.arrived
    assert server.fragments()[2].range.start == 100_000


def test_every_fourth_answer_may_be_a_503(sender: Sender, server: HostileServer) -> None:
    @server.on(every=4)
    def be_busy(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.say(Ack(503))

    sender.run(limits=[Limit(500_000)])
    assert sender.arrived
    assert len(sender.retries) > 2


def test_retry_after_is_respected(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession, first=1)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=17))

    sender.run()
    assert 17 <= sender.clock.slept[0] <= 18


def test_a_retry_after_beyond_patience_is_not_waited_for(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession)
    def be_busy(exchange: Exchange) -> None:
        exchange.refuse(Busy(retry_after=3600))

    with pytest.raises(BitsError) as caught:
        sender.run()
    assert caught.value.transient
    assert sender.clock.slept == []


def test_optional_headers_may_be_missing(sender: Sender, server: HostileServer) -> None:
    """The OneDrive variant: 201, and Acks that say next to nothing."""

    @server.on(CreateSession)
    def create(exchange: Exchange) -> None:
        session_id = exchange.process().session_id or ""
        exchange.say_plainly(
            201, [("BITS-Packet-Type", "Ack"), ("BITS-Session-Id", session_id), ("Content-Length", "0")]
        )

    @server.on(Fragment)
    def take(exchange: Exchange) -> None:
        exchange.process()
        exchange.say_plainly(200, [("bits-packet-type", "ACK"), ("content-length", "0")])

    sender.run()
    assert sender.arrived


def test_a_full_disk_is_waited_for(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=3)
    def have_no_room(exchange: Exchange) -> None:
        exchange.refuse(DiskFull())

    sender.run()
    assert sender.arrived
    assert [retry.error.name for retry in sender.retries] == ["ERROR_DISK_FULL"] * 3
    assert sender.clock.slept == [1, 2, 4]


def test_what_is_refused_for_good_is_not_tried_again(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(FileTooLarge())

    with pytest.raises(FileTooLarge):
        sender.run()
    assert len(server.fragments()) == 1


# Hosts


def test_a_host_id_changes_the_host_and_nothing_else(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession)
    def name_a_host(exchange: Exchange) -> None:
        ack = exchange.process()
        exchange.say(Ack(session_id=ack.session_id, protocol=ack.protocol, host_id="localhost"))

    sender.run(url=server.url("/in/file.bin?account=1"))
    assert server.kinds()[:3] == ["CreateSession", "Ping", "Fragment"]
    assert server.heard[0].headers["host"] == f"127.0.0.1:{server.port}"
    assert server.heard[1].headers["host"] == f"localhost:{server.port}"
    assert {heard.target for heard in server.heard} == {"/in/file.bin?account=1"}


def test_a_dead_host_is_left_after_its_fallback_timeout(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession, first=1)
    def name_a_dead_host(exchange: Exchange) -> None:
        ack = exchange.process()
        dead = Ack(
            session_id=ack.session_id,
            protocol=ack.protocol,
            host_id="127.0.0.2",
            host_id_fallback_timeout=20,
        )
        exchange.say(dead)

    sender.run()
    assert sender.arrived
    assert sender.clock.now >= 20
    assert {heard.headers["host"] for heard in server.heard} == {f"127.0.0.1:{server.port}"}


# Who is asking


def _ask_for_basic(server: HostileServer) -> None:
    @server.on()
    def ask(exchange: Exchange) -> None:
        if exchange.headers.get("authorization") == "Basic aW5nYTpwdw==":  # inga:pw
            exchange.say(exchange.process())
        else:
            exchange.read_body()
            exchange.say(Ack(401, challenges=("SCRAM-SHA-256", 'Basic realm="in"')))


def test_the_password_is_said_when_it_is_asked_for(sender: Sender, server: HostileServer) -> None:
    _ask_for_basic(server)
    sender.run(credentials=[password("inga", "pw")])
    assert sender.arrived
    assert server.kinds()[:3] == ["CreateSession", "CreateSession", "Fragment"]
    assert "authorization" not in server.heard[0].headers


def test_a_wrong_password_is_said_once(sender: Sender, server: HostileServer) -> None:
    _ask_for_basic(server)
    with pytest.raises(AuthenticationRequired):
        sender.run(credentials=[password("inga", "wrong")])
    assert len(server.heard) == 2


def test_another_user_does_not_go_on_with_a_strangers_session(sender: Sender, server: HostileServer) -> None:
    _interrupt(sender, at=MIB)
    sender.run(credentials=[password("inga", "pw")])
    assert sender.arrived
    assert server.kinds().count("CreateSession") == 2
    assert "CancelSession" not in server.kinds()


# One run after another


def _interrupt(sender: Sender, *, at: int) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.sent >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sender.run(tell=stop)


def test_an_interrupted_send_goes_on_where_it_was(sender: Sender, server: HostileServer) -> None:
    _interrupt(sender, at=3 * MIB)
    before = len(server.heard)
    sender.run()
    assert sender.arrived
    assert server.kinds()[before : before + 2] == ["Ping", "Fragment"]
    ranges = [fragment.range for fragment in server.fragments()]
    assert [range_.start for range_ in ranges[1:]] == [range_.stop for range_ in ranges[:-1]]


def test_a_smaller_fragment_limit_is_remembered(sender: Sender, server: HostileServer) -> None:
    @server.on(Fragment, first=1)
    def take_small_ones_only(exchange: Exchange) -> None:
        exchange.refuse(FragmentTooLarge())

    _interrupt(sender, at=2 * MIB)
    before = len(server.fragments())
    sender.run()
    assert {fragment.range.length for fragment in server.fragments()[before:-1]} == {
        server.fragments()[0].range.length // 2
    }


def test_a_finished_send_is_forgotten(sender: Sender, tmp_path: Path) -> None:
    sender.run()
    assert os.listdir(tmp_path / "sends") == []


def test_a_file_that_changed_between_two_runs_starts_over(sender: Sender, server: HostileServer) -> None:
    _interrupt(sender, at=3 * MIB)
    before = len(server.heard)
    sender.path.write_bytes(content(2 * MIB))
    sender.run()
    assert sender.arrived
    assert server.kinds()[before : before + 3] == ["CancelSession", "CreateSession", "Fragment"]


def test_a_cancel_nobody_hears_does_not_matter(sender: Sender, server: HostileServer) -> None:
    @server.on(CancelSession)
    def be_broken(exchange: Exchange) -> None:
        exchange.hang_up(reset=True)

    _interrupt(sender, at=3 * MIB)
    sender.path.write_bytes(content(2 * MIB))
    sender.run()
    assert sender.arrived


HELD = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps an open file where it is")


@pytest.mark.parametrize(
    "change", ["grow", pytest.param("replace", marks=HELD), pytest.param("remove", marks=HELD)]
)
def test_a_file_that_changes_under_way_is_not_mixed(
    sender: Sender, server: HostileServer, change: str
) -> None:
    @server.on(Fragment, first=1)
    def meanwhile(exchange: Exchange) -> None:
        match change:
            case "grow":
                with sender.path.open("ab") as file:
                    file.write(b"more")
            case "replace":
                beside = sender.path.with_suffix(".new")
                beside.write_bytes(sender.path.read_bytes())
                beside.replace(sender.path)
            case "remove":
                sender.path.unlink()
        exchange.say(exchange.process())

    with pytest.raises(LocalFileChanged):
        sender.run()
    assert server.files == {}


def test_a_file_cut_short_while_a_fragment_goes_out_is_noticed(sender: Sender, server: HostileServer) -> None:
    def cut(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.sent < event.offset < event.until:
            os.truncate(sender.path, 100)

    with pytest.raises(LocalFileChanged, match="shorter"):
        sender.run(tell=cut)
    assert server.files == {}


# Pace


def test_a_limit_is_kept(sender: Sender) -> None:
    sender.run(limits=[Limit(500_000)])
    assert sender.clock.now == pytest.approx(sender.path.stat().st_size / 500_000, rel=0.05)


def test_under_a_limit_fragments_stay_short_enough_to_answer(sender: Sender, server: HostileServer) -> None:
    sender.run(limits=[Limit(100_000)])
    assert max(fragment.range.length for fragment in server.fragments()[1:]) <= 400_000


def test_refusals_are_the_servers_own(sender: Sender, server: HostileServer) -> None:
    @server.on(CreateSession)
    def refuse(exchange: Exchange) -> None:
        exchange.refuse(AccessDenied())

    with pytest.raises(AccessDenied):
        sender.run()


# Spellings


@pytest.mark.parametrize("header", ["BITS-Error", "BITS-Error-Code"])
@pytest.mark.parametrize("spelt", ["0x80070070", "x80070070", "80070070", "0x80070112", "x80070112"])
@pytest.mark.parametrize("context", ["0x5", None])
def test_a_full_disk_is_known_however_it_is_spelt(
    sender: Sender, server: HostileServer, header: str, spelt: str, context: str | None
) -> None:
    @server.on(Fragment, first=3)
    def have_no_room(exchange: Exchange) -> None:
        exchange.read_body()
        headers = [("BITS-Packet-Type", "Ack"), ("Content-Length", "0"), (header, spelt)]
        exchange.say_plainly(500, headers + ([] if context is None else [("BITS-Error-Context", context)]))

    sender.path.write_bytes(content(300_000))
    sender.run()
    assert sender.arrived
    assert [retry.error.name for retry in sender.retries] == ["ERROR_DISK_FULL"] * 3


@pytest.mark.parametrize("header", ["BITS-Error", "BITS-Error-Code"])
@pytest.mark.parametrize("spelt", ["0x8020001F", "x8020001F", "8020001f"])
def test_a_lost_session_is_known_however_it_is_spelt(
    sender: Sender, server: HostileServer, header: str, spelt: str
) -> None:
    @server.on(Fragment, first=1)
    def forget(exchange: Exchange) -> None:
        exchange.read_body()
        server.sessions.clear()
        exchange.say_plainly(500, [("BITS-Packet-Type", "Ack"), ("Content-Length", "0"), (header, spelt)])

    sender.path.write_bytes(content(300_000))
    sender.run()
    assert sender.arrived
    assert server.kinds().count("CreateSession") == 2
    assert sender.retries[0].error.message == (
        "the server no longer knows this upload; starting over (1 of 5)"
    )


def test_answers_in_http_1_0_are_understood(sender: Sender, server: HostileServer) -> None:
    """Each ends its connection; of some nobody says how long they are."""

    @server.on()
    def be_old(exchange: Exchange) -> None:
        headers = [each for each in write_ack(exchange.process()) if each[0] != "Content-Length"]
        exchange.say_plainly(200, headers, version="1.0")
        exchange.hang_up()

    sender.run()
    assert sender.arrived
    assert server.connections == len(server.heard)


def test_a_hundred_times_continue_is_no_answer(sender: Sender, server: HostileServer) -> None:
    @server.on()
    def say_continue_again_and_again(exchange: Exchange) -> None:
        exchange.say_raw(100 * b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.say(exchange.process())

    sender.path.write_bytes(content(300_000))
    sender.run()
    assert sender.arrived


def test_a_connection_that_is_cut_after_each_answer_is_made_anew(
    sender: Sender, server: HostileServer
) -> None:
    @server.on()
    def answer_and_hang_up(exchange: Exchange) -> None:
        exchange.say(exchange.process())
        exchange.hang_up()

    sender.run()
    assert sender.arrived
    assert sender.retries == []


@pytest.mark.parametrize(
    "name", ["Übergröße 日本語 🚢.bin", "a%20b#c?d&e.bin", "new\nline.bin", "'\"$(x).bin"]
)
def test_any_name_arrives_in_a_folder(sender: Sender, server: HostileServer, name: str) -> None:
    path = sender.path.with_name(name)
    try:
        sender.path.rename(path)
    except OSError:
        pytest.skip("no file is called so here")
    sender.path = path
    sender.run(url=server.url("/in/"))
    assert {unquote(heard.target) for heard in server.heard} == {f"/in/{name}"}
    assert server.files == {server.heard[0].target: path.read_bytes()}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_name_that_is_no_text_arrives_in_a_folder(sender: Sender, server: HostileServer) -> None:
    path = Path(os.fsdecode(os.fsencode(sender.path.parent) + b"/caf\xe9.bin"))
    sender.path.rename(path)
    sender.path = path
    sender.run(url=server.url("/in/"))
    assert server.files == {"/in/caf%E9.bin": path.read_bytes()}


def test_offsets_beyond_32_bits_are_counted_right(sender: Sender, server: HostileServer) -> None:
    """The last 300 KB of a file with a hole of more than 4 GiB in it."""
    size = 4 * 1024**3 + 300_000
    sender.path.write_bytes(b"")
    os.truncate(sender.path, size)
    server.keeps_bytes = False
    held = server.lengths["{session 1}"] = 4 * 1024**3 - 7

    @server.on(Fragment, first=1)
    def know_better(exchange: Exchange) -> None:
        exchange.refuse(OutOfStep(held))

    sender.run()
    others = [fragment.range for fragment in server.fragments()][1:]
    assert (others[0].start, others[-1].stop) == (held, size)
    assert {fragment.range.total for fragment in server.fragments()} == {size}
    assert server.lengths["{session 1}"] == size
    assert sender.told[-2] == events.Whole(size)


# Limits that let nothing flow


class Closed(Limit):
    """Opens after a while."""

    def __init__(self, opens: float, now: Callable[[], float]) -> None:
        super().__init__(10**9)
        self._opens, self._now = opens, now

    def closed_for(self) -> float:
        return max(0.0, self._opens - self._now())


def test_where_nothing_may_flow_now_no_fragment_is_begun(sender: Sender, server: HostileServer) -> None:
    sender.run(limits=[Closed(3600, sender.clock)])
    assert sender.arrived
    assert sender.clock.now == pytest.approx(3600, abs=1)
    assert max(sender.clock.slept) <= 60
