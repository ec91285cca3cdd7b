"""The wheel, installed where there is nothing else of ours: outside the checkout, used from an empty folder."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import etl
from etl.app import shipped
from etl.cli import registered
from etl.errors import ConfigurationError
from etl.lab.servers.private import PrivateRedis

CHECKOUT = Path(__file__).parents[2]
runner = CliRunner()


@dataclass(frozen=True)
class Installed:
    """A virtual environment that has the wheel, and the libraries of ours by a path; used from the folder `empty`."""

    venv: Path
    empty: Path

    def run(self, program: str, *arguments: str, **environment: str) -> str:
        return run(str(self.venv / "bin" / program), *arguments, cwd=self.empty, **environment)


@pytest.fixture(scope="module")
def installed(wheel_of_etl: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    venv, empty = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=empty)
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel_of_etl), cwd=empty)
    # The folders are added as they are: the .pth files in them, that of an editable install among them, aren't read.
    (site,) = (venv / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    return Installed(venv, empty)


def run(*command: str, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "PYTHON", "PIP_"))}
    result = subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_migrations_and_scripts_and_no_workshop(wheel_of_etl: Path) -> None:
    with zipfile.ZipFile(wheel_of_etl) as archive:
        names = set(archive.namelist())

    ours = [
        path
        for suffix in ("py", "lua", "css", "js", "html", "typed")
        for path in (CHECKOUT / "etl").rglob(f"*.{suffix}")
    ]
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


@pytest.mark.skipif(not shutil.which("cargo"), reason="cargo is missing")
def test_given_cargo_then_the_wheel_decodes_with_the_compiled_one(wheel_of_etl: Path, installed: Installed) -> None:
    assert re.fullmatch(r"enigma_etl-.+-py3-none-linux_\w+\.whl", wheel_of_etl.name)
    assert installed.run("python", "-c", "from etl.wire.packed import why_none; print(why_none())") == "None\n"


@pytest.mark.parametrize("cargo", [None, "echo it is broken >&2; exit 1"], ids=["no cargo", "a cargo that fails"])
def test_given_no_cargo_that_works_then_the_wheel_is_pure(tmp_path: Path, cargo: str | None) -> None:
    tools, dist = tmp_path / "bin", tmp_path / "dist"
    tools.mkdir()
    if cargo:
        (tools / "cargo").write_text(f"#!/bin/sh\n{cargo}\n")
        (tools / "cargo").chmod(0o755)

    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(dist))
    run(*build, cwd=CHECKOUT, PATH=str(tools))

    (built,) = dist.iterdir()
    assert built.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert "etl/wire/native/src/lib.rs" in names
    assert [name for name in names if name.endswith((".so", ".new")) or "/target/" in name] == []


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


def test_etl_files_of_the_wheel_writes_what_the_documents_name(installed: Installed) -> None:
    written = installed.run("etl", "files", "given").splitlines()
    folder = installed.empty / "given"

    of_the_checkout = [CHECKOUT / path for path in shipped.SHIPPED]
    expected = [
        each.relative_to(CHECKOUT)
        for path in of_the_checkout
        for each in ([path] if path.is_file() else path.rglob("*"))
        if each.is_file()
    ]
    assert sorted(written) == sorted(f"given/{path}" for path in expected)
    for path in expected:
        assert (folder / path).read_bytes() == (CHECKOUT / path).read_bytes()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {shipped.FILE_MODE}


def test_pyproject_and_etl_files_have_one_list() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert {path: to for path, to in included.items() if path != "migrations"} == {
        path: f"etl/files/{path}" for path in shipped.SHIPPED
    }


def test_etl_files_of_a_checkout_writes_them_and_never_twice(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "given"
    result = runner.invoke(registered(), ["files", str(folder), "--json"])
    answer = json.loads(result.output)

    assert answer["folder"] == str(folder)
    assert {path.split("/")[0] for path in answer["files"]} == {path.split("/")[0] for path in shipped.SHIPPED}
    (folder / "constraints.txt").write_text("edited")
    with pytest.raises(ConfigurationError, match="exists already"):
        shipped.write(folder)
    assert (folder / "constraints.txt").read_text() == "edited"


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_etl_files_writes_each_file_that_a_document_says_is_among_them(page: Path) -> None:
    for path in re.findall(r"etl-files/([\w./@*-]*\w)", page.read_text()):
        assert path.startswith(shipped.SHIPPED), path
        assert any(CHECKOUT.glob(path)), path
