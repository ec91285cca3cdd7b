"""Programs that come from Debian and not from pip. `.ci/run` installs them; elsewhere, tests that need them skip."""

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The program's path. Skips the test where it's missing, but fails it where nothing may be."""
    if path := shutil.which(name):
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing: .ci/run should have installed it")
    pytest.skip(f"{name} isn't installed")
