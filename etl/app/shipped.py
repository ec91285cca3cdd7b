"""The files that an installation needs beside the program: roles, ACL, units, cron lines, compose and pinned versions.

They travel inside the wheel as `etl/files`, laid out as in a checkout; there they lie beside the package.
"""

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from etl.errors import ConfigurationError, EtlError

# As in a checkout. pyproject.toml has the same list for the wheel; a test compares them.
SHIPPED = (
    "constraints.txt",
    "docker-compose.yml",
    "ops/cron",
    "ops/grafana",
    "ops/kubernetes",
    "ops/postgres",
    "ops/prometheus",
    "ops/redis",
    "ops/requirements-extras-hashed.txt",
    "ops/requirements-hashed.txt",
    "ops/requirements-web-hashed.txt",
    "ops/systemd",
    "ops/two-servers",
)
# For everybody to read: none has a password, and the servers' own users read some of them.
FILE_MODE, FOLDER_MODE = 0o644, 0o755


def write(folder: Path) -> list[Path]:
    """Writes them to `folder`, which it makes, and returns their paths below it.

    Raises `ConfigurationError` if there is something already, since that may have been edited, and `EtlError` if it
    can't be written.
    """
    try:
        folder.mkdir(parents=True)
        written = []
        for source, path in _all():
            _write(folder, path, source.read_bytes())
            written.append(path)
    except FileExistsError:
        raise ConfigurationError(
            "ETL-003", f"{folder} exists already: name a new folder, and compare the two"
        ) from None
    except OSError as error:
        raise EtlError("ETL-004", f"can't write the files: {error}") from None
    folder.chmod(FOLDER_MODE)
    return written


def _write(folder: Path, path: Path, content: bytes) -> None:
    for parent in reversed(path.parents[:-1]):
        if not (folder / parent).exists():
            (folder / parent).mkdir()
            (folder / parent).chmod(FOLDER_MODE)
    target = folder / path
    target.write_bytes(content)
    os.chmod(target, FILE_MODE)


def _all() -> Iterator[tuple[Path, Path]]:
    """Where each is, and what it's called."""
    root = _root()
    for shipped in SHIPPED:
        place = root / shipped
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                yield path, path.relative_to(root)


def _root() -> Path:
    package = Path(str(files("etl")))
    return package / "files" if (package / "files").is_dir() else package.parent
