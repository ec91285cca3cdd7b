"""Looks for a message that breaks `etl.wire`: `python -m tests.fuzz.wire --minutes 5`, or `make fuzz`.

atheris leads the search by the branches that an input reaches. It begins with the messages of docs/protocol.md and with
the stored corpus; an input that breaks a property is written to a file, and its name printed. With `--keep` what it
found on its way is added to the stored corpus: the smallest input for each set of branches.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["etl.wire"]):
    from tests.fuzz.properties import check
from tests.fuzz.corpus import STORED, dialler, protocol

LARGEST = 2_000  # bytes: the messages of docs/protocol.md have some hundreds
# The forms of docs/protocol.md's "Numbers as text", and what only looks like one.
_NUMBERS = ('"16"', '" 16 "', '"+16"', '"0016"', "16.0", '"16.0"', "1e1", '""', "16.5", '"1e1"', "1e400", "1e-1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--keep", action="store_true", help="add what is new to the stored corpus")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found, seeds = Path(folder, "found"), Path(folder, "seeds")
        found.mkdir()
        seeds.mkdir()
        for number, raw in enumerate((*protocol(), *dialler())):
            (seeds / str(number)).write_bytes(raw)
        search = [str(found), str(seeds), str(STORED), f"-max_total_time={chosen.minutes * 60:.0f}"]
        code = _libfuzzer(*search, f"-dict={_words(Path(folder))}", "-print_final_stats=1", "-verbosity=0")
        if code == 0 and chosen.keep:
            # libFuzzer names a file by its content, so that nothing is there twice.
            code = _libfuzzer("-merge=1", str(STORED), str(seeds), str(found), "-verbosity=0")
    sys.exit(code)


def _libfuzzer(*arguments: str) -> int:
    """It ends the process it runs in, so it gets one."""
    program = [sys.executable, "-m", "tests.fuzz.wire", "--libfuzzer"]
    return subprocess.run([*program, *arguments, f"-max_len={LARGEST}"], check=False).returncode


def _words(folder: Path) -> Path:
    """The names and values of the protocol, which nobody would find by flipping bits."""
    words = {json.dumps(word) for raw in protocol() for word in _strings(raw)} | {*_NUMBERS}
    dictionary = folder / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in sorted(words)))
    return dictionary


def _strings(raw: bytes) -> set[str]:
    try:
        message = json.loads(raw)
        return {*message["payload"], message["type"] or ""}
    except (ValueError, LookupError, TypeError):
        return set()


def _escaped(word: str) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--libfuzzer"]:
        # To merge, it starts itself again by the first of these, through a shell.
        atheris.Setup([f"{sys.executable} -m tests.fuzz.wire --libfuzzer", *sys.argv[2:]], check)
        atheris.Fuzz()
    main()
