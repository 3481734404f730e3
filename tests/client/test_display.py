"""How a send looks: on terminals of any width, in logs, to programs."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from rich.console import Console

from bitsferry.cli.display import (
    Bar,
    Gauge,
    JsonLines,
    LeftOut,
    Lines,
    Listed,
    Quiet,
    Shown,
    Skipped,
    Spooling,
    Summary,
    choose,
)
from bitsferry.client import events
from bitsferry.protocol.errors import AccessDenied, BitsError, SessionNotFound, TransportFailed

from .conftest import Clock

URL = "http://host/in/evidence.zip"
MB = 1_000_000


def started(size: int = 100 * MB, sent: int = 0, name: str = "evidence.zip") -> events.Started:
    return events.Started(f"/tmp/{name}", URL, size, sent, True)


def progress(sent: int, offset: int, size: int = 100 * MB) -> events.Progress:
    return events.Progress(sent * MB, offset * MB, size, size)


def retry(error: BitsError, wait: float = 4.0) -> events.Retry:
    return events.Retry(events.Error.of(error), wait)


def failed(error: BitsError, advice: str = "Do something.") -> events.Failed:
    return events.Failed(events.Error.of(error), error.transient, advice)


# The gauge


class Scene:
    """A gauge that is told what happens, a second after the other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gauge = Gauge(self.clock)
        self.file: str | None = None

    def tell(self, *told: Shown) -> None:
        for event in told:
            self.clock.now += 1
            self.gauge.follow(event, self.file)

    def lines(self, width: int = 80) -> list[str]:
        return [line.plain for line in self.gauge.render(width)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_line_has_name_bar_percent_time_rate_and_amount(scene: Scene) -> None:
    scene.tell(started(), progress(0, 10), progress(10, 20), progress(20, 30), progress(20, 40))
    (line,) = scene.lines()
    bar = line.split()[1]
    assert line == f"evidence.zip {bar}   40 %  0:06 left  10 MB/s  40 of 100 MB"
    assert cell_len(line) == 80


def test_the_bar_shows_what_is_acknowledged_and_what_is_out_on_the_line(scene: Scene) -> None:
    scene.tell(started(), progress(25, 50))
    bar = scene.lines()[0].split()[1]
    assert bar.count("━") == pytest.approx(len(bar) / 4, abs=1)
    assert bar.count("╍") == pytest.approx(len(bar) / 4, abs=1)
    assert bar == "".join(sorted(bar, key="━╍─".index))
    (line,) = scene.gauge.render(80, ascii_only=True)
    assert {*line.plain.split()[1]} == {"#", "=", "-"}


@pytest.mark.parametrize("name", ["e", "evidence.zip", "日本語の名前がとても長いファイル.bin", "x" * 300])
@pytest.mark.parametrize("several", [True, False])
def test_it_fits_in_any_width(scene: Scene, name: str, several: bool) -> None:
    if several:
        scene.file = name
        scene.tell(Listed(12345, 10**15))
    scene.tell(started(10**14, name=name), progress(0, 999, 10**14), progress(1, 10**5, 10**14))
    for width in range(10, 200):
        lines = scene.lines(width)
        assert len(lines) == 1 + several
        assert max(map(cell_len, lines)) <= width
        assert width < 20 or " %" in lines[0], width
        assert width < 30 or "─" in lines[0], width


def test_what_matters_less_goes_first_where_it_is_narrow(scene: Scene) -> None:
    scene.tell(started(), progress(0, 10), progress(10, 20), progress(20, 30))
    assert " of 100 MB" in scene.lines(80)[0]
    assert " of 100 MB" not in scene.lines(50)[0]
    assert "MB/s" in scene.lines(50)[0]
    assert "MB/s" not in scene.lines(36)[0]
    assert "30 %" in scene.lines(24)[0]


def test_while_it_waits_the_seconds_are_counted(scene: Scene) -> None:
    scene.tell(started(), progress(10, 20), retry(TransportFailed(), 4.0))
    assert "again in 4 s" in scene.lines()[0]
    scene.clock.now += 3
    assert "again in 1 s" in scene.lines()[0]
    scene.tell(progress(10, 12))
    assert "again" not in scene.lines()[0]


def test_when_all_is_out_the_server_has_to_write(scene: Scene) -> None:
    scene.tell(started(), progress(60, 100))
    assert "the server writes" in scene.lines()[0]
    scene.tell(progress(100, 100))
    assert "the server writes" not in scene.lines()[0]


def test_what_an_earlier_run_sent_says_nothing_of_the_rate(scene: Scene) -> None:
    scene.tell(started(sent=50 * MB), progress(50, 51), progress(50, 52))
    assert "1 MB/s" in scene.lines(120)[0]


def test_a_rate_falls_when_nothing_flows(scene: Scene) -> None:
    scene.tell(started(), progress(0, 10), progress(0, 20))
    assert "10 MB/s" in scene.lines()[0]
    scene.clock.now += 2
    assert "5 MB/s" in scene.lines()[0]


def test_a_line_for_all_counts_files_and_bytes(scene: Scene) -> None:
    scene.tell(Listed(4, 400 * MB), Skipped("a", 100 * MB))
    for name in ("b", "c"):
        scene.file = name
        scene.tell(started(name=name))
        if name == "b":
            scene.tell(progress(50, 100), events.Done(URL, 100 * MB, 1.0, 0))
    scene.tell(progress(10, 50))
    of_file, of_all = scene.lines()
    assert of_file.startswith("c ")
    assert "50 %" in of_file
    assert of_all.startswith("3 of 4 files ")
    assert "62 %" in of_all
    assert "250 of 400 MB" in of_all


def test_a_file_that_failed_is_over_too(scene: Scene) -> None:
    scene.file = "a"
    scene.tell(Listed(2, 200 * MB), started(), failed(AccessDenied()))
    scene.file = "b"
    scene.tell(started(), progress(100, 100), events.Done(URL, 100 * MB, 1.0, 0))
    assert "100 %" in scene.lines()[1]


def test_standard_input_and_replies_have_a_line_too(scene: Scene) -> None:
    scene.tell(Spooling(MB), Spooling(3 * MB))
    assert scene.lines() == ["standard input  3 MB  2 MB/s"]
    scene.tell(started(), events.Receiving(URL, 30, 60))
    assert scene.lines()[0].startswith("the reply ")
    assert "50 %" in scene.lines()[0]


def test_an_empty_file_has_a_name_and_nothing_else(scene: Scene) -> None:
    scene.tell(started(size=0))
    assert scene.lines() == ["evidence.zip"]


# The bar


@pytest.fixture
def terminal() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def bar(terminal: io.StringIO) -> Iterator[Bar]:
    console = Console(file=terminal, force_terminal=True, width=60, color_system=None, highlight=False)
    with Bar(console, terminal, Clock()) as bar:
        yield bar


def test_a_trouble_is_told_once_and_again_after_headway(bar: Bar, terminal: io.StringIO) -> None:
    trouble = retry(TransportFailed("the connection to host broke"))
    for event in (started(), progress(0, 1), trouble, trouble, progress(0, 2), trouble):
        bar.show(event)
    assert " ".join(terminal.getvalue().split()).count("the connection to host broke") == 2
    assert "ERROR_WINHTTP_CONNECTION_ERROR (0x80072EFE)" in terminal.getvalue()
    assert "again in 4 s" in terminal.getvalue()


def test_after_the_end_the_bar_stays_and_the_cursor_is_back(bar: Bar, terminal: io.StringIO) -> None:
    for event in (started(), events.Warned("mind this"), progress(100, 100)):
        bar.show(event)
    bar.show(events.Done(URL, 100 * MB, 2.0, 0))
    bar.leave()
    assert "warning: mind this\n" in terminal.getvalue()
    *_, end = terminal.getvalue().rpartition("100 %")
    assert f"stored as {URL} (100 MB in 2 s)\n" in end
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_names_and_servers_cannot_move_the_cursor(bar: Bar, terminal: io.StringIO) -> None:
    bar.show(started(name="a\x1b[2Jb.zip"))
    bar.show(retry(TransportFailed("said \x1b]0;x\x07")))
    bar.show(failed(TransportFailed("said \x1b[2J")))
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\x1b]0;" not in terminal.getvalue()


