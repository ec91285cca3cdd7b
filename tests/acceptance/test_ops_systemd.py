"""The systemd units and the crontab, as systemd itself and the program's own command line understand them."""

import re
import shlex
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from etl.settings import load
from tests.command_line import PROGRAM, in_shell, understood
from tests.tools import tool

OPS = Path(__file__).parents[2] / "ops"
UNITS = sorted((OPS / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
TIMERS = [unit for unit in UNITS if unit.suffix == ".timer"]
CRONTAB = OPS / "cron/etl.crontab"
# systemd 252's exposure in tenths. The units have 14, a service with nothing but a user of its own 84, and these units
# without the lines that restrict system calls, namespaces and addresses 44.
HARDENED = "20"
INSTANCE = "9465"
# What systemd puts for the specifiers that the units have.
SPECIFIERS = {"%%": "%", "%H": "host", "%i": INSTANCE}


class Unit(RawConfigParser):
    """One unit file; of options that may be repeated, only the last is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=["="], comment_prefixes=["#"])
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self.read_string(path.read_text())

    @property
    def command(self) -> str:
        return re.sub("%.", lambda found: SPECIFIERS[found[0]], self["Service"]["ExecStart"])


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """All units, instances in the place of templates, where the program they name exists: for systemd looks for it."""
    paths = []
    for unit in UNITS:
        path = tmp_path / unit.name.replace("@.", f"@{INSTANCE}.")
        path.write_text(unit.read_text().replace(PROGRAM, sys.executable))
        paths.append(str(path))
        if path.name != unit.name:
            (tmp_path / unit.name).write_text(path.read_text())
    return paths


def test_systemd_finds_nothing_wrong_with_units_and_timers(installed: list[str]) -> None:
    found = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *installed], capture_output=True, text=True, check=False
    )

    assert [line for line in found.stderr.splitlines() if "etl" in line] == []  # the host's own units may have faults
    assert found.returncode == 0


def test_every_service_is_hardened_as_systemd_measures_it(installed: list[str], tmp_path: Path) -> None:
    measure = [tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={HARDENED}", "--no-pager"]
    bare = tmp_path / "bare.service"
    bare.write_text(f"[Service]\nDynamicUser=yes\nExecStart={sys.executable}\n")

    services = [path for path in installed if path.endswith(".service")]
    assert len(services) == len(SERVICES)
    for path in services:
        found = subprocess.run([*measure, path], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout
    assert subprocess.run([*measure, str(bare)], capture_output=True, check=False).returncode == 1


def test_all_services_are_hardened_alike() -> None:
    block = re.compile(r"\n# It needs the network.*?(?=\n\n|\Z)", re.DOTALL)

    assert len({tuple(block.findall(unit.read_text().strip())) for unit in SERVICES}) == 1


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_runs_a_command_that_there_is(unit: Path) -> None:
    command = Unit(unit).command
    shell = re.fullmatch("/bin/sh -c '(.*)'", command)

    assert understood(in_shell(shell[1] if shell else command))


def test_every_timer_starts_a_service_and_is_enabled_by_name() -> None:
    for timer in TIMERS:
        assert timer.with_suffix(".service") in SERVICES
        assert Unit(timer)["Install"]["WantedBy"] == "timers.target"


def test_given_several_instances_then_they_differ_and_one_keeps_the_clock() -> None:
    unit = Unit(OPS / "systemd/etl@.service")

    assert f"ETL_WORKER_NAME=host-{INSTANCE} ETL_HTTP=127.0.0.1:{INSTANCE} " in unit.command
    options = understood(in_shell(unit.command))
    assert (options["follow"], options["listen"], options["schedule"]) == (True, False, False)
    options = understood(in_shell(Unit(OPS / "systemd/etl.service").command))
    assert (options["follow"], options["listen"], options["schedule"]) == (True, True, True)


def test_given_two_redis_servers_then_each_service_has_its_own_settings() -> None:
    unit = Unit(OPS / "systemd/etl-redis@.service")
    assert unit["Service"]["EnvironmentFile"] == "/etc/etl/%i.env"
    options = understood(in_shell(unit.command))
    assert (options["follow"], options["listen"], options["schedule"]) == (True, True, False)
    files = sorted((OPS / "two-servers").iterdir())
    assert [file.name for file in files] == ["click2dial.env", "dialler.env", "etl.env"]
    found = [load(None, environment(file.read_text())) for file in files]

    for each in ("server", "worker_name", "http", "redis_url"):
        assert len({getattr(settings, each) for settings in found}) == len(files), each
    keys = [source.key for settings in found for source in settings.sources]
    assert len(keys) == len(set(keys))
    assert len({settings.libpq_url for settings in found}) == 1
    assert {settings.server for settings in found} == {file.stem for file in files} - {"etl"} | {"integrator"}


def test_given_a_forget_key_then_every_loader_of_two_servers_has_it() -> None:
    for file in sorted((OPS / "two-servers").iterdir()):
        text = file.read_text().replace("# ETL_FORGET_KEY=secret\n", f"ETL_FORGET_KEY={'k' * 32}\n")
        assert load(None, environment(text)).forget_key, file.name


def environment(text: str) -> dict[str, str]:
    """As systemd reads it: quotes go."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines]
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def test_the_crontab_runs_commands_that_there_are() -> None:
    lines = [line for line in CRONTAB.read_text().splitlines() if line and not line.startswith("#")]
    jobs = [line for line in lines if re.match(r"[\d*]", line)]

    assert [line for line in lines if line not in jobs] == ["ETL_CONFIG=/etc/etl/etl.toml"]
    for job in jobs:
        *_, user, command = job.split(maxsplit=6)
        assert user == "etl"
        assert re.search(r"(?<!\\)%", command) is None  # to cron, a bare one is a new line
        assert understood(in_shell(command.replace("\\%", "%")))
    assert len(jobs) == 5


@pytest.mark.parametrize("line", [f"{PROGRAM} run --folow", f"{PROGRAM} prune", f"{PROGRAM} exprot | logger"])
def test_given_a_command_that_there_is_not_then_it_is_not_understood(line: str) -> None:
    with pytest.raises(Exception, match=r"No such (option|command)|Missing parameter"):
        understood(in_shell(line))
