"""`make hashes`: the pins of constraints.txt that an installation needs, each with the SHA-256 of its wheels, so that
pip takes these files and no others, wherever they come from. What is built from source has no such hash, and isn't
taken.

One file has what etl runs with, one what its image has beside that, one what its other extras need, and one what its
wheel is built with. The hashes are those that pip's index tells: whoever changes them reads in the diff whether a
version kept its number and changed its files.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
# Those that users install. `test` and `dev` are for a checkout, which pip can't install under hashes.
EXTRAS, IN_THE_IMAGE = ("embedded", "xlsx"), ("web", "report", "iceberg")
# Of the host, 2.x: Debian 12's. pip prefers the wheels of the newest that it has, and takes those of older ones.
GLIBC = 36
_OLD_NAMES = ("manylinux2014", "manylinux2010", "manylinux1")

_HEADER = """\
# {what}, with the hashes of the wheels that pip takes on Linux (glibc 2.36) on {machines}, with Python
# {first} to {last}: `pip install --require-hashes -r` takes no other file. Made from constraints.txt by `make hashes`.
"""


def main() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    program, extras = project["project"]["dependencies"], project["project"]["optional-dependencies"]
    of_extras, in_the_image = ([each for extra in some for each in extras[extra]] for some in (EXTRAS, IN_THE_IMAGE))
    write("requirements-hashed.txt", "What etl runs with", needed(program))
    write("requirements-web-hashed.txt", "What the image has beside it", needed(in_the_image) - needed(program))
    write("requirements-extras-hashed.txt", "What the extras need", needed(of_extras) - needed(program))
    write("requirements-build-hashed.txt", "What its wheel is built with", needed(project["build-system"]["requires"]))


def write(name: str, what: str, names: set[str]) -> None:
    pins = [f"{name}=={version}" for name, version in pinned(names)]
    hashes: dict[str, set[str]] = {pin: set() for pin in pins}
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda place: wheels(pins, *place), product(PYTHONS, MACHINES)):
            for pin, sha256 in found.items():
                hashes[pin].add(sha256)
    head = _HEADER.format(what=what, machines=" and ".join(MACHINES), first=PYTHONS[0], last=PYTHONS[-1])
    lines = [" \\\n".join([pin, *(f"    --hash=sha256:{each}" for each in sorted(hashes[pin]))]) for pin in pins]
    (TOP / "ops" / name).write_text(head + "\n".join(lines) + "\n")


def needed(requirements: Iterable[str]) -> set[str]:
    """The names of these and of all that they need, with any of the Pythons. What isn't installed here, because this
    Python doesn't need it, is taken to need nothing."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not any(map(requirement.marker.evaluate, environments(extra))):
            continue
        name = canonicalize_name(requirement.name)
        for each in {"", *requirement.extras}:
            if (name, each) in found:
                continue
            found.add((name, each))
            try:
                waiting += [(Requirement(text), each) for text in metadata.requires(name) or ()]
            except metadata.PackageNotFoundError:
                continue
    return {name for name, _ in found}


def environments(extra: str) -> list[dict[str, str]]:
    return [
        {
            "extra": extra,
            "python_version": python,
            "python_full_version": f"{python}.{patch}",
            "platform_machine": machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        for python, machine, patch in product(PYTHONS, MACHINES, (0, 99))
    ]


def pinned(names: set[str]) -> list[tuple[str, str]]:
    pins = re.findall("^([A-Za-z0-9._-]+)==(.+)$", (TOP / "constraints.txt").read_text(), re.MULTILINE)
    found = sorted((canonicalize_name(name), version) for name, version in pins)
    if missing := names - {name for name, _ in found}:
        sys.exit(f"constraints.txt lacks {', '.join(sorted(missing))}")
    return [(name, version) for name, version in found if name in names]


def wheels(pins: list[str], python: str, machine: str) -> dict[str, str]:
    """The SHA-256 of what pip would take there for each pin. It may have to download a wheel to look into it."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    platforms += [f"{name}_{machine}" for name in _OLD_NAMES] + [f"linux_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"),
                *("--no-deps", "--ignore-installed", "--only-binary=:all:", f"--target={folder}/none"),
                *(f"--platform={each}" for each in platforms),
                *("--implementation=cp", f"--python-version={python}", f"--report={report}", *pins),
            ],
            check=True,
        )
        found: dict[str, str] = {
            canonicalize_name(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
            for each in json.loads(report.read_text())["install"]
        }
    return {pin: found[pin.partition("==")[0]] for pin in pins}


if __name__ == "__main__":
    main()
