"""Programs that come from Debian and not from pip. `.ci/run` installs them; elsewhere, tests that need them skip."""

import os
import shutil
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest


def tool(name: str) -> str:
    """The program's path. Skips the test where it's missing, but fails it where nothing may be."""
    return shutil.which(name) or missing(name)


def missing(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing: .ci/run should have installed it")
    pytest.skip(f"{name} isn't installed")


def extra(name: str) -> list[str]:
    """The packages that an extra of pyproject.toml is made of."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    packages: list[str] = project["optional-dependencies"][name]
    return packages
