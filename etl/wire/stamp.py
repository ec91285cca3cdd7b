"""Which source the compiled decoder was built from. The build hook, etl/wire/native/hook.py, loads this file by its
path, so it imports nothing of ours."""

import hashlib
from pathlib import Path

# Where its source is, in Rust, and the library too, where it was built.
FOLDER = Path(__file__).parent / "native"
LIBRARY = "libplain_cdrs.so"


def stamp(release: str) -> str:
    """Of the source in `FOLDER`, as part of that release. It's compiled in: a library with another one isn't
    called. Raises OSError if the source can't be read."""
    digest = hashlib.sha256()
    for file in (FOLDER / "Cargo.toml", FOLDER / "Cargo.lock", *sorted((FOLDER / "src").glob("*.rs"))):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return f"{release}+{digest.hexdigest()[:32]}"
