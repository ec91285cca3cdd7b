"""What etl is made of can't be exchanged on the way: the hashes are there, and pip takes no other file."""

import base64
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
FOR_A_CHECKOUT = {"test", "dev"}
IN_THE_IMAGE = {"web", "report", "iceberg"}
FILES = {
    "requirements-hashed.txt": PROJECT["project"]["dependencies"],
    "requirements-web-hashed.txt": [each for name in sorted(IN_THE_IMAGE) for each in EXTRAS[name]],
    "requirements-extras-hashed.txt": [
        each for name in sorted(EXTRAS.keys() - FOR_A_CHECKOUT - IN_THE_IMAGE) for each in EXTRAS[name]
    ],
    "requirements-build-hashed.txt": PROJECT["build-system"]["requires"],
}
# By what anything but a name, a version and a hash would be told apart.
_PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][a-z0-9.]*)(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def constrained() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def hashed(file: str) -> dict[str, tuple[str, set[str]]]:
    """Version and hashes, by name."""
    pins = re.sub("^#.*\n", "", (ROOT / "ops" / file).read_text(), flags=re.MULTILINE)
    return {
        pin["name"]: (pin["version"], set(re.findall("[0-9a-f]{64}", pin["hashes"]))) for pin in _PIN.finditer(pins)
    }


def needed(requirements: Iterable[str], extra: str = "") -> set[str]:
    """By the Python that runs this."""
    found: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found.add(canonicalize_name(requirement.name))
            for each in ("", *requirement.extras):
                found |= needed(metadata.requires(requirement.name) or (), each)
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_pin_of_what_is_needed_has_its_version_and_hashes(file: str) -> None:
    found, constraints = hashed(file), constrained()
    beside = hashed("requirements-hashed.txt").keys() if "extras" in file or "web" in file else set[str]()

    assert needed(FILES[file]) <= found.keys() | beside, "after a change of constraints.txt: make hashes"
    assert found.keys().isdisjoint(beside)
    assert {name: version for name, (version, _) in found.items()} == {name: constraints[name] for name in found}
    assert all(hashes for _, hashes in found.values())


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_hashes_has_pins_only_and_says_of_no_place(file: str) -> None:
    text = (ROOT / "ops" / file).read_text()
    rest = _PIN.sub("", text)

    assert [line for line in rest.splitlines() if not line.startswith("# ")] == []
    assert not re.search(r"://|\bwww\.|\.(org|com|net|io)\b|index|@", text)


def test_constraints_have_no_hashes_under_which_no_checkout_installs() -> None:
    assert "--hash" not in (ROOT / "constraints.txt").read_text()


def test_the_image_takes_nothing_from_an_index_but_by_hash() -> None:
    text = (ROOT / "ops/Dockerfile").read_text().replace("\\\n", "")
    installs = re.findall(r"pip install ([^&\n]*)", text)

    assert len(installs) == 3
    assert all("--require-hashes" in options or "--no-index" in options for options in installs)
    assert all("--no-deps" in options for options in installs)
    assert re.findall(r"--requirement ops/(\S+)", text) == [name for name in FILES if "extras" not in name]


def test_given_a_forged_wheel_of_a_pinned_version_then_pip_refuses_it(tmp_path: Path) -> None:
    """Of the right name and version, in a place that pip trusts: without hashes it would be installed."""
    version, hashes = hashed("requirements-hashed.txt")["mdurl"]
    wheel = forged(tmp_path, "mdurl", version)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() not in hashes
    pin = next(
        pin for pin in _PIN.finditer((ROOT / "ops/requirements-hashed.txt").read_text()) if pin["name"] == "mdurl"
    )
    (tmp_path / "pin.txt").write_text(pin.group())

    refused = pip(tmp_path, "--require-hashes", "--requirement", str(tmp_path / "pin.txt"))
    taken = pip(tmp_path, "--constraint", str(ROOT / "constraints.txt"), "mdurl")

    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert taken.returncode == 0, taken.stderr


def forged(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "raise SystemExit('forged')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for file, text in files.items()
    ]
    with ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def pip(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "pip", "--isolated", "install", "--disable-pip-version-check", "--no-cache-dir")
    options = ("--no-deps", "--no-index", f"--find-links={folder}", f"--target={folder / 'into'}")
    return subprocess.run([*command, *options, *arguments], capture_output=True, text=True, timeout=200, check=False)