def test_a_name_with_a_line_break_makes_no_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(sys.stdout, sys.stderr)
    lines.file = "a\nb.zip"
    lines.show(started(1000, name="a\nb.zip"))
    lines.show(events.Progress(500, 500, 1000, 1000))
    lines.show(LeftOut("a\nb", "it is a pipe"))
    lines.show(failed(AccessDenied("no:smile:\nno")))
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert len(said.err.splitlines()) == 2


def test_sentences_break_between_words_and_what_may_be_copied_does_not(
    bar: Bar, terminal: io.StringIO
) -> None:
    url = "http://host/" + 20 * "long/"
    bar.show(retry(SessionNotFound(" ".join(30 * ["word"]))))
    bar.show(events.Done(url, 5, 1.0, 0))
    words = terminal.getvalue().split()
    assert words.count("word") + words.count("word;") == 30
    assert url in terminal.getvalue()


# Lines, JSON, nothing


def test_lines_come_every_ten_per_cent(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(sys.stdout, sys.stderr, clock)
    lines.show(events.Started("/tmp/a.bin", "http://host/a.bin", 1000_000, 0, True))
    for sent in range(0, 1000_001, 1000):
        clock.now = sent / 100_000
        lines.show(events.Progress(sent, sent, 1000_000, sent))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 9
    assert said[2] == "a.bin: 30 % (300 KB of 1 MB), 100 KB/s, 7 s left"


def test_an_error_is_a_name_a_number_a_sentence_and_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(sys.stdout, sys.stderr)
    lines.show(retry(SessionNotFound("the server no longer knows this upload; starting over (1 of 5)"), 0.0))
    lines.show(retry(TransportFailed("the connection to host broke"), 4.2))
    assert capsys.readouterr().out == (
        "BG_E_SESSION_NOT_FOUND (0x8020001F):"
        " the server no longer knows this upload; starting over (1 of 5)\n"
        "ERROR_WINHTTP_CONNECTION_ERROR (0x80072EFE):"
        " the connection to host broke; trying again in 4 s\n"
    )


def test_what_to_do_is_not_said_twice_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Quiet(sys.stdout, sys.stderr)
    for name, advice in (("a", "Do this."), ("b", "Do this."), ("c", "Do that."), ("d", "Do this.")):
        quiet.file = name
        quiet.show(failed(AccessDenied("no"), advice))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["a:", "Do", "b:", "c:", "Do", "d:", "Do"]


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (Summary(3, 0, 0, 0, 5 * MB, 2.0), "3 files stored (5 MB in 2 s)"),
        (
            Summary(1200, 1, 2, 3, 5 * MB, 2.0),
            "1,200 files stored (5 MB in 2 s); 1 file stored by an earlier run (--all sends them again);"
            " 2 files failed; 3 files left for later: run the same command again",
        ),
    ],
)
def test_a_summary_says_what_there_is_to_say(
    capsys: pytest.CaptureFixture[str], summary: Summary, said: str
) -> None:
    Lines(sys.stdout, sys.stderr).show(summary)
    assert capsys.readouterr().out == said + "\n"


def test_json_progress_does_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = JsonLines(sys.stdout, every=0.5, clock=clock)
    for sent in range(1000):
        clock.now = sent / 1000
        lines.show(events.Progress(sent, sent, 1000, 1000))
        lines.show(events.Receiving(URL, sent, 1000))
        lines.show(Spooling(sent))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_json_is_ascii_whatever_a_file_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines(sys.stdout).show(LeftOut("ü 日本 \udce9 \x1b", "it is a pipe"))
    said = capsys.readouterr().out
    assert said.isascii()
    assert json.loads(said)["file"] == "ü 日本 \udce9 \x1b"


class Broken(io.StringIO):
    """A pipe, or a terminal, whose other end is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("as_json", "quiet", "terminal"),
    [(True, False, "dumb"), (False, True, "dumb"), (False, False, "dumb"), (False, False, "xterm")],
)
def test_whoever_stops_listening_does_not_stop_the_send(
    monkeypatch: pytest.MonkeyPatch, as_json: bool, quiet: bool, terminal: str
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", Broken())
    with choose(as_json=as_json, quiet=quiet) as shown:
        for event in (started(), progress(0, 20), retry(TransportFailed()), progress(10, 20)):
            shown.show(event)
        shown.show(failed(TransportFailed()))
