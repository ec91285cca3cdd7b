"""hatchling's hook: where there is cargo, a wheel has the compiled decoder in it and is for this machine's kind only. A
checkout that is installed as it is, with `--editable`, has the library among its files. Without cargo, and wherever
building fails, the wheel is pure, and Python decodes.

No crate is needed and cargo is kept from asking: nothing here touches the network.
"""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent
_STAMP = runpy.run_path(str(FOLDER.parent / "stamp.py"))
# What hatchling calls building for `pip install --editable`.
_EDITABLE = "editable"


class Hook(BuildHookInterface[Any]):
    """Known to hatchling by the file's name in pyproject.toml."""

    _built: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux" or not (cargo := shutil.which("cargo")):
            return
        self._built = TemporaryDirectory(prefix="etl-decoder-")
        try:
            library = build(cargo, Path(self._built.name), self.metadata.version)
        except (OSError, subprocess.CalledProcessError) as error:
            says = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"the compiled decoder can't be built, and Python will decode:\n{says}")
            return
        if version == _EDITABLE:
            place(library)
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["force_include"][str(library)] = f"etl/wire/native/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._built:
            self._built.cleanup()


def build(cargo: str, target: Path, release: str, *options: str, **environment: str) -> Path:
    """The library, in the folder `target`. Raises `CalledProcessError` with what cargo says, or OSError."""
    command = [cargo, "build", "--release", "--offline", "--locked", "--quiet", *options]
    more = {"ETL_DECODER_STAMP": _STAMP["stamp"](release), "CARGO_TARGET_DIR": str(target), **environment}
    subprocess.run(command, cwd=FOLDER, env=os.environ | more, capture_output=True, text=True, check=True)  # noqa: S603
    (library,) = target.glob(f"**/release/{_STAMP['LIBRARY']}")
    return library


def place(library: Path) -> None:
    """Among the source's files, in one step: a process may have the one before open."""
    new = FOLDER / f".{library.name}.new"
    shutil.copy2(library, new)
    new.replace(FOLDER / library.name)
