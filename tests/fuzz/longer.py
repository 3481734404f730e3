"""`make fuzz`: every target for as long as one likes, by atheris where it is installed, else by hypothesis.

    python -m fuzz.longer [--seconds N] [TARGET...]     from the folder `tests`
    python -m fuzz.longer TARGET --input FILE           once more what was found

What is found lies in `.fuzz/TARGET/` at the top of the project; what is worth keeping goes from there to
`tests/fuzz/corpus/TARGET/`, where the normal tests feed it again.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from store import disks

FOUND = Path(__file__).parents[2] / ".fuzz"
SECONDS_EACH = 10  # of processor time for one input
MEMORY = 2048  # MiB a target's process may have; the shared libraries and the fuzzer's own count
LONGEST = 32 * 1024  # bytes of an input


def by_atheris(name: str, seconds: int) -> int:
    """Never returns but by the end of the process, as libFuzzer has it."""
    import atheris

    with atheris.instrument_imports(include=["bitsferry"]):
        from .targets import TARGETS
    (target,) = (each for each in TARGETS if each.name == name)
    folder = FOUND / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    for path in target.found:
        (corpus / path.name).write_bytes(path.read_bytes())
    words = folder / "words"
    words.write_text("".join(f'"{spelt(word)}"\n' for word in target.words if word))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_EACH}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        *([f"-dict={words}"] if target.words else []),
    ]
    with target.ready() as feed:
        atheris.Setup([sys.argv[0], *options, str(corpus)], feed)
        atheris.Fuzz()
    return 0


def spelt(word: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def by_hypothesis(name: str, seconds: int) -> int:
    """Rounds of examples, each from another seed."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from .mutating import mutated
    from .target import within
    from .targets import TARGETS

    (target,) = (each for each in TARGETS if each.name == name)
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    last = b""
    fed = 0
    with target.ready() as feed:

        @settings(
            max_examples=500,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(target.seeds, target.words))
        def feeding(data: bytes) -> None:
            nonlocal last, fed
            last, fed = data, fed + 1
            with within(SECONDS_EACH):
                feed(data)

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                seed(time.time_ns())(feeding)()
            except BaseException:
                (folder / "crash-hypothesis").write_bytes(last)
                raise
    print(f"{name}: {fed} inputs, by hypothesis")
    return 0


def once_more(name: str, path: Path) -> int:
    from .target import within
    from .targets import TARGETS

    (target,) = (each for each in TARGETS if each.name == name)
    with target.ready() as feed, within(SECONDS_EACH):
        feed(path.read_bytes())
    print(f"{name}: {path} is understood, or refused as it should be")
    return 0


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="*", help="only this one; may be repeated")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--input", type=Path, help="feed this file once, instead")
    parser.add_argument("--alone", choices=("atheris", "hypothesis"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    if chosen.input is not None:
        return once_more(chosen.target[0], chosen.input)
    if chosen.alone is not None:
        disks.MEMORY = Path(tempfile.gettempdir())
        by = by_atheris if chosen.alone == "atheris" else by_hypothesis
        return by(chosen.target[0], chosen.seconds)
    from .targets import TARGETS

    names = [target.name for target in TARGETS]
    if unknown := set(chosen.target) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    by_whom = "atheris" if find_spec("atheris") else "hypothesis"
    failed = [name for name in chosen.target or names if not is_clean(name, by_whom, chosen.seconds)]
    if failed:
        print(f"found in {', '.join(failed)}: see {FOUND}")
    return 1 if failed else 0


def is_clean(name: str, by_whom: str, seconds: int) -> bool:
    """Whether a process of its own that fuzzes this target ends well; what it says is shown if not."""
    command = [sys.executable, "-m", "fuzz.longer", name, "--alone", by_whom, "--seconds", str(seconds)]
    with disks.folder_in_memory() as folder:  # libFuzzer ends without a word, and leaves what it made
        environment = os.environ | {"TMPDIR": str(folder)}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=environment
        )
    said = (done.stdout + done.stderr).splitlines()
    if done.returncode:
        print("\n".join(said[-60:]))
        print(f"{name}: FOUND something (exit code {done.returncode})", flush=True)
    else:
        runs = [line.split()[-1] for line in said if "number_of_executed_units" in line]
        print(f"{name}: {runs[0]} inputs, by atheris" if runs else said[-1], flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
