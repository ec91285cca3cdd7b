"""A host as the documents want it, below one folder: what docs/install.md and docs/upgrade.md tell root to type is
typed there, line by line, against Debian's Redis and Postgres.

What is typed isn't what is run in these respects, and no others:

    /opt, /etc, /root, /var/…, /usr/local               the same below the host's folder
    dialler:8001, -h dialler -p 8001, @db/              127.0.0.1 and the private servers' ports
    the users etl, redis and postgres                   `nobody` if we are root, else who we are
    runuser                                             setpriv, with what psql needs to find that Postgres
    useradd, userdel                                    keep to the host's folder; nothing if we aren't root
    python3                                             the one of the tests
    pip                                                 asks no index, and is lent the tests' libraries
    systemctl                                           `Machine.systemctl`: it starts what the unit says as its user
    10.0.0.0/8, hostssl                                 127.0.0.1/32, host: there is no certificate

A line that none of this makes runnable fails.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from etl.lab.servers.ports import free_port
from etl.lab.servers.postgres import owner_of_servers
from etl.lab.servers.process import Owner, launch
from tests.tools import missing, tool

SECRET = "secret"  # what the documents put where a password of one's own belongs
LINE_SECONDS = 120
STOP_SECONDS = 60
NOT_RUNNING, UNKNOWN_UNIT = 3, 5  # systemctl's exit codes
PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
FOLDERS = (
    *("etc/redis", "etc/cron.d", "etc/systemd/system", "etc/postgresql/15/main", "usr/local/bin", "opt", "root"),
    *("var/lib/redis", "var/lib/postgresql", "var/backups", "run", "log", "shims"),
)
DEBIANS = ("postgresql.service", "redis-server.service")
MOVED = re.compile(r"(?<![\w/.@}])/(?=(opt|etc|root|var/lib|var/backups|usr/local)/)")
# As Debian's pg_hba.conf, but for the name of the account that may be the administrator.
HBA = """\
local all postgres peer map=host
local all all peer
host all all 127.0.0.1/32 scram-sha-256
"""


def libraries() -> list[str]:
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def postgres_bin() -> Path:
    """The folder of Debian's server and of its clients."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else missing("Debian's postgresql")


