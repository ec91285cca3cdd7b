"""Looks for a message of which the compiled decoder makes another row than Python: `make fuzz-decoder`, or
`python -m tests.fuzz.decoder --minutes 5`.

It goes through messages of both dialects, each changed in a few places: a byte, a field, an escape, a form of a number
or a time, the order, a field twice, an end too early. `LEAST_PLAIN` of them must be plain, or it would compare nothing.
With `--results` what it did goes into a file, for ops/PROOF.md; with `--sanitizer` the library is built for it, with
AddressSanitizer.
"""

import argparse
import json
import os
import platform
import random
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, tzinfo
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

from etl import __version__
from etl.wire import packed
from etl.wire.packed import GAINED, ROW, Packer, packer
from etl.wire.stamp import FOLDER, stamp
from tests.fuzz.mutations import Messages
from tests.packing import Rows, check_alone, packer_of, plain_rows

LEAST_PLAIN = 0.3
RESULTS = Path(__file__).parent / "decoder.json"
_AT_ONCE = 500  # messages: of so many CDRs the Python decoder's caches are of use
# Where the clocks of the dialler are, and before when no call is taken: in microseconds since 2000, here in July 2024.
_SETTINGS: tuple[tuple[tzinfo, int], ...] = ((UTC, 0), (UTC, 774_000_000_000_000), (ZoneInfo("Europe/Bucharest"), 0))
_MOST_SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--messages", type=int, help="end after so many, too")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--results", action="store_true", help="keep what it did in tests/fuzz/decoder.json")
    parser.add_argument(
        "--sanitizer", action="store_true", help="build the library with AddressSanitizer, and use that"
    )
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.sanitizer and not chosen.library:
        sys.exit(_sanitized(sys.argv[1:]))
    started, most = time.monotonic(), (chosen.messages or 2**62) // chosen.processes
    search = partial(_search, until=time.time() + chosen.minutes * 60, most=most, library=chosen.library)
    with ProcessPoolExecutor(chosen.processes) as pool:
        counts = sum(pool.map(search, range(chosen.seed, chosen.seed + chosen.processes)), Counter[str]())
    told = {
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "command": _command(chosen),
        "library": stamp(__version__),
        "seconds": round(time.monotonic() - started),
        **{name: counts[name] for name in ("messages", "cdrs", "plain", "different")},
    }
    print(json.dumps(told))
    if counts["different"]:
        sys.exit("these have other rows than Python's, or should have none")
    if counts["plain"] < LEAST_PLAIN * counts["messages"]:
        sys.exit(f"fewer than {LEAST_PLAIN:.0%} of the messages were plain")
    if chosen.results:
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")


def _command(chosen: argparse.Namespace) -> str:
    options = [f"--minutes {chosen.minutes:g}", f"--processes {chosen.processes}", f"--seed {chosen.seed}"]
    options += [f"--messages {chosen.messages}"] if chosen.messages else []
    options += ["--sanitizer"] if chosen.sanitizer else []
    return " ".join(["python -m tests.fuzz.decoder", *options])


def _search(seed: int, until: float, most: int, library: Path | None) -> "Counter[str]":
    if library:
        packed._PATH = library
        packed._buffer, packed._together = _buffer, _together
    found = packer("compiled")
    assert found
    stream, rows, counts = Messages(seed), Rows(), Counter[str]()
    while time.time() < until and counts["messages"] < most:
        zone, oldest = _SETTINGS[counts["messages"] // _AT_ONCE % len(_SETTINGS)]
        messages = [stream.next() for _ in range(_AT_ONCE)]
        counts += _compared(packer_of(found, oldest, zone), messages, zone, oldest, rows)
    return counts


def _buffer(size: int) -> bytearray:
    """Of this very size, so that the sanitizer sees its end."""
    return bytearray(size)


def _together(messages: Sequence[bytes]) -> tuple[memoryview, int]:
    """Likewise."""
    joined = bytearray(b"".join(messages)) or bytearray(1)
    return memoryview(joined), sum(map(len, messages))


def _compared(packer: Packer, messages: Sequence[bytes], zone: tzinfo, oldest: int, rows: Rows) -> "Counter[str]":
    cdrs = plain_rows(messages, oldest, zone)
    counts = Counter(messages=len(messages), cdrs=len(cdrs))
    alone = []
    for position, message in enumerate(messages):
        result = packer.pack([message])
        alone.append(bytes(result.rows))
        try:
            counts["plain"] += check_alone(result, cdrs.get(position), rows)
        except AssertionError as difference:
            counts["different"] += 1
            print(f"{message!r}: {difference}", file=sys.stderr)
    # What it is alone it is in company, too, unless that is joined with it.
    together = packer.pack(messages)
    joined = {into for into, became in zip(together.into, together.became, strict=True) if became == GAINED}
    for position, became in enumerate(together.became):
        start = together.ends[position - 1] if position else 0
        if (
            became == ROW
            and position not in joined
            and together.rows[start : together.ends[position]] != alone[position]
        ):
            counts["different"] += 1
            print(f"{messages[position]!r}: another row in a claim than alone", file=sys.stderr)
    return counts


def _sanitized(arguments: Sequence[str]) -> int:
    """This again, with a library that has AddressSanitizer in it, whose runtime must be there before Python's."""
    cargo, runtime = shutil.which("cargo"), _runtime()
    if not cargo or not runtime:
        print(
            f"no search with AddressSanitizer: {'there is no libasan' if cargo else 'cargo is missing'}",
            file=sys.stderr,
        )
        return 0
    hook = runpy.run_path(str(FOLDER / "hook.py"))
    with TemporaryDirectory(prefix="etl-decoder-") as folder:
        # What only a nightly compiler takes otherwise. With a target of its own, build scripts would stay as they are.
        flags = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": "-Zsanitizer=address"}
        try:
            library = hook["build"](cargo, Path(folder), __version__, **flags)
        except subprocess.CalledProcessError as error:
            print(f"no search with AddressSanitizer: this compiler can't: {error.stderr}", file=sys.stderr)
            return 0
        # detect_leaks: Python keeps much to its end. PYTHONMALLOC: it sees what malloc gives out, and no parts of that.
        more = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        again = [sys.executable, "-m", "tests.fuzz.decoder", *arguments, "--library", str(library)]
        return subprocess.run(again, env=os.environ | more, check=False).returncode


def _runtime() -> str | None:
    """The path of gcc's libasan; clang's has another name, and rustc has none that can be loaded first."""
    if not (gcc := shutil.which("gcc")):
        return None
    told = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return told if Path(told).is_absolute() else None


if __name__ == "__main__":
    main()
