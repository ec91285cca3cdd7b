"""A Postgres that follows another one over a wire, which can be frozen and cut; and that becomes a primary when told.

What it lacks when it's promoted is what was committed while the wire was frozen: a fail-over to a standby that lags.
"""

from collections.abc import Mapping
from pathlib import Path

from etl.lab.proxy import Proxy
from etl.lab.servers.clients import PostgresRefused
from etl.lab.servers.clock import Clock
from etl.lab.servers.postgres import PrivatePostgres, give
from etl.lab.servers.process import wait_until

NAME = "standby"  # for the primary's synchronous_standby_names
PROMOTE_SECONDS = 60


class PrivateStandby(PrivatePostgres):
    """A hot standby of `primary`, which must run when it's first started; it has all that was committed by then.

    `wire` is between them: what it held up is lost if it's parted, and arrives if it's healed. `settings` are its own;
    it needs what a standby must not have less of than its primary, such as max_connections.
    """

    def __init__(
        self,
        folder: Path,
        primary: PrivatePostgres,
        settings: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(folder, settings, clock, primary.installation)
        self._primary = primary
        self.wire = Proxy(primary.socket)
        self.wire.__enter__()

    def is_even(self) -> bool:
        """Whether it has replayed all that the primary, which must run, has in its log."""
        (there,) = self._primary.ask("SELECT pg_current_wal_flush_lsn()")
        return self.ask(f"SELECT pg_last_wal_replay_lsn() >= '{there}'") == ["t"]

    def catch_up(self) -> None:
        """Return when it `is_even`, and streams. Raises `PostgresRefused` if it doesn't become so."""
        streams = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        if not wait_until(lambda: self._primary.ask(streams) == ["1"] and self.is_even(), PROMOTE_SECONDS):
            raise PostgresRefused(f"the standby doesn't follow its primary (log: {self.log})")

    def promote(self) -> None:
        """Cut the wire for good, and take writes from here on, in a new timeline. Returns when it does; when it's
        started again, it's a primary like others."""
        self.wire.__exit__()
        self.ask(f"SELECT pg_promote(true, {PROMOTE_SECONDS})")
        if self.ask("SELECT pg_is_in_recovery()") != ["f"]:
            raise PostgresRefused(f"the standby can't be promoted (log: {self.log})")

    def stop(self) -> None:
        """As for every server; the wire goes too, for good."""
        super().stop()
        self.wire.__exit__()

    def _boot(self) -> None:
        if not self.data.exists():
            copy = self._home / "copy"
            self._primary.back_up(copy)
            (copy / "standby.signal").touch()
            give(copy, self._owner)
            copy.rename(self.data)
        super()._boot()

    def _arguments(self) -> list[str]:
        if not (self.data / "standby.signal").exists():
            return super()._arguments()
        settings = {
            "primary_conninfo": f"host=127.0.0.1 port={self.wire.port} user=postgres application_name={NAME}",
            "wal_retrieve_retry_interval": "100ms",  # after a restart of the primary
            "wal_receiver_status_interval": "1s",
        }
        more = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return [*super()._arguments(), *more]