def user_command() -> list[str]:
    """What is put before a command so that an ordinary user runs it. If root's Python is in a home that is closed to
    others, this user may read everything, and still write nothing but what is theirs."""
    if not (owner := owner_of_servers()):
        return [tool("setpriv")]
    user = [tool("setpriv"), f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    python = [os.path.realpath(sys.executable), "-c", f"import sys; sys.path += {libraries()}; import redis, psycopg"]
    if subprocess.run([*user, *python], capture_output=True, cwd="/", check=False).returncode == 0:
        return user
    return [*user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@dataclass
class Unit:
    """A service at work: its process and what it writes."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> int:
        # Debian's Postgres is stopped fast, its sessions are ended; SIGTERM would wait for them.
        self.process.send_signal(signal.SIGINT if "postgres" in self.log.name else signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@dataclass
class Machine:
    """The host: its folder, its servers' ports, its services at work, and what root's shell has come to."""

    root: Path
    redis_port: int = field(default_factory=free_port)
    postgres_port: int = field(default_factory=free_port)
    owner: Owner | None = field(default_factory=owner_of_servers)
    units: dict[str, Unit] = field(default_factory=dict)
    enabled: set[str] = field(default_factory=set)
    user: Sequence[str] = field(default_factory=user_command)

    def boot(self) -> None:
        """A Debian with Redis and Postgres running, as their packages leave them, and nothing of ours."""
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True)
        self._accounts()
        self._shell()
        self._redis()
        self._postgres()
        for name in DEBIANS:
            self.start(name)

    def close(self) -> None:
        for unit in reversed(self.units.values()):
            if unit.process.poll() is None:
                unit.stop()

    def client(self, password: str | None = SECRET) -> "redis.Redis":
        """For the dialler, who has no password before the documents give one to everybody."""
        return redis.Redis(port=self.redis_port, password=password)

    def rows(self, query: str, database: str = "archive") -> list[tuple[object, ...]]:
        with psycopg.connect(self.administrator(database), autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def administrator(self, database: str) -> str:
        """For the test itself, which isn't on the way in that root's lines take."""
        return f"postgresql://postgres:{SECRET}@127.0.0.1:{self.postgres_port}/{database}"

    # What is typed

    def type(self, statement: str) -> str:
        """A line in root's shell, which keeps its variables and its folder from line to line; returns what it printed.
        Fails if its exit code isn't 0."""
        here = self.here(statement)
        if here.startswith("systemctl "):
            ended, output = self.systemctl(*shlex.split(here)[1:])
        else:
            ended, output = self._in_shell(here)
        assert ended == 0, f"{statement}\nended with exit code {ended}:\n{output}"
        self._lend_libraries()
        return output

    def type_sql(self, statement: str) -> str:
        """A line in an administrator's psql on the archive; a password that it asks for is the documents' one."""
        answers = f"{SECRET}\n{SECRET}\n" if statement.startswith("\\password") else ""
        psql = self.here("runuser -u postgres -- psql --no-psqlrc --set ON_ERROR_STOP=1 archive")
        ended, output = self._in_shell(psql, f"{statement}\n{answers}")
        assert ended == 0, f"{statement}\n{output}"
        return output

    def here(self, text: str) -> str:
        """The text with this host's names: see the head of this module."""
        text = MOVED.sub(f"{self.root}/", text)
        text = text.replace("-h dialler -p 8001", f"-p {self.redis_port}")
        text = text.replace("dialler:8001", f"127.0.0.1:{self.redis_port}")
        text = text.replace("@db/", f"@127.0.0.1:{self.postgres_port}/")
        text = text.replace("hostssl", "host").replace("10.0.0.0/8", "127.0.0.1/32")
        text = re.sub(r"--(owner|group) (\w+)", lambda found: f"--{found[1]} {self._id(found[1], found[2])}", text)
        text = re.sub(r"runuser -u (\w+) --", lambda found: self._as(found[1]), text)
        return re.sub(r"^python3 ", f"{os.path.realpath(sys.executable)} ", text)

    def _id(self, kind: str, name: str) -> int:
        """The number of a user or of a group; ours, if we aren't root and have no choice."""
        ours = Owner(os.geteuid(), os.getegid())
        account = ours if name == "root" else self.owner or ours
        return account.uid if kind == "owner" else account.gid

    def _as(self, name: str) -> str:
        more = f"PGUSER=postgres PGHOST={self.root}/run PGPORT={self.postgres_port}" if name == "postgres" else ""
        return f"{shlex.join(self.user)} env HOME=/nonexistent {more}"

    def _in_shell(self, statement: str, answers: str = "") -> tuple[int, str]:
        state, place = self.root / "shell.env", self.root / "shell.cwd"
        script = f'. {state}; cd "$(cat {place})"\n{statement}\nended=$?; export -p >{state}; pwd >{place}; exit $ended'
        done = subprocess.run(
            ["bash", "-c", script],
            input=answers,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            text=True,
            timeout=LINE_SECONDS,
            start_new_session=True,  # without a terminal, psql reads passwords from its input
            check=False,
        )
        return done.returncode, done.stdout

    def _lend_libraries(self) -> None:
        for package in self.root.glob("opt/*/lib/python*/site-packages/etl"):
            package.with_name("libraries.pth").write_text("\n".join(libraries()))

    # Services

    def systemctl(self, verb: str, *words: str) -> tuple[int, str]:
        """Exit code and answer. Services start what their unit says; timers are only known: nothing comes due."""
        if verb == "daemon-reload":
            return 0, ""
        now = "--now" in words
        for name in (word if "." in word else f"{word}.service" for word in words if word != "--now"):
            if name not in DEBIANS and not (self.root / "etc/systemd/system" / name).exists():
                return UNKNOWN_UNIT, f"Unit {name} could not be found."
            if verb in ("enable", "disable"):
                (self.enabled.add if verb == "enable" else self.enabled.discard)(name)
            if name.endswith(".timer"):
                continue
            if verb in ("stop", "restart") or (verb == "disable" and now):
                self.stop(name)
            if verb in ("start", "restart") or (verb == "enable" and now):
                self.start(name)
            if verb == "reload":
                self.units[name].process.send_signal(signal.SIGHUP)
            if verb == "status" and (name not in self.units or self.units[name].process.poll() is not None):
                return NOT_RUNNING, f"{name} isn't running"
        return 0, ""

    def start(self, name: str) -> None:
        log = self.root / "log" / name
        if name in DEBIANS:
            command, death = {
                "redis-server.service": ([tool("redis-server"), f"{self.root}/etc/redis/redis.conf"], signal.SIGKILL),
                "postgresql.service": (
                    [str(postgres_bin() / "postgres"), "-D", f"{self.root}/var/lib/postgresql"],
                    signal.SIGQUIT,
                ),
            }[name]
            self.units[name] = Unit(launch(command, log, death, self.owner), log)
            self._wait_for(name)
            return
        unit = RawConfigParser(strict=False, interpolation=None, delimiters=["="], comment_prefixes=["#"])
        unit.read(self.root / "etc/systemd/system" / name)
        service = unit["Service"]
        settings = dict(
            line.split("=", 1)
            for line in self.here(Path(self.here(service["EnvironmentFile"])).read_text()).splitlines()
        )
        assert service["User"] == "etl"
        folder = self.here(service["WorkingDirectory"].replace("%S", "/var/lib"))
        command = [*self.user, "--pdeathsig=KILL", *shlex.split(self.here(service["ExecStart"]))]
        settings["ETL_HTTP"] = "off"  # other tests have that port
        self.units[name] = Unit(launch(command, log, signal.SIGKILL, None, folder=folder, more=settings), log)

    def stop(self, name: str) -> None:
        if unit := self.units.pop(name, None):
            assert unit.stop() == 0, unit.log.read_text()

    def _wait_for(self, name: str) -> None:
        unit, deadline = self.units[name], time.monotonic() + STOP_SECONDS
        while not (self._redis_answers() if "redis" in name else self._postgres_answers()):
            assert unit.process.poll() is None, unit.log.read_text()
            assert time.monotonic() < deadline, unit.log.read_text()
            time.sleep(0.05)

    def _redis_answers(self) -> bool:
        with redis.Redis(port=self.redis_port) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except (redis.ConnectionError, redis.BusyLoadingError):
                return False

    def _postgres_answers(self) -> bool:
        try:
            psycopg.connect(self.administrator("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    # How it is before anything is typed

    def _accounts(self) -> None:
        """Files for useradd: the system's, and ids that no process has."""
        for file in ("passwd", "group"):
            shutil.copy(f"/etc/{file}", self.root / "etc" / file)
        (self.root / "etc/login.defs").write_text(
            "SYS_UID_MIN 60900\nSYS_UID_MAX 60999\nSYS_GID_MIN 60900\nSYS_GID_MAX 60999\n"
        )
        for program in ("useradd", "userdel"):
            does = f'exec {shutil.which(program)} --prefix {self.root} "$@"' if os.geteuid() == 0 else ":"
            shim = self.root / "shims" / program
            shim.write_text(f"#!/bin/sh\n{does}\n")
            shim.chmod(0o755)

    def _shell(self) -> None:
        path = f"{self.root}/shims:{self.root}/usr/local/bin:{postgres_bin()}:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "HOME": f"{self.root}/root", "LC_ALL": "C.UTF-8", **PIP}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        (self.root / "shell.env").write_text("".join(lines))
        (self.root / "shell.cwd").write_text(f"{self.root}/root")

    def _redis(self) -> None:
        debians = Path("/etc/redis/redis.conf")
        shipped = debians.read_text() if os.access(debians, os.R_OK) else ""
        ours = {"port": self.redis_port, "dir": self.root / "var/lib/redis", "daemonize": "no", "logfile": '""',
                "pidfile": self.root / "run/redis.pid"}  # fmt: skip
        theirs = re.sub(rf"^({'|'.join(ours)}) .*\n", "", shipped, flags=re.MULTILINE)
        conf = self.root / "etc/redis/redis.conf"
        conf.write_text(theirs + "".join(f"{name} {value}\n" for name, value in ours.items()))
        self._give("etc/redis", "etc/redis/redis.conf", "var/lib/redis", "run")

    def _postgres(self) -> None:
        data, configuration = self.root / "var/lib/postgresql", self.root / "etc/postgresql/15/main"
        password = self.root / "run/password"
        password.write_text(SECRET)
        self._give("var/lib/postgresql", "run/password")
        options = [
            "--username=postgres",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
        ]
        initdb = [str(postgres_bin() / "initdb"), "-D", str(data), "--no-sync", *options]
        log = self.root / "log/initdb"
        assert launch(initdb, log, signal.SIGKILL, self.owner).wait() == 0, log.read_text()
        (configuration / "pg_hba.conf").write_text(HBA)
        name = pwd.getpwuid(self.owner.uid if self.owner else os.geteuid()).pw_name
        (configuration / "pg_ident.conf").write_text(f"host {name} postgres\n")
        with (data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.postgres_port}\nfsync = off\n"
                f"unix_socket_directories = '{self.root}/run'\n"
                f"hba_file = '{configuration}/pg_hba.conf'\nident_file = '{configuration}/pg_ident.conf'\n"
            )

    def _give(self, *paths: str) -> None:
        if self.owner:
            for path in paths:
                os.chown(self.root / path, *self.owner)


@contextmanager
def running(wheel: Path) -> Iterator[Machine]:
    """A host with Debian's servers, and the wheel in root's folder; everything that was started there ends."""
    postgres_bin(), tool("redis-server"), tool("redis-cli")
    with tempfile.TemporaryDirectory(prefix="host-", ignore_cleanup_errors=True) as name:
        root = Path(name).resolve()
        root.chmod(0o755)
        machine = Machine(root)
        try:
            machine.boot()
            shutil.copy(wheel, root / "root")
            yield machine
        finally:
            machine.close()
