"""The wheel, installed where there is nothing else of ours: outside the checkout, used from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import etl
from etl.lab.servers.private import PrivateRedis

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=CHECKOUT)
    (built,) = folder.iterdir()
    return built


@dataclass(frozen=True)
class Installed:
    """A virtual environment that has the wheel, and the libraries of ours by a path; used from the folder `empty`."""

    venv: Path
    empty: Path

    def run(self, program: str, *arguments: str, **environment: str) -> str:
        return run(str(self.venv / "bin" / program), *arguments, cwd=self.empty, **environment)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    venv, empty = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=empty)
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel), cwd=empty)
    # The folders are added as they are: the .pth files in them, that of an editable install among them, aren't read.
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return Installed(venv, empty)


def run(*command: str, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "PYTHON", "PIP_"))}
    result = subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_migrations_and_scripts_and_no_workshop(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    ours = [path for suffix in ("py", "lua", "css", "typed") for path in (CHECKOUT / "etl").rglob(f"*.{suffix}")]
    migrations = list((CHECKOUT / "migrations").rglob("*.py"))
    assert len([path for path in ours if path.suffix == ".lua"]) >= 5
    assert {str(path.relative_to(CHECKOUT)) for path in ours} <= names
    assert {f"etl/{path.relative_to(CHECKOUT)}" for path in migrations} <= names
    assert {name.split("/")[0] for name in names} == {"etl", f"enigma_etl-{etl.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_what_runs_is_the_wheel(installed: Installed) -> None:
    assert installed.run("etl", "--version") == f"etl {etl.__version__}\n"
    where = installed.run("python", "-c", "import etl, etl.inbox.claims as c; print(etl.__file__); print(c.__file__)")

    assert [Path(line).is_relative_to(installed.venv) for line in where.splitlines()] == [True, True]
    path = installed.run("python", "-c", "import sys; print('\\n'.join(sys.path))").splitlines()
    assert str(CHECKOUT) not in path


@pytest.mark.timeout(300)  # three programs from a cold start, on whatever machine
def test_the_installed_program_makes_its_schema_and_loads(
    installed: Installed, redis_server: PrivateRedis, redis_client: object, empty_database_url: str
) -> None:
    stores = {"ETL_REDIS_URL": redis_server.url, "ETL_DATABASE_URL": empty_database_url}

    assert "upgraded" in installed.run("etl", "db", "upgrade", **stores)
    pushed = json.loads(installed.run("etl", "simulate", "--cdrs", "500", "--json", **stores))
    books = json.loads(installed.run("etl", "run", "--json", **stores))

    assert books["total"]["inserted"] == 500
    assert books["total"]["claimed"] == pushed["messages"]
    assert list(installed.empty.iterdir()) == []
